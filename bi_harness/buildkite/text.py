"""Texts that Buildkite takes as they are: keys, interpolation, shell commands.

``buildkite-agent pipeline upload`` replaces ``$NAME`` and ``${NAME}`` in every text of a pipeline by the
uploading job's variables, before the shell of the step sees it. Source: Buildkite's documentation
("Environment variable substitution") and the grammar in github.com/buildkite/interpolate: ``$$`` and ``\\$``
stand for one dollar sign, two backslashes for two backslashes.
"""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import Sequence

_KEY = re.compile(r"[A-Za-z0-9_-]{1,80}")
_NOT_KEY = re.compile(r"[^A-Za-z0-9_-]+")


def key(*parts: str) -> str:
    """A step's key: letters, digits, ``_`` and ``-``. A part that had to be changed ends in a digest, so that
    no two devices share one."""
    return "-".join(("bi-harness", *map(_part, parts)))


def _part(text: str) -> str:
    if _KEY.fullmatch(text):
        return text
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{_NOT_KEY.sub('-', text)[:60].strip('-')}-{digest}".lstrip("-")


def verbatim(text: str) -> str:
    """Text that stays as it is when the pipeline is uploaded.

    Raises:
        ValueError: it has a dollar sign behind a backslash, for which Buildkite has no spelling.
    """
    if "\\$" in text:
        raise ValueError(f"a dollar sign behind a backslash cannot be written in a pipeline: {text[:200]!r}")
    return text.replace("$", "$$")


def quoted(word: str) -> str:
    """One word for the shell, which ``verbatim`` can take."""
    # Between the two, the quotes are closed and opened again: the shell joins them, Buildkite sees no pair.
    return shlex.quote(word).replace("\\$", "\\''$")


def command(argv: Sequence[str]) -> str:
    """A command line of a step, whatever its arguments hold."""
    return verbatim(" ".join(map(quoted, argv)))
