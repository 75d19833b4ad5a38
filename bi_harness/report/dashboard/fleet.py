"""What the dashboard shows for a day, computed from the history. Pure: same rows, same day, same answer.

Green is earned: a night without a certificate is missing, a cell that has not reported for too long is stale,
a run of a part of a suite is partial, and of two certificates of one night a failure, or an answer that
concluded nothing, outweighs a pass. Only an error, and a pass in a run that as a whole concluded nothing,
give way to one. Where a certificate is not CERTIFIED and none of its cells says why, none of them is green.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from itertools import groupby
from statistics import median
from typing import Any, Final, Literal, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from bi_harness.certificate.diff import ValueChange, value_changes
from bi_harness.certificate.series import Standing, turn
from bi_harness.errors import UsageError
from bi_harness.report.cellid import CellParts, parse_cell_id
from bi_harness.report.dashboard.rows import UNSETTLED, Told, day, identity
from bi_harness.report.text import plural

STATES: Final = ".spkwief"
"""A cell's night, by code: missing, skipped, passed, a part passed, waived, inconclusive, error, failed."""

WORDS: Final[dict[str, str]] = {
    ".": "missing",
    "s": "skip",
    "p": "pass",
    "k": "part",
    "w": "waived",
    "i": "inconclusive",
    "e": "error",
    "f": "fail",
}
_OUTWEIGHS: Final = "seupiwf"
"""Of two results of one check in one night the later in this order counts."""

Verdict = Literal[
    "NONE",
    "SKIPPED",
    "CERTIFIED",
    "WAIVED",
    "PASSING",
    "INCOMPLETE",
    "INCONCLUSIVE",
    "NOT_CERTIFIED",
    "STALE",
]
VERDICTS: Final[tuple[Verdict, ...]] = get_args(Verdict)
"""By how much each outweighs the one before. ``PASSING``: its checks pass, in a certificate that is not
CERTIFIED for another cell; ``INCOMPLETE``: a cell that was there is stale; ``STALE``: all are."""

_STALE: Final = VERDICTS.index("STALE")
_STANDING: Final[dict[str, Standing]] = {"p": "good", "f": "bad", "w": "bad"}

MAX_ROWS: Final = 50_000

Codes = npt.NDArray[np.uint8]
Numbers = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Certificate:
    """A row of the history, without its cells. Attributes as in ``rows.Row``."""

    path: str
    run_id: str
    device: str
    hardware: str
    variant: str
    profile: str
    scope: str
    verdict: str
    said: str
    started: str
    ended: str
    night: str
    seconds: float
    vllm: str
    torch: str
    harness: str
    partial: bool
    journal: bool
    again: str
    signed_by: tuple[str, ...]
    signatures: tuple[str, ...]
    certificate: str

    @property
    def versions(self) -> tuple[str, str, str]:
        """vLLM's, torch's and the harness's."""
        return self.vllm, self.torch, self.harness


@dataclass(frozen=True, slots=True)
class Track:
    """One check of a cell: a letter for each night."""

    check: str
    nights: str


@dataclass(frozen=True, slots=True)
class CellView:
    """A row of the grid.

    Attributes:
        cell: its id; ``variant``: see ``rows.Row``.
        nights: a letter of ``STATES`` for each night.
        certificates: for each night the number of the certificate that decides, or -1.
        last: the last night with an answer; ``age`` of it in days; ``stale`` where that is too old.
        last_good, first_bad: as ``certificate.series`` finds them, in nights.
        since: for a cell that is neither good nor skipped: since when; ``last_pass`` before that.
    """

    cell: str
    variant: str
    parts: CellParts
    nights: str
    certificates: Numbers
    last: int
    age: int
    stale: bool
    last_good: int | None
    first_bad: int | None
    last_pass: int | None
    since: int | None
    checks: Callable[[], tuple[Track, ...]] = field(repr=False)

    @property
    def now(self) -> str:
        """The letter of the last night with an answer."""
        return self.nights[self.last]


@dataclass(frozen=True, slots=True)
class Group:
    """A verdict over some cells, at the day.

    Attributes:
        before: what it was before it went stale; else the same.
        age: days since its last certificate; ``oldest``: since the oldest answer that it rests on.
        cells, good, stale: how many there are, pass, and are stale.
        certificate: the last one, by number.
    """

    device: str
    model: str
    variant: str
    verdict: Verdict
    before: Verdict
    age: int
    oldest: int
    cells: int
    good: int
    stale: int
    certificate: int


@dataclass(frozen=True, slots=True)
class Change:
    """A verdict that changed."""

    device: str
    model: str
    variant: str
    night: str
    time: str
    before: Verdict
    after: Verdict
    versions: tuple[str, str, str]
    versions_before: tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class Range:
    """Cells that went bad between the same two certificates."""

    device: str
    last_good: int | None
    first_bad: int
    good_night: int | None
    bad_night: int
    cells: tuple[int, ...]
    environment: tuple[ValueChange, ...]


@dataclass(frozen=True, slots=True)
class Trend:
    """Of one device: a value for each night, in seconds; ``None`` where there is none."""

    device: str
    run: tuple[float | None, ...]
    start_eager: tuple[float | None, ...]
    start_compile: tuple[float | None, ...]
    start_graphs: tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class Fleet:
    """All of it.

    Attributes:
        as_of: the day.
        nights: ISO 8601, up to the day.
        versions: by device, for each night the versions that ran (vLLM, torch, harness), "" for none.
        refused: path and reason of what does not count.
    """

    as_of: date
    stale_days: int
    nights: tuple[str, ...]
    certificates: tuple[Certificate, ...]
    cells: tuple[CellView, ...]
    devices: tuple[Group, ...]
    models: tuple[Group, ...]
    versions: dict[str, tuple[tuple[str, str, str], ...]]
    ranges: tuple[Range, ...]
    changes: tuple[Change, ...]
    trends: tuple[Trend, ...]
    refused: tuple[tuple[str, str], ...]
    told: Callable[[int, str], tuple[Told, ...]] = field(repr=False)
    differences: Callable[[int, int], tuple[ValueChange, ...]] = field(repr=False)

    def certificate_of(self, cell: CellView, night: int) -> Certificate | None:
        """The certificate that decides a cell's night."""
        number = int(cell.certificates[night])
        return self.certificates[number] if number >= 0 else None


def fleet(table: pa.Table, as_of: date, *, nights: int = 366, stale_days: int = 2) -> Fleet:
    """What is shown.

    Args:
        table: the history.
        as_of: the day that staleness is counted from.
        nights: the window: how many days up to it are shown and judged.
        stale_days: days without a report after which a cell is stale.

    Raises:
        UsageError: there are more cells than a page can show.
    """
    heads = table.drop_columns(["cells", "environment", "told"]).to_pylist()
    try:
        first = as_of - timedelta(days=nights - 1)
    except OverflowError:
        raise UsageError(
            f"{plural(nights, 'night')} before {as_of} begin before the year 1: {as_of}\n"
            "hint: give a later day (--as-of) or fewer nights (--nights)"
        ) from None
    refused = [(row["path"], row["why"]) for row in heads if row["why"]]
    shown: list[int] = []
    for number, row in enumerate(heads):
        if row["why"]:
            continue
        night = day(row["night"])
        if night > as_of:
            refused.append((row["path"], f"its run began on {night}, after the day that is shown ({as_of})"))
        elif night >= first:
            shown.append(number)
    if shown:
        first = min(day(heads[number]["night"]) for number in shown)
    days = (
        tuple((first + timedelta(days=i)).isoformat() for i in range((as_of - first).days + 1))
        if shown
        else ()
    )
    picked = table.take(pa.array(shown, pa.int64()))
    certificates = tuple(_certificate(heads[number]) for number in shown)
    environments = picked["environment"]
    stories: dict[int, list[dict[str, Any]]] = {}

    def told(number: int, cell: str) -> tuple[Told, ...]:
        if number not in stories:
            stories[number] = json.loads(picked["told"][number].as_py())
        return tuple(
            Told(**{**one, "bits": tuple(one["bits"])}) for one in stories[number] if one["cell"] == cell
        )

    def values(number: int) -> dict[tuple[str, ...], str]:
        return {(path,): value for path, value in json.loads(environments[number].as_py())}

    pairs: dict[tuple[int, int], tuple[ValueChange, ...]] = {}

    def differences(before: int, after: int) -> tuple[ValueChange, ...]:
        if (before, after) not in pairs:
            pairs[before, after] = value_changes(values(before), values(after))
        return pairs[before, after]

    cells, states, numbers, last = _cells(picked, certificates, days, stale_days)
    against = _against(heads, days)
    models, model_codes, groups = _standings(
        cells, states, numbers, last, certificates, stale_days, against, by_model=True
    )
    devices, _, _ = _standings(
        cells, states, numbers, last, certificates, stale_days, against, by_model=False
    )
    return Fleet(
        as_of=as_of,
        stale_days=stale_days,
        nights=days,
        certificates=certificates,
        cells=cells,
        devices=devices,
        models=models,
        versions=_versions(certificates, days),
        ranges=_ranges(cells, certificates, differences),
        changes=_changes(models, model_codes, groups, numbers, certificates, days),
        trends=_trends(heads, shown, certificates, days),
        refused=tuple(refused),
        told=told,
        differences=differences,
    )


def _certificate(row: dict[str, Any]) -> Certificate:
    found = {name: row[name] for name in Certificate.__dataclass_fields__}
    return Certificate(
        **{**found, "signed_by": tuple(row["signed_by"]), "signatures": tuple(row["signatures"])}
    )


def state_of(statuses: str, *, partial: bool) -> int:
    """A cell's code from its checks' letters: the worst; passed only where something did."""
    for letter in "feiuw":
        if letter in statuses:
            return STATES.index("i" if letter == UNSETTLED else letter)
    if "p" in statuses:
        return STATES.index("k" if partial else "p")
    return STATES.index("s")


def _cells(
    table: pa.Table, certificates: Sequence[Certificate], days: Sequence[str], stale_days: int
) -> tuple[tuple[CellView, ...], Codes, Numbers, Numbers]:
    """The grid's rows; and by row and night: codes, deciding certificates, the last night with an answer."""
    column = table["cells"].combine_chunks()
    if isinstance(column, pa.ChunkedArray):
        column = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    flat = column.flatten()
    counts = np.asarray(column.value_lengths(), dtype=np.int64) if len(column) else np.zeros(0, np.int64)
    owner = np.repeat(np.arange(len(certificates), dtype=np.int32), counts)
    cell_codes, cell_names = _coded(flat.field("cell"))
    check_codes, check_names = _coded(flat.field("checks"))
    status_codes, status_names = _under_verdict(
        *_coded(flat.field("statuses")), owner, cell_codes, cell_names, certificates
    )
    variants = {name: i for i, name in enumerate(dict.fromkeys(c.variant for c in certificates))}
    variant_of = np.array([variants[c.variant] for c in certificates], dtype=np.int64)
    place = {name: i for i, name in enumerate(days)}
    night_of = np.array([place[c.night] for c in certificates], dtype=np.int64)
    partial_of = np.array([c.partial for c in certificates], dtype=bool)
    keys = cell_codes * max(1, len(variants)) + (variant_of[owner] if len(owner) else owner)
    unique, row_of = np.unique(keys, return_inverse=True)
    if len(unique) > MAX_ROWS:
        raise UsageError(
            f"there are {len(unique):,} cells, and a page shows {MAX_ROWS:,} at most: give fewer reports"
        )
    by_status = np.array(
        [[state_of(text, partial=part) for text in status_names] for part in (False, True)], dtype=np.uint8
    ).reshape(2, -1)
    shape = (len(unique), len(days))
    states: Codes = np.zeros(shape, np.uint8)
    numbers: Numbers = np.full(shape, -1, np.int32)
    checks = np.full(shape, -1, np.int32)
    statuses = np.full(shape, -1, np.int32)
    nights = night_of[owner] if len(owner) else owner.astype(np.int64)
    flat_place = row_of * max(1, len(days)) + nights
    codes = by_status[partial_of[owner].astype(np.int64), status_codes] if len(owner) else by_status[0]
    states.flat[flat_place] = codes[: len(flat_place)]
    numbers.flat[flat_place] = owner
    checks.flat[flat_place] = check_codes
    statuses.flat[flat_place] = status_codes
    names = list(check_names), list(status_names)
    for at, same in _repeated(flat_place):
        merged = _merged(
            [
                (
                    check_names[check_codes[i]],
                    status_names[status_codes[i]],
                    bool(partial_of[owner[i]]),
                    int(owner[i]),
                )
                for i in same
            ]
        )
        names[0].append(merged[0])
        names[1].append(merged[1])
        states.flat[at], numbers.flat[at] = merged[2], merged[3]
        checks.flat[at], statuses.flat[at] = len(names[0]) - 1, len(names[1]) - 1
    last: Numbers = np.maximum.accumulate(
        np.where(states > 0, np.arange(shape[1], dtype=np.int32), np.int32(-1)), axis=1
    )
    back = {i: name for name, i in variants.items()}
    parts = [parse_cell_id(cell_names[int(key) // max(1, len(variants))]) for key in unique]
    order = sorted(
        range(len(unique)),
        key=lambda i: (*_sort_key(parts[i]), back[int(unique[i]) % max(1, len(variants))]),
    )
    letters = np.frombuffer(STATES.encode(), np.uint8)[states]
    views = tuple(
        _view(
            parts[i],
            back[int(unique[i]) % max(1, len(variants))],
            letters[i].tobytes().decode(),
            numbers[i],
            stale_days,
            _tracks(checks[i], statuses[i], names),
        )
        for i in order
    )
    index = np.array(order, dtype=np.int64)
    return views, states[index], numbers[index], last[index]


def _coded(array: pa.Array) -> tuple[npt.NDArray[np.int64], list[str]]:
    found = array.dictionary_encode()
    return np.asarray(found.indices, dtype=np.int64), found.dictionary.to_pylist()


def _under_verdict(
    status_codes: npt.NDArray[np.int64],
    status_names: list[str],
    owner: Numbers,
    cell_codes: npt.NDArray[np.int64],
    cell_names: Sequence[str],
    certificates: Sequence[Certificate],
) -> tuple[npt.NDArray[np.int64], list[str]]:
    """The cells' letters, none of them greener than the certificate's verdict.

    Where a certificate is not CERTIFIED, and no cell of the device says why, its passes are failures
    (NOT_CERTIFIED) or prove nothing (INCONCLUSIVE, and every verdict that is not known).
    """
    kinds = np.array([_VERDICT_KINDS.get(c.verdict, 1) for c in certificates] or [0])
    if not len(owner) or not kinds.any():
        return status_codes, status_names
    devices: dict[str, int] = {}
    named = [devices.setdefault(parse_cell_id(name).device, len(devices)) for name in cell_names]
    groups = owner.astype(np.int64) * len(devices) + np.array(named, np.int64)[cell_codes]
    kind = kinds[owner]
    reasons = np.array([[bool(set(why) & set(text)) for text in status_names] for why in ("", "eiuf", "f")])
    explained = np.zeros(len(certificates) * len(devices), bool)
    np.logical_or.at(explained, groups, reasons[kind, status_codes])
    codes, names = status_codes.copy(), list(status_names)
    for verdict, table in ((1, str.maketrans("p", UNSETTLED)), (2, str.maketrans("pw", "ff"))):
        todo = (kind == verdict) & ~explained[groups]
        for code in np.unique(status_codes[todo]).tolist():
            codes[todo & (status_codes == code)] = len(names)
            names.append(status_names[code].translate(table))
    return codes, names


_VERDICT_KINDS: Final = {"CERTIFIED": 0, "WAIVED": 0, "INCONCLUSIVE": 1, "NOT_CERTIFIED": 2}


def _against(heads: Sequence[dict[str, Any]], days: Sequence[str]) -> dict[str, list[int]]:
    """By device, the nights of certificates that do not count and speak against it.

    One that does not tell when its run began, or tells of a day that is still to come, is of the last night.
    """
    place = {name: i for i, name in enumerate(days)}
    found: dict[str, list[int]] = {}
    for row in heads:
        if row["why"] and row["device"] and days:
            night = place.get(row["night"], len(days) - 1)
            if not row["night"] or row["night"] >= days[0]:
                found.setdefault(row["device"], []).append(night)
    return found


def _repeated(places: npt.NDArray[np.int64]) -> Iterator[tuple[int, list[int]]]:
    """The places that are there more than once, and where."""
    order = np.argsort(places, kind="stable")
    found, starts, counts = np.unique(places[order], return_index=True, return_counts=True)
    for at, start, count in zip(found.tolist(), starts.tolist(), counts.tolist(), strict=True):
        if count > 1:
            yield at, order[start : start + count].tolist()


def _merged(results: Sequence[tuple[str, str, bool, int]]) -> tuple[str, str, int, int]:
    """One cell's results of one night in several certificates, as those of one."""
    found: dict[str, tuple[int, int]] = {}
    whole = False
    for names, letters, partial, number in results:
        whole |= not partial
        for name, letter in zip(names.split("\n"), letters, strict=True):
            rank = _OUTWEIGHS.index(letter)
            found[name] = max(found.get(name, (-1, -1)), (rank, number))
    letters = "".join(_OUTWEIGHS[rank] for rank, _ in found.values())
    state = state_of(letters, partial=not whole)
    # The last certificate that has a check which made it so.
    deciding = [n for rank, n in found.values() if state_of(_OUTWEIGHS[rank], partial=not whole) == state]
    return "\n".join(found), letters, state, max(deciding)


def _tracks(
    checks: Numbers, statuses: Numbers, names: tuple[list[str], list[str]]
) -> Callable[[], tuple[Track, ...]]:
    def found() -> tuple[Track, ...]:
        # A pass that proves nothing is shown as what it is: no answer.
        rows: dict[str, bytearray] = {}
        at = 0
        for (which, said), run in groupby(zip(checks.tolist(), statuses.tolist(), strict=True)):
            length = sum(1 for _ in run)
            if which >= 0:
                letters = names[1][said].replace(UNSETTLED, "i")
                for name, letter in zip(names[0][which].split("\n"), letters, strict=True):
                    row = rows.setdefault(name, bytearray(b"." * len(checks)))
                    row[at : at + length] = letter.encode() * length
            at += length
        return tuple(Track(name, row.decode()) for name, row in rows.items())

    return found


def _sort_key(parts: CellParts) -> tuple[Any, ...]:
    # What is not of a cell's form comes last.
    return (
        not parts.well_formed,
        parts.device,
        parts.model,
        parts.suite,
        parts.backend,
        parts.tp or 0,
        parts.dp or 0,
        parts.mode,
        parts.raw,
    )


def _view(
    parts: CellParts,
    variant: str,
    nights: str,
    numbers: Numbers,
    stale_days: int,
    checks: Callable[[], tuple[Track, ...]],
) -> CellView:
    last = len(nights.rstrip(".")) - 1
    age = len(nights) - 1 - last
    last_good = first_bad = last_pass = since = None
    if nights[last] not in "psk" or nights.rfind("f") >= 0 or nights.rfind("w") >= 0:
        last_good, first_bad = turn([_STANDING.get(letter, "unknown") for letter in nights])
    if first_bad is not None:
        last_pass, since = last_good, first_bad
    elif nights[last] in "ie":
        before = nights.rfind("p", 0, last)
        last_pass = before if before >= 0 else None
        since = next(i for i in range(before + 1, last + 1) if nights[i] in "ie")
    return CellView(
        cell=parts.raw,
        variant=variant,
        parts=parts,
        nights=nights,
        certificates=numbers,
        last=last,
        age=age,
        stale=age > stale_days,
        last_good=last_good,
        first_bad=first_bad,
        last_pass=last_pass,
        since=since,
        checks=checks,
    )


def _severity(letter: str, verdict: str) -> int:
    """What a cell's answer says of a verdict, as a place in ``VERDICTS``."""
    if letter in ".s":
        return STATES.index(letter)
    if letter == "f":
        return VERDICTS.index("NOT_CERTIFIED")
    if letter in "iek":
        return VERDICTS.index("INCONCLUSIVE")
    if verdict not in ("CERTIFIED", "WAIVED"):
        # A waived failure is no pass.
        return VERDICTS.index("INCONCLUSIVE" if letter == "w" else "PASSING")
    return VERDICTS.index("WAIVED" if letter == "w" else "CERTIFIED")


def _standings(
    cells: Sequence[CellView],
    states: Codes,
    numbers: Numbers,
    last: Numbers,
    certificates: Sequence[Certificate],
    stale_days: int,
    against: Mapping[str, Sequence[int]],
    *,
    by_model: bool,
) -> tuple[tuple[Group, ...], Codes, list[list[int]]]:
    """Verdicts of each device (and model) at the day, the same for each night, and the rows they are of.

    Args:
        against: by device, the nights of what speaks against it and does not count. From there on it is
            INCONCLUSIVE at best, until it reports in a later night.
    """
    groups: dict[tuple[str, str, str], list[int]] = {}
    for i, cell in enumerate(cells):
        device = cell.parts.device or certificates[int(cell.certificates[cell.last])].device
        key = (device, cell.parts.model, cell.variant) if by_model else (device, "", "")
        groups.setdefault(key, []).append(i)
    if not cells:
        return (), np.zeros((0, 0), np.uint8), []
    kinds = ["CERTIFIED", "OTHER"]
    certified = np.array([0 if c.verdict in ("CERTIFIED", "WAIVED") else 1 for c in certificates] + [1])
    grades = np.array([[_severity(letter, kind) for letter in STATES] for kind in kinds], dtype=np.uint8)
    width = states.shape[1]
    at = np.maximum(last, 0)
    rows = np.arange(len(cells))[:, None]
    known = last >= 0
    grade = np.where(known, grades[certified[numbers[rows, at]], states[rows, at]], 0).astype(np.uint8)
    old = known & ((np.arange(width)[None, :] - at) > stale_days)
    # A failure stays one until another answer; anything better that is too old is no answer any more.
    grade = np.where(old, np.maximum(grade, VERDICTS.index("INCOMPLETE")), grade).astype(np.uint8)
    fresh = known & ~old
    found = []
    codes = np.zeros((len(groups), width), np.uint8)
    before_codes = np.zeros_like(codes)
    for g, ((device, _, _), members) in enumerate(groups.items()):
        index = np.array(members)
        worst = grade[index].max(axis=0)
        reported = np.flatnonzero((numbers[index] >= 0).any(axis=0))
        for night in against.get(identity(device, 60), ()):
            until = next((n for n in reported.tolist() if n > night), width)
            held = np.arange(width)
            held = (held >= night) & (held < until) & (worst > 0)
            worst = np.where(held, np.maximum(worst, VERDICTS.index("INCONCLUSIVE")), worst)
        before_codes[g] = worst
        gone = known[index].any(axis=0) & ~fresh[index].any(axis=0)
        codes[g] = np.where(gone, _STALE, worst)
    for g, ((device, model, variant), members) in enumerate(groups.items()):
        newest = max(members, key=lambda i: (cells[i].last, int(cells[i].certificates[cells[i].last])))
        verdict = VERDICTS[int(codes[g, -1])]
        found.append(
            Group(
                device=device,
                model=model,
                variant=variant,
                verdict=verdict,
                before=_before(codes[g]) if verdict == "STALE" else verdict,
                age=min(cells[i].age for i in members),
                oldest=max(cells[i].age for i in members),
                cells=len(members),
                good=sum(cells[i].now == "p" and not cells[i].stale for i in members),
                stale=sum(cells[i].stale for i in members),
                certificate=int(cells[newest].certificates[cells[newest].last]),
            )
        )
    return tuple(found), codes, list(groups.values())


def _before(codes: Codes) -> Verdict:
    """The last verdict that was not stale."""
    return VERDICTS[int(next(code for code in codes[::-1] if code != _STALE))]


def _versions(
    certificates: Sequence[Certificate], days: Sequence[str]
) -> dict[str, tuple[tuple[str, str, str], ...]]:
    """What ran on each device in each night; several releases in one night are all named."""
    found: dict[str, dict[str, list[tuple[str, str, str]]]] = {}
    for one in certificates:
        found.setdefault(one.device, {}).setdefault(one.night, []).append(one.versions)
    none = ("", "", "")
    return {
        device: tuple(
            tuple(" / ".join(dict.fromkeys(v[i] for v in by[name] if v[i])) for i in range(3))
            if name in by
            else none  # type: ignore[misc]
            for name in days
        )
        for device, by in sorted(found.items())
    }


def _ranges(
    cells: Sequence[CellView],
    certificates: Sequence[Certificate],
    differences: Callable[[int, int], tuple[ValueChange, ...]],
) -> tuple[Range, ...]:
    groups: dict[tuple[int | None, int], list[int]] = {}
    for i, cell in enumerate(cells):
        if cell.first_bad is not None:
            good = None if cell.last_good is None else int(cell.certificates[cell.last_good])
            groups.setdefault((good, int(cell.certificates[cell.first_bad])), []).append(i)
    found = []
    for (good, bad), members in groups.items():
        one = cells[members[0]]
        assert one.first_bad is not None
        found.append(
            Range(
                device=certificates[bad].device,
                last_good=good,
                first_bad=bad,
                good_night=one.last_good,
                bad_night=one.first_bad,
                cells=tuple(members),
                environment=() if good is None else differences(good, bad),
            )
        )
    # What passed once comes first, the newest of those on top: that is a regression to look at.
    return tuple(sorted(found, key=lambda r: (r.last_good is None, -r.bad_night, r.device, r.cells)))


def _changes(
    models: Sequence[Group],
    codes: Codes,
    groups: Sequence[Sequence[int]],
    numbers: Numbers,
    certificates: Sequence[Certificate],
    days: Sequence[str],
) -> tuple[Change, ...]:
    none = ("", "", "")
    found = []
    for g, one in enumerate(models):
        line = codes[g]
        steps = np.flatnonzero(np.diff(line.astype(np.int16), prepend=0))
        versions = none
        for night in steps.tolist():
            mine = {int(n) for n in numbers[np.array(groups[g]), night] if n >= 0}
            newest = max((certificates[n] for n in mine), key=lambda c: c.ended, default=None)
            now = newest.versions if newest is not None else versions
            found.append(
                Change(
                    device=one.device,
                    model=one.model,
                    variant=one.variant,
                    night=days[night],
                    time=newest.ended if newest is not None else f"{days[night]}T00:00:00Z",
                    before=VERDICTS[int(line[night - 1])] if night else "NONE",
                    after=VERDICTS[int(line[night])],
                    versions=now,
                    versions_before=versions,
                )
            )
            versions = now
    return tuple(sorted(found, key=lambda c: (c.night, c.time, c.device, c.model, c.variant), reverse=True))


def _trends(
    heads: Sequence[dict[str, Any]],
    shown: Sequence[int],
    certificates: Sequence[Certificate],
    days: Sequence[str],
) -> tuple[Trend, ...]:
    place = {name: i for i, name in enumerate(days)}
    run: dict[str, dict[int, float]] = {}
    starts: dict[tuple[str, str], dict[int, list[float]]] = {}
    for number, one in zip(shown, certificates, strict=True):
        night = place[one.night]
        by = run.setdefault(one.device, {})
        if one.seconds:
            by[night] = by.get(night, 0.0) + one.seconds
        for start in heads[number]["starts"]:
            if start["arm"] == "treatment":
                starts.setdefault((one.device, start["mode"]), {}).setdefault(night, []).append(
                    start["seconds"]
                )

    def line(values: dict[int, float]) -> tuple[float | None, ...]:
        return tuple(values.get(i) for i in range(len(days)))

    def medians(device: str, mode: str) -> tuple[float | None, ...]:
        return line({i: median(found) for i, found in starts.get((device, mode), {}).items()})

    return tuple(
        Trend(
            device=device,
            run=line(run[device]),
            start_eager=medians(device, "eager"),
            start_compile=medians(device, "compile"),
            start_graphs=medians(device, "graphs"),
        )
        for device in sorted(run)
    )


def runs(nights: str) -> Iterable[tuple[str, int, int]]:
    """The letters as ``(letter, first night, how many)``."""
    at = 0
    for letter, run in groupby(nights):
        length = sum(1 for _ in run)
        yield letter, at, length
        at += length
