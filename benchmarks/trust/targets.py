"""What reads files that anybody may have written, as functions of bytes, and what must hold of each.

A target returns what it made of its input, or raises ``HarnessError``; anything else that comes out of it is a
defect, and so are ``Broken``, more than ``bombs.LIMIT_S`` and more than ``bombs.LIMIT_MB``.
"""

from __future__ import annotations

import io
import random
import re
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from xml.etree import ElementTree

from rich.console import Console

from benchmarks.trust import oracle
from benchmarks.trust.bombs import LIMIT_S
from benchmarks.trust.mutate import Mutator, mutate_lines, mutate_yaml
from bi_harness.certificate.build import build
from bi_harness.certificate.statement import Statement
from bi_harness.errors import HarnessError
from bi_harness.exits import ExitCode
from bi_harness.report.console import print_result
from bi_harness.report.html import render_html
from bi_harness.report.junit import render_junit
from bi_harness.report.markdown import render_markdown
from bi_harness.report.parquet import render_parquet
from bi_harness.runner.journal import read_text
from bi_harness.spec.load import load_data, load_spec
from bi_harness.spec.selection import SelectionSpec
from bi_harness.spec.yamlsource import parse_yaml

ROOT = Path(__file__).resolve().parents[2]
EXITS = {ExitCode.USAGE, ExitCode.NOT_CERTIFIED}
MAX_MESSAGE = 100_000
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


class Broken(Exception):
    """Something that must hold does not."""


@dataclass(frozen=True, slots=True)
class Target:
    """One reader.

    Attributes:
        run: reads.
        seeds: files that it accepts, to start from.
        mutate: changes one.
        places: what the first line of a refusal begins with, as a regular expression.
    """

    run: Callable[[bytes], str]
    seeds: Callable[[], list[bytes]]
    mutate: Mutator
    places: str


def attempt(target: Target, data: bytes) -> str:
    """Give a reader its input.

    Returns:
        ``refused``, or what the target says.

    Raises:
        Broken: something that must hold does not. Whatever else the target raises is a defect too.
    """
    started = time.process_time()
    try:
        outcome = target.run(data)
    except HarnessError as error:
        message = str(error)
        if error.exit_code not in EXITS:
            raise Broken(f"refused with exit code {error.exit_code}: {message[:200]}") from error
        if not re.match(target.places, message):
            raise Broken(f"the refusal does not say where: {message[:200]}") from error
        if len(message) > MAX_MESSAGE:
            raise Broken(f"a refusal of {len(message)} characters: {message[:200]}") from error
        outcome = "refused"
    spent = time.process_time() - started
    if spent > LIMIT_S:
        raise Broken(f"took {spent:.1f} s")
    return outcome


def _yaml(data: bytes) -> str:
    parse_yaml(data, "f.yaml")
    return "accepted"


_FILES = ("models.yaml", "hardware.yaml", "suites/core/suite.yaml", "suites/core/expected.yaml", "selection.yaml")


@cache
def _folder() -> Path:
    # Kept for the life of the process: a file is written anew for each input, and the others stay.
    return Path(tempfile.mkdtemp(prefix="bi-trust-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))


def small_spec() -> dict[str, str]:
    """The small spec of the tests, by file."""
    from tests.spec.small import HARDWARE, MODELS, SUITE

    return {
        "models.yaml": MODELS,
        "hardware.yaml": HARDWARE,
        "suites/core/suite.yaml": SUITE,
        "suites/core/expected.yaml": EXPECTED,
        "selection.yaml": (ROOT / "suites" / "nvfp4" / "selection.yaml").read_text(encoding="utf-8"),
    }


EXPECTED = """\
expectations:
  some:
    {vllm: ">=0.1", kind: cpu, models: [tiny], source: x, cold: {num_aot_compiles: "<= layers / 2"}}
exceptions:
  known: {vllm: "<9", kind: cpu, warm: {kernels_built: 3}, reason: x, source: y, until: 2026-12-31}
"""


def load_with(file: str, content: bytes) -> str:
    """Load the small spec with one of its files replaced."""
    root = _folder()
    texts: dict[str, bytes] = {name: text.encode() for name, text in small_spec().items()}
    for name, text in {**texts, file: content}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.is_file() or path.read_bytes() != text:
            path.write_bytes(text)
    if file == "selection.yaml":
        load_data(root / file, SelectionSpec)
    load_spec(root / "models.yaml", root / "hardware.yaml", root / "suites")
    return "accepted"


def _spec(data: bytes) -> str:
    """The first byte says which file it is."""
    return load_with(_FILES[data[0] % len(_FILES)] if data else _FILES[0], data[1:])


def _spec_seeds() -> list[bytes]:
    texts = small_spec()
    return [bytes([48 + i - 48 % len(_FILES)]) + texts[name].encode() for i, name in enumerate(_FILES)]


def _mutate_spec(data: bytes, rng: random.Random) -> bytes:
    return data[:1] + mutate_yaml(data[1:], rng)


def certificate(journal: bytes) -> Statement:
    """The certificate of a journal's bytes.

    Raises:
        Broken: it reads CERTIFIED, and the oracle says that this journal cannot stand for it.
    """
    statement = build(*read_text(journal, "events.jsonl"))
    predicate = statement.predicate
    if predicate.bi_harness.verdict == "CERTIFIED" or predicate.result != "FAILED":
        if not oracle.may_be_certified(journal):
            raise Broken(f"CERTIFIED without the evidence: {predicate.bi_harness.why[:200]}")
    return statement


def _journal(data: bytes) -> str:
    statement = certificate(data)
    text = statement.to_json()
    if Statement.model_validate_json(text).to_json() != text:
        raise Broken("the certificate is another one when it is read back")
    return str(statement.predicate.bi_harness.verdict)


def _report(data: bytes) -> str:
    statement = certificate(data)
    see_reports(statement)
    return str(statement.predicate.bi_harness.verdict)


def see_reports(statement: Statement) -> None:
    """Render every report and see that nothing in it comes alive.

    Raises:
        Broken: something does.
    """
    html = render_html(statement)
    if re.search(r"<(script|img|svg|iframe|object|embed|link|base|form|input)\b", html, re.IGNORECASE):
        raise Broken("the page has an element that it must not have")
    if re.search(r"<[a-z][^<>]*\son[a-z]+\s*=", html, re.IGNORECASE):
        raise Broken("the page has an event handler")
    ElementTree.fromstring(render_junit(statement))
    markdown = render_markdown(statement)
    if _CONTROL.search(markdown):
        raise Broken("the Markdown has a control character")
    render_parquet(statement)
    stream = io.StringIO()
    print_result(statement, Console(file=stream, width=100))
    if _CONTROL.search(stream.getvalue()):
        raise Broken("the terminal gets a control character")


def journal_seeds() -> list[bytes]:
    """Sound journals, and ones of each way not to be certified."""
    from tests.certificate import journals as made

    runs = [
        made.sound(),
        made.sound(made.result("fail")),
        made.sound(made.result("error")),
        made.sound(made.result("inconclusive"), made.result(check="spread")),
        made.sound(plan=(made.planned(), made.skipped())),
        made.sound()[:-1],
        [*made.sound()[:-1], made.end(interrupted=True)],
    ]
    return [b"".join(one.model_dump_json().encode() + b"\n" for one in events) for events in runs]


JOURNAL_PLACES = r"events\.jsonl:\d+: |the journal "

TARGETS: dict[str, Target] = {
    "yaml": Target(
        _yaml, lambda: [text.encode() for text in small_spec().values()], mutate_yaml, r"f\.yaml:\d+: "
    ),
    "spec": Target(_spec, _spec_seeds, _mutate_spec, r".*(\.yaml:\d+: |: has no suite)"),
    "journal": Target(_journal, journal_seeds, mutate_lines, JOURNAL_PLACES),
    "report": Target(_report, journal_seeds, mutate_lines, JOURNAL_PLACES),
}
