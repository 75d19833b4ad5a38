"""What reads files that anybody may have written, as functions of bytes, and what must hold of each.

A target returns what it made of its input, or raises ``HarnessError``; anything else that comes out of it is
a defect, and so are ``Broken``, more than ``bombs.LIMIT_S`` and more than ``bombs.LIMIT_MB``.
"""

from __future__ import annotations

import atexit
import io
import random
import re
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from xml.etree import ElementTree

from rich.console import Console
from securesystemslib.signer import CryptoSigner

from benchmarks.trust import oracle
from benchmarks.trust.bombs import LIMIT_S
from benchmarks.trust.mutate import Mutator, mutate_json, mutate_lines, mutate_yaml
from bi_harness.certificate.build import build
from bi_harness.certificate.events import CheckProgress
from bi_harness.certificate.files import CERTIFICATE, ENVELOPE, JOURNAL
from bi_harness.certificate.gate import gate as hold
from bi_harness.certificate.sign import seal
from bi_harness.certificate.statement import Statement
from bi_harness.certificate.verify import Folder, examine
from bi_harness.cli.examined import recompute
from bi_harness.errors import HarnessError
from bi_harness.exits import ExitCode
from bi_harness.report.console import print_result
from bi_harness.report.gate_view import gate_junit, gate_lines, gate_markdown
from bi_harness.report.html import render_html
from bi_harness.report.junit import render_junit
from bi_harness.report.markdown import render_markdown
from bi_harness.report.parquet import render_parquet
from bi_harness.runner.journal import read_text
from bi_harness.spec.load import load_data, load_spec
from bi_harness.spec.policy import Policy, load_policy
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


_FILES = (
    "models.yaml",
    "hardware.yaml",
    "suites/core/suite.yaml",
    "suites/core/expected.yaml",
    "selection.yaml",
)


@cache
def _folder() -> Path:
    # Kept for the life of the process: a file is written anew for each input, and the others stay.
    folder = tempfile.mkdtemp(prefix="bi-trust-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


@cache
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
    if build(*read_text(journal, "events.jsonl", progress=False)) != statement:
        raise Broken("another certificate without the signs of life")
    certified = predicate.bi_harness.verdict == "CERTIFIED" or predicate.result != "FAILED"
    if certified and not oracle.may_be_certified(journal):
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


@cache
def journal_seeds() -> list[bytes]:
    """Sound journals, and ones of each way not to be certified."""
    from tests.certificate import journals as made

    sound = made.sound()
    life = CheckProgress(time=made.TIME, cell=made.CELL, check="alone", arm="treatment", done=1, of=2)
    runs = [
        sound,
        made.sound(made.result("fail")),
        made.sound(made.result("error")),
        made.sound(made.result("inconclusive"), made.result(check="spread")),
        made.sound(plan=(made.planned(), made.skipped())),
        [*sound[:3], life, life, *sound[3:]],
        made.sound()[:-1],
        [*made.sound()[:-1], made.end(interrupted=True)],
    ]
    return [b"".join(one.model_dump_json().encode() + b"\n" for one in events) for events in runs]


@cache
def certificate_seeds() -> list[bytes]:
    """The certificates of the journals."""
    return [certificate(journal).to_json().encode() for journal in journal_seeds()]


def _verify(data: bytes) -> str:
    """A certificate by itself, and beside the journal of another: nothing but the seed is genuine there."""
    alone = examine(Folder("c", {CERTIFICATE: data}, whole=False), (), recompute())
    if alone.genuine and alone.statement is not None:
        result = alone.statement.predicate.bi_harness
        if result.verdict == "CERTIFIED" and not oracle.certificate_may_be_certified(data):
            raise Broken("genuine and CERTIFIED, and its checks do not give that")
    journal = journal_seeds()[0]
    beside = examine(Folder("c", {CERTIFICATE: data, JOURNAL: journal}), (), recompute())
    if beside.genuine and data != certificate_seeds()[0]:
        raise Broken("genuine beside a journal that it does not follow from")
    return "genuine" if alone.genuine else "not genuine"


@cache
def _signer() -> CryptoSigner:
    return CryptoSigner.generate_ed25519()


@cache
def envelope_seeds() -> list[bytes]:
    """The same, signed by a key that is made for the purpose."""
    return [seal(data, _signer()) for data in certificate_seeds()]


POLICY = """\
schema: bi-harness/policy/1
vllm: ">=0.32"
requires:
  - {devices: cpu, models: [tiny], suites: core, modes: [eager]}
profile: smoke
keys: [release.pub]
allow_dirty: true
allow_synthetic: true
"""


def _policy(text: bytes) -> tuple[Policy, str]:
    path = _folder() / "release.yaml"
    path.write_bytes(text)
    return load_policy(path)


NOW = datetime(2026, 1, 15, tzinfo=UTC)
"""The day after the journals of the tests."""


def _envelope(data: bytes) -> str:
    """A signed certificate, and a gate that asks for it: nothing but what was signed counts."""
    keys = (_signer().public_key,)
    found = examine(Folder("c", {ENVELOPE: data}, whole=False), keys, recompute(), must_be_signed=False)
    policy, digest = _policy(POLICY.encode())
    passed = hold(policy, [found], now=NOW, policy_digest=digest).passed
    if (found.signed_by or passed) and data not in envelope_seeds():
        raise Broken("a signature is good of what was not signed")
    certified = found.statement is not None and found.statement.predicate.bi_harness.verdict == "CERTIFIED"
    if passed and not certified:
        raise Broken("the gate passes what is not certified")
    return "passed the gate" if passed else "signed" if found.signed_by else "not genuine"


def _gate(data: bytes) -> str:
    """Whatever the policy: what is not certified meets nothing, and what is, nothing but its own cell."""
    policy, digest = _policy(data)
    found = [
        examine(Folder(str(i), {CERTIFICATE: one}, whole=False), (), recompute(), must_be_signed=False)
        for i, one in enumerate(certificate_seeds())
    ]
    result = hold(policy, found[1:4], now=NOW, policy_digest=digest)
    if result.passed:
        raise Broken("the gate passes without a certificate that is CERTIFIED")
    result = hold(policy, found[:1], now=NOW, policy_digest=digest)
    cells = {one.id.replace("*", "CPU_ATTN", 1).replace("*", "tp1-dp1") for one in policy.requirements()}
    if result.passed and cells != {"cpu/tiny/CPU_ATTN/tp1-dp1/eager/core"}:
        raise Broken(f"the gate passes for what is not in the certificate: {sorted(cells)[:3]}")
    if result.passed and policy.keys is not None:
        raise Broken("the gate passes an unsigned certificate where keys are asked for")
    gate_markdown(result)
    ElementTree.fromstring(gate_junit(result))
    if _CONTROL.search("\n".join(gate_lines(result))):
        raise Broken("the terminal gets a control character")
    return "passed" if result.passed else "not met"


def _gate_seeds() -> list[bytes]:
    unsigned = POLICY.replace("keys: [release.pub]\n", "max_age_days: 30\nmin_steps: 3\n")
    return [POLICY.encode(), unsigned.encode()]


JOURNAL_PLACES = r"events\.jsonl:\d+: |the journal "

TARGETS: dict[str, Target] = {
    "yaml": Target(
        _yaml, lambda: [text.encode() for text in small_spec().values()], mutate_yaml, r"f\.yaml:\d+: "
    ),
    "spec": Target(_spec, _spec_seeds, _mutate_spec, r".*(\.yaml:\d+: |: has no suite)"),
    "journal": Target(_journal, journal_seeds, mutate_lines, JOURNAL_PLACES),
    "report": Target(_report, journal_seeds, mutate_lines, JOURNAL_PLACES),
    "verify": Target(_verify, certificate_seeds, mutate_json, r"events\.jsonl:"),
    "envelope": Target(_envelope, envelope_seeds, mutate_json, r"events\.jsonl:"),
    "gate": Target(_gate, _gate_seeds, mutate_yaml, r".*release\.yaml:\d+: "),
}
