"""Mutations of a file's structure: its keys, elements, values and events, never a random byte.

A journal is a list of JSON lines, a certificate one JSON document. Each class of mutation changes one place,
at any depth, and gives what the runner could have spelled, so that a reader has to look at the content.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

Place = tuple[Any, Any]
"""A mapping and its key, or a list and its index."""

_REPEATED: Final = "\x00repeated\x00"
_RAW: Final = "\x00raw\x00"

EXTREMES: Final[tuple[Any, ...]] = (
    *(0, -1, 1, 2**31, 2**53 - 1, 2**53, 2**63, 2**64, 10**40, 10**400, -(10**400)),
    *(0.5, -0.0, 5e-324, 1.7976931348623157e308, -1e300),
    *("", " ", "\0", "\n", "\x1b[31m", "\u202e", "\ufffe", "\U0001f600", "A" * 5_000, "9" * 5_000, "../../x"),
    *("0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "0000-00-00", "2026-02-30T00:00:00Z", "nan"),
    *("d/m/B/tp" + "9" * 5_000 + "-dp1/eager/s", "d/m/B/tp\u0661-dp1/eager/s", "sha256:", "0x", "*" * 200),
    *(None, True, False, [], {}),
)
RAW_VALUES: Final = (
    *("NaN", "Infinity", "-Infinity", "1e999", "-1e999", "1E-999", "-0", "0.0e0", "01", "+1", ".5"),
    *("9" * 5_000, "-" + "9" * 5_000, "1" + "0" * 400, "0." + "9" * 5_000),
    *('"\\ud800"', '"\\udc00"', '"\\ud800\\ud800"', '"\\q"', '"\\u00"', '"\\u0000"', '"\x01"'),
    *("[" * 150 + "]" * 150, "[" * 5_000 + "]" * 5_000, '{"a":' * 150 + "1" + "}" * 150, "{", "]", ""),
)
LOOKED_UP: Final = (
    *("digests", "checkpoints", "journal", "vllm", "version", "record_sha256", "harness", "dirty"),
    *("disagreements", "host", "hostname", "gpus", "name", "nodes", "id", "command", "environment"),
    *("planted_fault", "verified", "options", "paths", "seed", "shard", "waivers", "waiver", "endpoint"),
    *("node", "of", "asked", "rule", "axes", "planted_control", "ops", "modules", "localized", "resumed"),
    *("lost", "power", "preloaded", "torn"),
)
"""Keys that a reader knows, in free parts or in a record that has them elsewhere."""

TYPES: Final[Mapping[str, Callable[[Any], Any]]] = {
    "text": lambda old: json.dumps(old),
    "number": lambda old: len(str(old)),
    "real": lambda old: len(str(old)) + 0.5,
    "truth": lambda old: bool(old),
    "nothing": lambda old: None,
    "list": lambda old: [old],
    "mapping": lambda old: {"value": old},
}


def places(value: Any) -> Iterator[Place]:
    """Every key and element of a JSON value, at any depth."""
    keys: Sequence[Any] = ()
    if isinstance(value, dict):
        keys = list(value)
    elif isinstance(value, list):
        keys = range(len(value))
    for key in keys:
        yield value, key
        yield from places(value[key])


def _some(value: Any, rng: random.Random, holder: type | tuple[type, ...] = (dict, list)) -> Place | None:
    found = [place for place in places(value) if isinstance(place[0], holder)]
    return rng.choice(found) if found else None


def _insert(mapping: dict[str, Any], before: str, key: str, value: Any) -> None:
    """As another key of a mapping, before one that it has."""
    items = [
        pair for k, v in mapping.items() for pair in ([(key, value), (k, v)] if k == before else [(k, v)])
    ]
    mapping.clear()
    mapping.update(items)


def drop(value: Any, rng: random.Random, other: Any) -> bool:
    """Take out a key or an element."""
    place = _some(value, rng)
    if place is not None:
        del place[0][place[1]]
    return place is not None


def duplicate(value: Any, rng: random.Random, other: Any) -> bool:
    """Have an element twice in its list."""
    place = _some(value, rng, list)
    if place is not None:
        place[0].insert(rng.randrange(len(place[0]) + 1), _copy(place[0][place[1]]))
    return place is not None


def swap(value: Any, rng: random.Random, other: Any) -> bool:
    """Exchange two elements of a list, or the values of two keys of a mapping."""
    holders = [h for h in _holders(value) if len(h) > 1]
    if not holders:
        return False
    holder = rng.choice(holders)
    one, two = rng.sample(list(holder) if isinstance(holder, dict) else range(len(holder)), 2)
    holder[one], holder[two] = holder[two], holder[one]
    return True


def retype(value: Any, rng: random.Random, other: Any) -> bool:
    """Give a value another type."""
    place = _some(value, rng)
    if place is not None:
        place[0][place[1]] = TYPES[rng.choice(list(TYPES))](place[0][place[1]])
    return place is not None


def extreme(value: Any, rng: random.Random, other: Any) -> bool:
    """Put the largest, smallest, longest or strangest of a type in a value's place."""
    place = _some(value, rng)
    if place is not None:
        old = place[0][place[1]]
        alike = [v for v in EXTREMES if type(v) is type(old)]
        place[0][place[1]] = rng.choice(alike if alike and rng.random() < 0.7 else EXTREMES)
    return place is not None


def nudge(value: Any, rng: random.Random, other: Any) -> bool:
    """Change a number by one, a truth to the other, or a text to another text of the same file."""
    found = [p for p in places(value) if isinstance(p[0][p[1]], int | str)]
    if not found:
        return False
    holder, key = rng.choice(found)
    old = holder[key]
    if isinstance(old, bool):
        holder[key] = not old
    elif isinstance(old, int):
        holder[key] = old + rng.choice((-1, 1))
    else:
        texts = [p[0][p[1]] for p in found if isinstance(p[0][p[1]], str)]
        holder[key] = rng.choice(texts)
    return True


def repeat_key(value: Any, rng: random.Random, other: Any) -> bool:
    """Name a key twice, with the same value or with another one, before or behind it."""
    place = _some(value, rng, dict)
    if place is None:
        return False
    mapping, key = place
    again = mapping[key] if rng.randrange(2) else rng.choice(EXTREMES[:5])
    if rng.randrange(2):
        mapping[f"{_REPEATED}{key}"] = again
    else:
        _insert(mapping, key, f"{_REPEATED}{key}", again)
    return True


def rename(value: Any, rng: random.Random, other: Any) -> bool:
    """Give a key another name: one of the file, or one that nobody knows."""
    place = _some(value, rng, dict)
    if place is None:
        return False
    mapping, key = place
    keys = sorted({p[1] for p in places(value) if isinstance(p[0], dict)})
    new = rng.choice([*keys, "", "x", "__class__", "a" * 300])
    if new not in mapping:
        _insert(mapping, key, new, mapping[key])
        del mapping[key]
    return True


def graft(value: Any, rng: random.Random, other: Any) -> bool:
    """Put a part of another run in a value's place: of the same key where it has one."""
    place = _some(value, rng)
    if place is None:
        return False
    holder, key = place
    theirs = list(places(other))
    alike = [p for p in theirs if p[1] == key and p[0][p[1]] != holder[key]]
    if theirs:
        donor = rng.choice(alike or theirs)
        holder[key] = _copy(donor[0][donor[1]])
    return True


def add_key(value: Any, rng: random.Random, other: Any) -> bool:
    """Add a key that readers look up, or another file's, to a mapping that may not have it."""
    mappings = [holder for holder in _holders(value) if isinstance(holder, dict)]
    if mappings:
        rng.choice(mappings)[rng.choice(LOOKED_UP)] = rng.choice(
            (*EXTREMES, ["x"], {"x": 1}, [[]], [{"x": []}])
        )
    return bool(mappings)


def raw_value(value: Any, rng: random.Random, other: Any) -> bool:
    """Put a number or text that JSON readers take differently, or not at all, in a value's place."""
    place = _some(value, rng)
    if place is not None:
        place[0][place[1]] = f"{_RAW}{rng.randrange(len(RAW_VALUES))}"
    return place is not None


Change = Callable[[Any, random.Random, Any], bool]
CHANGES: Final[Mapping[str, Change]] = {
    "drop a key or element": drop,
    "duplicate an element": duplicate,
    "swap two values": swap,
    "retype a value": retype,
    "an extreme value": extreme,
    "a neighbouring value": nudge,
    "repeat a key": repeat_key,
    "rename a key": rename,
    "a value of another run": graft,
    "a key that readers look up": add_key,
    "a value that is not JSON": raw_value,
}
"""Of one JSON value; each returns whether there was something to change."""


def drop_event(lines: list[bytes], rng: random.Random, other: Sequence[bytes]) -> None:
    """Take out a line."""
    del lines[rng.randrange(len(lines))]


def duplicate_event(lines: list[bytes], rng: random.Random, other: Sequence[bytes]) -> None:
    """Have a line twice."""
    lines.insert(rng.randrange(len(lines) + 1), rng.choice(lines))


def swap_events(lines: list[bytes], rng: random.Random, other: Sequence[bytes]) -> None:
    """Exchange two lines."""
    one, two = rng.sample(range(len(lines)), 2)
    lines[one], lines[two] = lines[two], lines[one]


def move_event(lines: list[bytes], rng: random.Random, other: Sequence[bytes]) -> None:
    """Put a line somewhere else."""
    line = lines.pop(rng.randrange(len(lines)))
    lines.insert(rng.randrange(len(lines) + 1), line)


def foreign_event(lines: list[bytes], rng: random.Random, other: Sequence[bytes]) -> None:
    """Put in a line of another run, or exchange one for it."""
    at = rng.randrange(len(lines))
    lines[at : at + rng.randrange(2)] = [rng.choice(other)]


def cut_off(lines: list[bytes], rng: random.Random, other: Sequence[bytes]) -> None:
    """Let the journal end within a line, or behind any whole one."""
    at = rng.randrange(len(lines))
    line = lines[at]
    lines[at:] = [line[: rng.randrange(len(line) + 1)]] if rng.randrange(2) else [line, b""]


def join_runs(lines: list[bytes], rng: random.Random, other: Sequence[bytes]) -> None:
    """Let another run's journal follow from some line on."""
    at = rng.randrange(len(lines))
    lines[at:] = other[rng.randrange(len(other)) :]


EventChange = Callable[[list[bytes], random.Random, Sequence[bytes]], None]
EVENT_CHANGES: Final[Mapping[str, EventChange]] = {
    "drop an event": drop_event,
    "duplicate an event": duplicate_event,
    "swap two events": swap_events,
    "move an event": move_event,
    "an event of another run": foreign_event,
    "a journal that is cut off": cut_off,
    "two runs in one journal": join_runs,
}

EVERYWHERE: Final = "an extreme value everywhere"
"""In place of all equal texts of a file, or of all numbers with the same key: nothing contradicts it."""

JOURNAL_CLASSES: Final = (*CHANGES, EVERYWHERE, *EVENT_CHANGES)
CERTIFICATE_CLASSES: Final = (*CHANGES, EVERYWHERE)


def everywhere(value: Any, rng: random.Random) -> None:
    """Put an extreme value in place of all equal texts, or of all numbers with the same key."""
    found = [p for p in places(value) if isinstance(p[0][p[1]], str | int | float)]
    holder, key = rng.choice(found)
    old = holder[key]
    alike = [v for v in EXTREMES if type(v) is type(old)] or EXTREMES
    new = rng.choice(alike)
    for one, at in found:
        now = one[at]
        if now == old if isinstance(old, str) else at == key and type(now) is type(old):
            one[at] = new


def mutate_journal(name: str, journal: bytes, other: bytes, rng: random.Random) -> bytes:
    """A journal with one mutation.

    Args:
        name: of ``JOURNAL_CLASSES``.
        journal: whole lines.
        other: another run's.
    """
    lines, theirs = journal.splitlines(), other.splitlines()
    if name in EVENT_CHANGES:
        EVENT_CHANGES[name](lines, rng, theirs)
        return b"\n".join(lines) + (b"" if name == "a journal that is cut off" else b"\n")
    if name == EVERYWHERE:
        values = [json.loads(line) for line in lines]
        everywhere(values, rng)
        return b"".join(_spelled(value, None) + b"\n" for value in values)
    while True:
        at = rng.randrange(len(lines))
        value = json.loads(lines[at])
        if CHANGES[name](value, rng, json.loads(rng.choice(theirs))):
            lines[at] = _spelled(value, None)
            return b"\n".join(lines) + b"\n"


def mutate_certificate(name: str, certificate: bytes, other: bytes, rng: random.Random) -> bytes:
    """A certificate with one mutation, spelled as bi-harness spells certificates.

    Args:
        name: of ``CERTIFICATE_CLASSES``.
        certificate: its file.
        other: another run's.
    """
    value = json.loads(certificate)
    if name == EVERYWHERE:
        everywhere(value, rng)
    else:
        changed = CHANGES[name](value, rng, json.loads(other))
        assert changed
    return spelled_certificate(value)


def spelled_certificate(value: Any) -> bytes:
    """A certificate's file, of its JSON."""
    return _spelled(value, 2) + b"\n"


def _spelled(value: Any, indent: int | None) -> bytes:
    text = json.dumps(
        value, indent=indent, ensure_ascii=False, separators=(",", ":") if indent is None else (",", ": ")
    )
    # Python writes 1e-07, pydantic 1e-7.
    text = re.sub(r"([0-9]e[-+])0([0-9])(?=[,\n\]}])", r"\1\2", text)
    repeated, raw = (json.dumps(mark)[1:-1] for mark in (_REPEATED, _RAW))
    text = text.replace(repeated, "")
    for number, spelled in enumerate(RAW_VALUES):
        text = text.replace(f'"{raw}{number}"', spelled)
    return text.encode("utf-8", "surrogatepass")


def _holders(value: Any) -> Iterator[Any]:
    if isinstance(value, dict | list):
        yield value
        for part in value.values() if isinstance(value, dict) else value:
            yield from _holders(part)


def _copy(value: Any) -> Any:
    return json.loads(json.dumps(value))
