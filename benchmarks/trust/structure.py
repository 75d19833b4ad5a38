"""Journals and certificates whose structure was changed: ``python -m benchmarks.trust structure``.

Each mutation is refused with a message, or accepted with a verdict that its own content bears by the word of
``oracle``. A traceback is a defect, and so is a greener verdict: CERTIFIED without the evidence, anything but
NOT_CERTIFIED beside a failure, a certificate that is genuine beside another one's journal.
"""

from __future__ import annotations

import multiprocessing
import random
import time
import traceback
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Final, Literal

from benchmarks.trust import oracle, targets
from benchmarks.trust.bombs import LIMIT_S
from benchmarks.trust.figures import MUTATIONS, Figure, all_of, as_dict, none_of
from benchmarks.trust.runs import runs
from benchmarks.trust.structural import (
    CERTIFICATE_CLASSES,
    JOURNAL_CLASSES,
    mutate_certificate,
    mutate_journal,
)
from bi_harness.certificate.build import build
from bi_harness.certificate.files import CERTIFICATE, JOURNAL
from bi_harness.certificate.statement import Statement
from bi_harness.certificate.verify import Folder, examine
from bi_harness.cli.examined import recompute
from bi_harness.errors import HarnessError
from bi_harness.runner.journal import as_bytes, read_text

RENDERED: Final = 20
"""Of so many accepted files, the reports of one are rendered."""

Outcome = Literal["refused", "same", "worse", "borne", "greener", "traceback"]
"""``borne``: another verdict, which the file's own content bears: without a signature it is another run's."""

DEFECTS: Final = ("greener", "traceback")
_ORDER: Final = ("NOT_CERTIFIED", "INCONCLUSIVE", "CERTIFIED")

Reader = Callable[[bytes], Statement | None]
"""A certificate from a file, ``None`` for one that is refused with findings."""


@dataclass(slots=True)
class Tried:
    """What came of a kind of file.

    Attributes:
        outcomes: counts, by class of mutation.
        defects: texts, each with its input.
    """

    outcomes: dict[str, Counter[str]] = field(default_factory=dict)
    defects: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Kind:
    """Journals or certificates.

    Attributes:
        classes: of mutations.
        mutate: by class, from a file and another run's.
        read: the reader under test.
        seeds: sound files, each with its verdict.
        failing: whether a file tells of a failure that is not waived.
        bears: whether a file can stand for CERTIFIED.
    """

    classes: Sequence[str]
    mutate: Callable[[str, bytes, bytes, random.Random], bytes]
    read: Reader
    seeds: Callable[[], Sequence[tuple[bytes, str]]]
    failing: Callable[[bytes], bool]
    bears: Callable[[bytes], bool]


@cache
def journals() -> tuple[tuple[bytes, str], ...]:
    """Seeds: the fuzzer's, and journals of every event and of every way not to be certified."""
    found = [*targets.journal_seeds(), *map(as_bytes, runs())]
    return tuple((journal, _read_journal(journal).predicate.bi_harness.verdict) for journal in found)


@cache
def certificates() -> tuple[tuple[bytes, str], ...]:
    """The certificates of the journals."""
    return tuple((_read_journal(journal).to_json().encode(), verdict) for journal, verdict in journals())


@cache
def _journals_by_certificate() -> dict[bytes, bytes]:
    pairs = zip(certificates(), journals(), strict=True)
    return {certificate: journal for (certificate, _), (journal, _) in pairs}


def _read_journal(data: bytes) -> Statement:
    return build(*read_text(data, JOURNAL))


def _read_certificate(data: bytes) -> Statement | None:
    found = examine(Folder("c", {CERTIFICATE: data}, whole=False), (), recompute())
    if found.genuine:
        return found.statement
    if not all(problem.what for problem in found.problems):
        raise targets.Broken("a problem without a message")
    return None


def _genuine_beside(data: bytes, seed: bytes) -> bool:
    """Whether a changed certificate passes for that of the journal that the seed follows from."""
    contents = {CERTIFICATE: data, JOURNAL: _journals_by_certificate()[seed]}
    return data != seed and examine(Folder("c", contents, whole=False), (), recompute()).genuine


KINDS: Final[Mapping[str, Kind]] = {
    "journal": Kind(
        JOURNAL_CLASSES, mutate_journal, _read_journal, journals, oracle.fails, oracle.may_be_certified
    ),
    "certificate": Kind(
        CERTIFICATE_CLASSES,
        mutate_certificate,
        _read_certificate,
        certificates,
        oracle.certificate_fails,
        oracle.certificate_may_be_certified,
    ),
}


def judge(kind: Kind, data: bytes, before: str) -> tuple[Outcome, str]:
    """What a reader makes of a file.

    Args:
        kind: of the file.
        data: the file.
        before: the verdict of the file that it was made from.

    Returns:
        The outcome, and for a defect what is wrong.
    """
    began = time.process_time()
    try:
        statement = kind.read(data)
    except HarnessError as error:
        if error.exit_code in targets.EXITS and 0 < len(str(error)) <= targets.MAX_MESSAGE:
            return "refused", ""
        return "traceback", f"exit code {error.exit_code} with {len(str(error))} characters"
    except Exception:
        return "traceback", traceback.format_exc(limit=-3)
    if (spent := time.process_time() - began) > LIMIT_S:
        return "traceback", f"took {spent:.1f} s"
    if statement is None:
        return "refused", ""
    return _colour(kind, data, statement, before)


def _colour(kind: Kind, data: bytes, statement: Statement, before: str) -> tuple[Outcome, str]:
    predicate = statement.predicate
    verdict = predicate.bi_harness.verdict
    certified = verdict == "CERTIFIED" or predicate.result != "FAILED"
    if certified and not kind.bears(data):
        return "greener", f"CERTIFIED without the evidence: {predicate.bi_harness.why[:200]}"
    if verdict != "NOT_CERTIFIED" and kind.failing(data):
        return "greener", f"{verdict} beside a failure: {predicate.bi_harness.why[:200]}"
    if verdict == before:
        return "same", ""
    return ("worse" if _ORDER.index(verdict) < _ORDER.index(before) else "borne"), ""


def tried(name: str, mutations: int, seed: int = 0) -> Tried:
    """Mutate files of a kind, the same number for each class of mutation.

    Args:
        name: of ``KINDS``.
        mutations: how many, at least.
        seed: of the choices.
    """
    kind, rng = KINDS[name], random.Random(seed)
    found = Tried({one: Counter() for one in kind.classes})
    seeds = kind.seeds()
    accepted = 0
    for number in range(-(-mutations // len(kind.classes)) * len(kind.classes)):
        one = kind.classes[number % len(kind.classes)]
        (source, before), (other, _) = rng.choice(seeds), rng.choice(seeds)
        data = kind.mutate(one, source, other, rng)
        outcome, why = judge(kind, data, before)
        if outcome in ("same", "worse", "borne"):
            accepted += 1
            if name == "certificate" and _genuine_beside(data, source):
                outcome, why = "greener", "genuine beside the journal of another certificate"
            elif accepted % RENDERED == 0 and (why := _cannot_be_rendered(kind, data)):
                outcome = "traceback"
        found.outcomes[one][outcome] += 1
        if outcome in DEFECTS and len(found.defects) < 50:
            found.defects.append(f"{name}: {one}: {outcome}: {why}\n{data[:2_000]!r}")
    return found


def _cannot_be_rendered(kind: Kind, data: bytes) -> str:
    statement = kind.read(data)
    assert statement is not None
    try:
        targets.see_reports(statement)
    except Exception:
        return traceback.format_exc(limit=-3)
    return ""


def figures_of(name: str, found: Tried, at_least: int = MUTATIONS) -> list[Figure]:
    """The figures of a kind: how many there were, and a row for each class."""
    total = sum(counter.total() for counter in found.outcomes.values())
    bad = {one: sum(counter[d] for d in DEFECTS) for one, counter in found.outcomes.items()}
    figures = [
        all_of(f"{name}s with one mutation that ended well", total - sum(bad.values()), total, at_least),
        *(
            none_of(f"  {outcome} of a {name}", sum(c[outcome] for c in found.outcomes.values()), total)
            for outcome in DEFECTS
        ),
    ]
    for one, counter in found.outcomes.items():
        told = ", ".join(f"{many:,} {outcome}" for outcome, many in counter.most_common())
        figures.append(none_of(f"  {name}: {one} ({told})", bad[one], counter.total()))
    return figures


def measure(mutations: int = MUTATIONS, seed: int = 0) -> dict[str, object]:
    """Both kinds, each in a process of its own.

    Args:
        mutations: of each kind, at least.
        seed: of the choices.
    """
    with multiprocessing.get_context("spawn").Pool(len(KINDS)) as pool:
        results = pool.starmap(tried, [(name, mutations, seed) for name in KINDS])
    found = dict(zip(KINDS, results, strict=True))
    figures = [figure for name, one in found.items() for figure in figures_of(name, one)]
    return as_dict(
        figures,
        defects=[defect for one in found.values() for defect in one.defects][:20],
        outcomes={name: {c: dict(n) for c, n in one.outcomes.items()} for name, one in found.items()},
    )
