"""Shards' journals → the journal of the whole run. Pure.

Each shard has the whole plan in its first line, so what a set of them lacks is missed whatever is decided
here: ``build`` takes a planned check without a result for an error. Here it is said by name, before.

The order of the merged journal is that of a run that runs one unit at a time: ``run_started``, the units in
the order of the plan with their events as they came, ``run_finished``. What a shard did after it was resumed
follows all that was done before, shard by shard, behind its ``run_resumed``.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from bi_harness.certificate.build import build
from bi_harness.certificate.by_unit import unit_names, unit_of
from bi_harness.certificate.events import (
    Event,
    RunFinished,
    RunResumed,
    RunStarted,
    ShardStarted,
    plan_digest,
)
from bi_harness.certificate.problems import shortened
from bi_harness.certificate.times import utc
from bi_harness.certificate.waivers import day_of, expired
from bi_harness.errors import UsageError
from bi_harness.runner.same_run import differences

VARIABLE: Final = "BI_HARNESS_SHARD"
_FLAG: Final = "--shard"
_OWN_OPTIONS: Final = ("shard", "engine_python", "cores")
"""Options that are of a host, or of one shard."""


@dataclass(frozen=True, slots=True)
class ShardJournal:
    """One of the runs to merge.

    Attributes:
        place: its folder, for messages.
        events: of its journal, signs of life and all.
        digest: sha256 of the journal's bytes, hexadecimal.
    """

    place: str
    events: Sequence[Event]
    digest: str

    @property
    def start(self) -> RunStarted:
        """The first event, of a journal of which a certificate can be made."""
        first = self.events[0]
        assert isinstance(first, RunStarted)
        return first

    @property
    def name(self) -> str:
        """``shard 1 of 3 (reports/h200/...)``."""
        shard = self.start.shard
        return f"shard {shard.index} of {shard.count} ({self.place})" if shard else self.place

    @property
    def complete(self) -> bool:
        """Whether it came to its end."""
        last = self.events[-1]
        return isinstance(last, RunFinished) and not last.interrupted


def merged(shards: Sequence[ShardJournal]) -> list[Event]:
    """The journal of the run that these are the shards of; of one run that is no shard, its own.

    A shard that was cut off or interrupted is taken as it is: the merged run did not come to its end either.

    Args:
        shards: in any order.

    Raises:
        UsageError: they do not make one whole run; a line for each thing that is wrong.
    """
    _refuse(_damaged(shards))
    if len(shards) == 1 and shards[0].start.shard is None:
        return list(shards[0].events)
    _refuse(_not_one_set(shards))
    ordered = sorted(shards, key=lambda one: _shard(one).index)
    # Units that are not where they should be may come of plans that differ: that is said alone.
    _refuse(_foreign(ordered))
    _refuse([*_units(ordered), *_waivers(ordered)])
    return list(_events(ordered))


def merged_id(shards: Sequence[ShardJournal]) -> str:
    """The merged run's id, as of a run that began with the first shard: the same for the same shards."""
    ids = {one.start.run_id for one in shards}
    if len(ids) == 1:
        return ids.pop()
    first = min(shards, key=lambda one: one.start.time)
    began = utc(first.start.time)
    if began is None:
        raise UsageError(
            f"cannot merge: the start of {first.name} is not a time in UTC: {shortened(first.start.time, 60)}"
        )
    together = hashlib.sha256(" ".join(sorted(one.digest for one in shards)).encode()).hexdigest()
    return f"{began:%Y%m%dT%H%M%SZ}-{together[:6]}"


def _refuse(problems: Sequence[str]) -> None:
    if problems:
        raise UsageError("\n".join(["cannot merge: these are not the shards of one run", *problems]))


def _damaged(shards: Sequence[ShardJournal]) -> list[str]:
    found = []
    for one in shards:
        try:
            build(one.events, one.digest)
        except UsageError as error:
            found.append(f"{one.place}: {error}")
    return found


def _shard(one: ShardJournal) -> ShardStarted:
    shard = one.start.shard
    assert shard is not None
    return shard


def _not_one_set(shards: Sequence[ShardJournal]) -> list[str]:
    """What is wrong with how many there are, and which."""
    if not shards:
        return ["no shard was given"]
    if whole := [f"{one.place}: is a whole run and no shard" for one in shards if one.start.shard is None]:
        return whole
    counts = {_shard(one).count for one in shards}
    if len(counts) > 1:
        return [f"{one.name}: the others are of another number of shards" for one in shards]
    found = []
    by_index: dict[int, list[ShardJournal]] = {}
    for one in shards:
        by_index.setdefault(_shard(one).index, []).append(one)
    (count,) = counts
    for index, several in sorted(by_index.items()):
        if len(several) > 1:
            places = ", ".join(one.place for one in several)
            found.append(
                f"shard {index} of {count} is there {len(several)} times: {places}. "
                "A second run of a shard does not undo the first"
            )
    if missing := [str(index) for index in range(1, count + 1) if index not in by_index]:
        found.append(f"missing: shard {', '.join(missing)} of {count}")
    return found


def _foreign(shards: Sequence[ShardJournal]) -> list[str]:
    """Where a shard is of another run than the first one."""
    first = shards[0]
    found = [
        f"{one.name}: is damaged: its plan is not the one that it was begun with"
        for one in shards
        if _shard(one).plan != plan_digest(one.start.plan)
    ]
    for one in shards[1:]:
        differ = [
            *differences(_whole(first.start), _whole(one.start), words=("there", "here")),
            *_further(first.start, one.start),
        ]
        found += [f"{one.name}: is of another run than {first.name}: {line}" for line in differ]
    return found


def _further(then: RunStarted, now: RunStarted) -> list[str]:
    """What need not be the same where a run is resumed, but in one certificate has one place."""
    options = [
        {k: v for k, v in (start.asked or {}).get("options", {}).items() if k not in _OWN_OPTIONS}
        for start in (then, now)
    ]
    found = [
        f"option {name}: {options[0].get(name)} there, {options[1].get(name)} here"
        for name in dict.fromkeys([*options[0], *options[1]])
        if options[0].get(name) != options[1].get(name)
    ]
    if then.provenance.get("harness") != now.provenance.get("harness"):
        found.append(
            f"bi-harness: {then.provenance.get('harness')} there, {now.provenance.get('harness')} here"
        )
    return found


def _units(shards: Sequence[ShardJournal]) -> list[str]:
    """Units of which no shard is, or more than one; and what a shard tells of those of others."""
    owner: dict[str, ShardJournal] = {}
    found = []
    for one in shards:
        for unit, count in Counter(_shard(one).units).items():
            other = owner.setdefault(unit, one)
            if other is not one or count > 1:
                found.append(f"overlapping: {unit} is of {other.name} and of {one.name}")
    planned = dict.fromkeys(p.unit for p in shards[0].start.plan)
    found += [f"missing: no shard has {unit}" for unit in planned if unit not in owner]
    for one in shards:
        names, own = unit_names(one.start), frozenset(_shard(one).units)
        told = ((event, unit_of(event, names)) for event in one.events[1:])
        stray = next(((event, of) for event, of in told if of is not None and of not in own), None)
        if stray is not None:
            what = stray[1] or "no unit of its plan"
            found.append(f"{one.name}: is damaged: it has a {stray[0].type} of {what}")
    return found


def _waivers(shards: Sequence[ShardJournal]) -> list[str]:
    """A run has one day on which its waivers hold or not."""
    days = [day_of(one.start.time) for one in shards]
    return [
        f"the waiver of {waiver.check} on {waiver.cell} expired on {waiver.expires}, after some of the "
        "shards began and before others did: they have no common answer. Run them on one day"
        for waiver in shards[0].start.waivers
        if len({expired(waiver, day) for day in days}) > 1
    ]


def _whole(start: RunStarted) -> RunStarted:
    """The first event of a shard, as the whole run would have it."""
    asked = start.asked
    if asked is not None and isinstance(asked.get("options"), Mapping):
        asked = {**asked, "options": {**asked["options"], "shard": None}}
    provenance = dict(start.provenance)
    if isinstance(provenance.get("environment"), Mapping):
        provenance["environment"] = {k: v for k, v in provenance["environment"].items() if k != VARIABLE}
    if isinstance(provenance.get("command"), list):
        provenance["command"] = _without_flag(provenance["command"])
    return start.model_copy(update={"shard": None, "asked": asked, "provenance": provenance})


def _without_flag(command: Sequence[Any]) -> list[Any]:
    kept: list[Any] = []
    words = iter(command)
    for word in words:
        if word == _FLAG:
            next(words, None)
        elif not str(word).startswith(f"{_FLAG}="):
            kept.append(word)
    return kept


def _events(shards: Sequence[ShardJournal]) -> Iterator[Event]:
    starts = [_whole(one.start) for one in shards]
    yield starts[0].model_copy(
        update={
            "time": min(start.time for start in starts),
            "run_id": merged_id(shards),
            "device": _device(starts),
        }
    )
    units = unit_names(starts[0])
    order = list(dict.fromkeys(p.unit for p in starts[0].plan if p.rule is None))
    attempts = [list(_attempts(one.events[1:])) for one in shards]
    firsts: dict[str, list[Event]] = {}
    for one in attempts:
        firsts |= _by_unit(one[0][1], units)
    yield from _in_order(firsts, order)
    for shard, one in zip(shards, attempts, strict=True):
        for resumed, events in one[1:]:
            assert resumed is not None
            # Of a shard without units, too: none of the others' was resumed.
            yield resumed.model_copy(update={"of": _shard(shard).units})
            yield from _in_order(_by_unit(events, units), order)
    ends = [one.events[-1] for one in shards]
    finished = [end for end in ends if isinstance(end, RunFinished)]
    if len(finished) == len(ends):
        yield RunFinished(
            time=max(end.time for end in finished), interrupted=any(end.interrupted for end in finished)
        )


def _device(starts: Sequence[RunStarted]) -> dict[str, Any]:
    """What the first shard's host said it is; and the names of all, where there were several."""
    device = starts[0].device
    hosts = [start.device.get("host") for start in starts]
    names = [host.get("hostname") for host in hosts if isinstance(host, Mapping)]
    different = list(dict.fromkeys(str(name) for name in names))
    return {**device, "hosts": different} if len(different) > 1 else device


def _attempts(events: Sequence[Event]) -> Iterator[tuple[RunResumed | None, list[Event]]]:
    """What each attempt at a shard told, without its end; and what began it."""
    resumed: RunResumed | None = None
    told: list[Event] = []
    for event in events:
        if isinstance(event, RunResumed):
            yield resumed, told
            resumed, told = event, []
        elif not isinstance(event, RunFinished):
            told.append(event)
    yield resumed, told


def _by_unit(events: Sequence[Event], units: Mapping[str, str]) -> dict[str, list[Event]]:
    found: dict[str, list[Event]] = {}
    for event in events:
        unit = unit_of(event, units)
        assert unit, "looked at before"
        found.setdefault(unit, []).append(event)
    return found


def _in_order(events: Mapping[str, Sequence[Event]], order: Sequence[str]) -> Iterator[Event]:
    for unit in order:
        yield from events.get(unit, ())
