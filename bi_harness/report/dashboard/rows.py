"""One certificate as one row of the history. Pure: what was examined in, a row out.

A row holds what the dashboard needs of a certificate, cleaned (``report.text``), so that a year of nights
fits into memory. A file that does not count is a row, too, with why. No letter of a row is greener than the
certificate's verdict (``certificate.standing``).
"""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime
from statistics import median
from typing import Any, Final

from bi_harness.certificate.diff import environment_values, vllm_of
from bi_harness.certificate.records import CheckResult, Status
from bi_harness.certificate.standing import CheckStanding, check_standings
from bi_harness.certificate.statement import HarnessResult, Statement, planted_faults
from bi_harness.certificate.verify import Examined
from bi_harness.report.facts import PROBLEMS, device_id, device_label, scope_label
from bi_harness.report.findings import finding
from bi_harness.report.reproduce import cell_arguments, repeat_arguments
from bi_harness.report.text import clean, elapsed

MAX_CELLS: Final = 20_000
"""Cells of one certificate. The whole matrix of a device has some hundreds."""

MAX_ENVIRONMENT: Final = 600
"""Values of the environment that are kept of a certificate."""

LETTERS: Final[dict[Status, str]] = {
    "pass": "p",
    "fail": "f",
    "error": "e",
    "inconclusive": "i",
    "skip": "s",
    "waived": "w",
}
UNSETTLED: Final = "u"
"""A pass that proves nothing, since the certificate as a whole concluded nothing."""


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell in one certificate.

    Attributes:
        cell: its id; shortened with a digest where it is long or unprintable.
        checks: the checks' names, in plan order, a line each; then comparisons across parallel sizes.
        statuses: a letter for each (``LETTERS``, ``UNSETTLED``); ``f`` for a pass that is held against the
            run.
        seconds: wall time of its checks together.
    """

    cell: str
    checks: str
    statuses: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Told:
    """What is told of a check that did not pass: texts for a reader, as reports have them.

    Attributes:
        bits: the first divergence as the two bit patterns; empty where there is none.
    """

    cell: str
    check: str
    status: str
    reason: str
    where: str
    figures: str
    control: str
    waiver: str
    log: str
    command: str
    bits: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Start:
    """Engine starts of one kind and arm: how many, and the median of their seconds.

    Attributes:
        mode: ``compile`` with torch.compile, ``graphs`` with CUDA graphs alone, ``eager`` with neither.
    """

    mode: str
    arm: str
    starts: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Row:
    """A file that was found.

    Attributes:
        digest: sha256 of what was examined: the certificate, its envelope and its journal.
        certificate: sha256 of the certificate alone; the same one is never counted twice.
        path: where it was found.
        why: why it does not count; empty where it does. Then ``device`` and ``night`` are the device that it
            claims to be of, and the night, where it speaks against that device; else empty.
        variant: what ran where it was not the models' own weights on an engine of ours; rows of the grid are
            apart by it.
        partial: whether only a part of the suites' checks was asked for (``-k``).
        night: the day on which the run began, UTC, ISO 8601.
        seconds: of the whole run; 0 where it does not tell.
        signed_by: ids of the given keys that signed it; ``signatures``: of all keys it names.
        again: the flags that repeat its workload, as for a shell.
        journal: whether it was computed again from its journal.
        environment: ``[path, text]`` pairs as JSON.
        told: of the checks that did not pass, as JSON.
    """

    digest: str
    certificate: str
    path: str
    why: str = ""
    run_id: str = ""
    device: str = ""
    hardware: str = ""
    variant: str = ""
    profile: str = ""
    scope: str = ""
    verdict: str = ""
    said: str = ""
    started: str = ""
    ended: str = ""
    night: str = ""
    seconds: float = 0.0
    vllm: str = ""
    torch: str = ""
    harness: str = ""
    partial: bool = False
    journal: bool = False
    again: str = ""
    signed_by: tuple[str, ...] = ()
    signatures: tuple[str, ...] = ()
    environment: str = "[]"
    told: str = "[]"
    starts: tuple[Start, ...] = ()
    cells: tuple[Cell, ...] = ()

    @property
    def counts(self) -> bool:
        """Whether the dashboard takes it for what it says."""
        return not self.why

    def as_dict(self) -> dict[str, Any]:
        """As a row of the history's table."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Claim:
    """What a file that does not count says it is of; empty where it does not say.

    Attributes:
        device: id of the device, as ``Row.device``.
        night: day on which its run began, UTC, ISO 8601.
    """

    device: str = ""
    night: str = ""


def claim_of(device: str, started: str) -> Claim:
    """A claim, from a device's id and the time at which a run began. Both may be of any form."""
    began = moment(started)
    return Claim(identity(device, 60) if device else "", began.date().isoformat() if began else "")


def row_of(
    examined: Examined, digest: str, path: str, *, signed_only: bool = False, claim: Claim | None = None
) -> Row:
    """A row of what was examined.

    Args:
        examined: with the public keys, ``must_be_signed=False``.
        digest: see ``Row``.
        path: for a reader.
        signed_only: whether only what one of the keys signed counts.
        claim: what the file says it is of, where it is not genuine.
    """
    claim = claim or Claim()
    shown = clean(path, 400)
    statement = examined.statement
    if statement is None or not examined.genuine:
        told = [f"{problem.where}: {problem.what}" for problem in examined.problems]
        why = clean("; ".join(told[:3]), 600) or "it is no certificate"
        return Row(digest, examined.digest, shown, why=why, device=claim.device, night=claim.night)
    result = statement.predicate.bi_harness
    if why := _of_no_device(result) or (
        "none of the given keys signed it" if _unsigned(examined, signed_only) else ""
    ):
        return Row(digest, examined.digest, shown, why=why)
    if why := _unplaced(result):
        claim = claim_of(device_id(statement), result.started)
        return Row(digest, examined.digest, shown, why=why, device=claim.device, night=claim.night)
    return _counted(statement, examined, digest, shown)


def refused(path: str, why: str, digest: str = "", claim: Claim | None = None) -> Row:
    """A row of a file that could not be looked at."""
    claim = claim or Claim()
    shown = clean(why, 600) or "it cannot be read"
    return Row(digest, "", clean(path, 400), why=shown, device=claim.device, night=claim.night)


def _unsigned(examined: Examined, signed_only: bool) -> bool:
    return signed_only and not examined.signed_by


def _of_no_device(result: HarnessResult) -> str:
    """Why a certificate says nothing of its device, for or against; empty where it does."""
    if faults := planted_faults(result.effective):
        return clean(f"a fault was planted in its engines on purpose: {', '.join(faults)}", 300)
    if result.shard is not None and result.shard.passed:
        index, count = result.shard.index, result.shard.count
        return (
            f"it is shard {index} of {count}, which certifies nothing alone: `bi-harness merge` all of them"
        )
    return ""


def _unplaced(result: HarnessResult) -> str:
    """Why a certificate has no place in the grid; empty where it has."""
    if moment(result.started) is None:
        return "it does not tell when its run began"
    cells = len({check.cell for check in result.checks})
    if not cells:
        return "it tells of no check"
    if cells > MAX_CELLS:
        return f"it tells of {cells:,} cells, and more than {MAX_CELLS:,} are of no run"
    return ""


def moment(text: object) -> datetime | None:
    """The time that a certificate's string names, in UTC; ``None`` where it names none."""
    if not isinstance(text, str) or not text or len(text) > 64:
        return None
    try:
        found = datetime.fromisoformat(text)
        return found.astimezone(UTC) if found.tzinfo is not None else found.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        return None


def day(text: str) -> date:
    """The day that a row's ``night`` names."""
    return date.fromisoformat(text)


def _counted(statement: Statement, examined: Examined, digest: str, path: str) -> Row:
    result = statement.predicate.bi_harness
    standings = check_standings(result)
    began = moment(result.started)
    assert began is not None
    ended = moment(result.finished) or began
    ran = elapsed(result.started, result.finished)
    return Row(
        digest=digest,
        certificate=examined.digest,
        path=path,
        run_id=clean(result.run_id, 120),
        device=identity(device_id(statement), 60),
        hardware=device_label(statement),
        variant=_variant(result),
        profile=clean(result.scope.profile, 40),
        scope=clean(scope_label(statement), 400),
        verdict="WAIVED" if statement.predicate.result == "WARNED" else result.verdict,
        said=clean(result.why, 600),
        started=_stamp(began),
        ended=_stamp(ended),
        night=began.date().isoformat(),
        seconds=ran if ran is not None and 0 <= ran < 1e8 else 0.0,
        vllm="" if result.scope.endpoint is not None else clean(vllm_of(statement), 60),
        torch=_version(result.provenance, "torch"),
        harness=_version(result.provenance, "harness"),
        partial="k" in result.scope.filters,
        journal=examined.journal,
        again=clean(shlex.join(repeat_arguments(result.scope)), 1_000),
        signed_by=tuple(clean(key, 80) for key in examined.signed_by),
        signatures=tuple(clean(key, 80) for key in examined.signatures[:8]),
        environment=json.dumps(_environment(statement)),
        told=json.dumps([asdict(one) for one in (*_told(statement), *_told_besides(statement, standings))]),
        starts=tuple(_starts(result)),
        cells=tuple(_cells(result.checks, standings)),
    )


def _stamp(when: datetime) -> str:
    return when.isoformat(timespec="seconds").replace("+00:00", "Z")


def _variant(result: HarnessResult) -> str:
    scope = result.scope
    words = []
    if scope.endpoint is not None:
        words.append(f"endpoint {clean(scope.endpoint.url, 120)}, not verified")
    if scope.weights != "named":
        words.append(f"{clean(scope.weights, 40)} weights")
    if scope.layers is not None:
        words.append(f"{clean(scope.layers, 40)} layers")
    return ", ".join(words)


def _version(provenance: Mapping[str, Any], name: str) -> str:
    held = provenance.get(name)
    found = held.get("version") if isinstance(held, Mapping) else held
    if not isinstance(found, str):
        return ""
    dirty = isinstance(held, Mapping) and held.get("dirty") is True
    return clean(found, 60) + ("+dirty" if dirty else "")


def identity(text: str, limit: int = 240) -> str:
    """A name fit to be shown, another one for every other name: what was cut or cleaned ends in a digest."""
    shown = clean(text, limit)
    if shown == text and shown:
        return shown
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:10]
    return f"{clean(text[:limit], limit - 30) or 'unnamed'} ~{digest}"


def _environment(statement: Statement) -> list[list[str]]:
    found = []
    for path, value in sorted(environment_values(statement).items())[:MAX_ENVIRONMENT]:
        found.append([clean(".".join(path), 200), clean(value, 300)])
    return found


def _told(statement: Statement) -> Iterator[Told]:
    for number, check in enumerate(statement.predicate.bi_harness.checks):
        if check.status not in PROBLEMS:
            continue
        one = finding(statement, check, number)
        first = None if check.evidence is None else check.evidence.first_divergence
        yield Told(
            cell=identity(check.cell),
            check=identity(check.check, 120),
            status=check.status,
            reason=clean(one.reason, 800),
            where=one.where,
            figures=one.figures,
            control=one.control,
            waiver=one.waiver,
            log=one.log,
            command=one.command,
            bits=() if first is None else (first.reference_bits, first.observed_bits),
        )


def _told_besides(statement: Statement, standings: Sequence[CheckStanding]) -> Iterator[Told]:
    """What is held against checks that pass, and once for each cell why its passes prove nothing."""
    repeat = shlex.join(repeat_arguments(statement.predicate.bi_harness.scope))
    doubted: set[tuple[str, str]] = set()
    for one in standings:
        if one.fault:
            name, status, reason = one.check, "fail", one.fault
        elif one.doubt and (one.cell, one.doubt) not in doubted:
            doubted.add((one.cell, one.doubt))
            name, status, reason = one.check, "inconclusive", f"it reads pass, but {one.doubt}"
        else:
            continue
        cell_flags = shlex.join(cell_arguments(one.cell, device_id(statement)))
        yield Told(
            cell=identity(one.cell),
            check=identity(name, 120),
            status=status,
            reason=clean(reason, 800),
            where="",
            figures="",
            control="",
            waiver="",
            log="",
            command=clean(f"{cell_flags} {repeat}", 2_000),
        )


def _letter(one: CheckStanding) -> str:
    if one.fault:
        return "f"
    return UNSETTLED if one.doubt else LETTERS[one.status]


def _starts(result: HarnessResult) -> Iterator[Start]:
    seconds: dict[tuple[str, str], list[float]] = {}
    for arm in result.effective:
        execution = _execution(arm.config)
        if execution and 0 <= arm.start_s < 1e7:
            seconds.setdefault((execution, arm.arm), []).append(arm.start_s)
    for (mode, arm_name), found in sorted(seconds.items()):
        yield Start(mode, arm_name, len(found), round(median(found), 3))


def _execution(config: Mapping[str, Any]) -> str:
    """What an engine built as it started, whatever the cell's mode; empty where it does not say."""
    eager = config.get("enforce_eager")
    if not isinstance(eager, bool):
        return ""
    if eager:
        return "eager"
    return "graphs" if config.get("compilation_mode") == "NONE" else "compile"


def _cells(checks: Iterable[CheckResult], standings: Iterable[CheckStanding]) -> Iterator[Cell]:
    seconds: dict[str, float] = {}
    for check in checks:
        took = check.duration_s or 0.0
        seconds[check.cell] = seconds.get(check.cell, 0.0) + (took if 0 <= took < 1e7 else 0.0)
    by_cell: dict[str, list[CheckStanding]] = {}
    for one in standings:
        by_cell.setdefault(one.cell, []).append(one)
    for cell, found in by_cell.items():
        yield Cell(
            cell=identity(cell),
            checks="\n".join(identity(one.check, 120) for one in found),
            statuses="".join(_letter(one) for one in found),
            seconds=round(seconds.get(cell, 0.0), 3),
        )
