"""``waivers.yaml``: the failures that someone answers for, each until a day."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator

from bi_harness.errors import SpecError
from bi_harness.spec.errors import block
from bi_harness.spec.load import load_file
from bi_harness.spec.types import Day, SpecModel, Text
from bi_harness.spec.yamlsource import YamlSource

ENV_WAIVERS = "BI_HARNESS_WAIVERS"

WAIVERS = "waivers.yaml"
"""Its name beside ``models.yaml``, where it is looked for when none is given."""


def _words(value: str) -> str:
    if not value.strip():
        raise ValueError("must not be blank")
    return value


def _url(value: str) -> str:
    try:
        parts = urlsplit(value)
        # .port raises for one that is no number.
        sound = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        sound = False
    if not sound or not value.isprintable() or any(letter in value for letter in ' "<>\\^`{|}'):
        raise ValueError("not a URL; write one like https://github.com/vllm-project/vllm/issues/1")
    if "@" in parts.netloc:
        raise ValueError("must hold neither a name nor a password: it is shown in every report")
    return value


def _form(value: object) -> object:
    if type(value) is not int or value != 1:
        raise ValueError("must be 1, the form of the file that this bi-harness reads")
    return value


Words = Annotated[Text, AfterValidator(_words)]


class WaiverSpec(SpecModel):
    """One waiver.

    Attributes:
        cell: pattern of cells' ids: ``*`` stands for any letters (``/`` too), ``?`` for one, ``[ab]`` for one
            of these; upper and lower case are told apart.
        check: one check's id.
        reason: why the failure is let be.
        link: where it is worked on (http or https).
        owner: who answers for it.
        expires: the last day on which it holds (``2026-12-31``, to its end in UTC).
    """

    cell: Words
    check: Words
    reason: Words
    link: Annotated[Text, AfterValidator(_url)]
    owner: Words
    expires: Day


class WaiversFile(SpecModel):
    """The whole file. ``version`` is of its form."""

    version: Annotated[int, BeforeValidator(_form)]
    waivers: tuple[WaiverSpec, ...]


@dataclass(frozen=True, slots=True)
class Waivers:
    """A file that was read.

    Attributes:
        entries: in the file's order; no cell and check twice.
        source: where each of them stands, and the file's digest.
        path: the file.
    """

    entries: tuple[WaiverSpec, ...]
    source: YamlSource
    path: Path

    def problem(self, index: int, key: str, what: str) -> str:
        """``waivers.yaml:4: waivers.0.check: what``."""
        return block(self.source, ("waivers", index, key), what)


def waivers_path(
    given: str | os.PathLike[str] | None, models: Path, *, environ: Mapping[str, str] | None = None
) -> Path | None:
    """The file: what is given, else the environment's, else ``waivers.yaml`` beside ``models.yaml``.

    Returns:
        A file that is given is returned whether it is there or not: whoever names one means it. ``None``
        where none is given and none is there. An empty variable counts as unset.
    """
    env = os.environ if environ is None else environ
    if named := given or env.get(ENV_WAIVERS):
        return Path(named)
    beside = models.parent / WAIVERS
    # A link that leads nowhere, or a folder of that name, is not "no waivers": reading it says what is wrong.
    return beside if os.path.lexists(beside) else None


def load_waivers(path: Path) -> Waivers:
    """Read and check the file. Whether its patterns name anything is ``bi_harness.matrix.waivers``' to say.

    Raises:
        SpecError: something is wrong; the message has one line for each problem, with file and line.
    """
    file, source = load_file(path, WaiversFile)
    found = Waivers(file.waivers, source, path)
    first: dict[tuple[str, str], int] = {}
    wrong = []
    for index, entry in enumerate(found.entries):
        earlier = first.setdefault((entry.cell, entry.check), index)
        if earlier != index:
            line = source.value_at(("waivers", earlier)).line
            wrong.append(
                found.problem(
                    index, "cell", f"this cell and check are waived already, at {source.name}:{line}"
                )
            )
    if wrong:
        raise SpecError("\n".join(wrong))
    return found
