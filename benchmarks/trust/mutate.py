"""Changing a file in ways that a random byte hardly ever does: a journal's value, a line of YAML."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

Mutator = Callable[[bytes, random.Random], bytes]

WORDS: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2**31, 2**63, 2**64, 10**40, 0.5, -0.0, 1e308, "", "x", " ", [], {}),
    *("pass", "fail", "error", "skip", "waived", "inconclusive", "CERTIFIED", "completed", "crashed"),
    *(
        "sha256:" + "0" * 64,
        "0x00000000",
        "2026-01-01T00:00:00Z",
        "9999-12-31T23:59:59+23:59",
        "nan",
        "1e999",
    ),
    *("../../x", "/etc/passwd", "<script>alert(1)</script>", "\x1b[31m", "\u202e", "A" * 5_000, "\0", "\n"),
    *([[]], {"a": {"b": []}}, [None], ["pass"], {"digests": 1}, {"vllm": {"version": 3}}),
)


def mutate_lines(data: bytes, rng: random.Random) -> bytes:
    """Of JSON lines: some lines taken out, doubled or exchanged, some values replaced, some bytes changed."""
    lines = data.split(b"\n")
    for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
        at = rng.randrange(len(lines))
        what = rng.randrange(10)
        if what == 0 and len(lines) > 1:
            del lines[at]
        elif what == 1:
            lines.insert(rng.randrange(len(lines) + 1), lines[at])
        elif what == 2:
            to = rng.randrange(len(lines))
            lines[at], lines[to] = lines[to], lines[at]
        elif what == 3:
            lines[at] = mutate_bytes(lines[at], rng)
        else:
            lines[at] = _json(lines[at], rng)
    return b"\n".join(lines)


def mutate_json(data: bytes, rng: random.Random) -> bytes:
    """Of one JSON document."""
    return mutate_bytes(data, rng) if rng.randrange(8) == 0 else _json(data, rng)


def _json(text: bytes, rng: random.Random) -> bytes:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return mutate_bytes(text, rng)
    places = list(_places(value))
    for _ in range(rng.choice((1, 1, 2, 5))):
        if not places:
            return mutate_bytes(text, rng)
        holder, key = rng.choice(places)
        _change(holder, key, rng)
    return json.dumps(value, ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")


def _places(value: Any, depth: int = 0) -> list[tuple[Any, Any]]:
    found: list[tuple[Any, Any]] = []
    keys: list[Any] = (
        list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
    )
    for key in keys:
        found.append((value, key))
        if depth < 8:
            found += _places(value[key], depth + 1)
    return found


def _change(holder: Any, key: Any, rng: random.Random) -> None:
    try:
        old = holder[key]
    except (KeyError, IndexError):  # an earlier change took it away
        return
    what = rng.randrange(8)
    if what == 0:
        del holder[key]
    elif what == 1 and isinstance(holder, dict):
        holder[rng.choice(("x", "type", "rule", "digests", "__class__", "\u202e", "a" * 300))] = old
    elif what == 2 and isinstance(holder, list):
        holder.insert(rng.randrange(len(holder) + 1), old)
    elif what == 3 and isinstance(old, int):
        holder[key] = old + rng.choice((-1, 1, 7))
    elif what == 4 and isinstance(old, str):
        holder[key] = old + str(rng.choice(WORDS))
    else:
        holder[key] = rng.choice(WORDS)


_YAML = (
    *(
        "a: ",
        "- ",
        "? ",
        ": ",
        "&x ",
        "*x",
        "!!str ",
        "!x ",
        "<<: *x",
        "[",
        "]",
        "{",
        "}",
        "|",
        ">",
        "'",
        '"',
    ),
    *("#", "%YAML 1.1\n", "---\n", "...\n", "\t", "\r\n", "\ufeff", "\x85", "\u2028", "0x1F", "1_0", "010"),
    *(".inf", ".nan", "1e999", "null", "~", "yes", "on", "9" * 50, "\\x1b", "..", "tp: ", "models:", "id: "),
)


def mutate_yaml(data: bytes, rng: random.Random) -> bytes:
    """Of YAML: lines taken out, doubled, moved, indented; YAML's signs put in; some bytes changed."""
    text = data.decode("utf-8", "replace")
    lines = text.split("\n")
    for _ in range(rng.choice((1, 1, 2, 4, 8))):
        at = rng.randrange(len(lines))
        what = rng.randrange(8)
        if what == 0 and len(lines) > 1:
            del lines[at]
        elif what == 1:
            lines.insert(rng.randrange(len(lines) + 1), lines[at])
        elif what == 2:
            lines[at] = " " * rng.randrange(6) + lines[at].lstrip()
        elif what == 3:
            head, colon, _ = lines[at].partition(":")
            lines[at] = f"{head}{colon} {rng.choice(WORDS)}"
        elif what == 4:
            return mutate_bytes("\n".join(lines).encode(), rng)
        else:
            place = rng.randrange(len(lines[at]) + 1)
            lines[at] = lines[at][:place] + rng.choice(_YAML) + lines[at][place:]
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def mutate_bytes(data: bytes, rng: random.Random) -> bytes:
    """Of anything: a few bytes changed, cut out, put in or repeated."""
    found = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        at = rng.randrange(len(found) + 1)
        what = rng.randrange(5)
        if what == 0 and at < len(found):
            found[at] ^= 1 << rng.randrange(8)
        elif what == 1:
            del found[at : at + rng.choice((1, 1, 4, 64))]
        elif what == 2:
            found[at:at] = rng.randbytes(rng.choice((1, 1, 4)))
        elif what == 3:
            found[at:at] = found[max(0, at - 16) : at] * rng.choice((1, 2, 20))
        else:
            found[at : at + 1] = rng.choice(
                (b"\0", b"\n", b"\x1b", b"\xff", b'"', b"{", b"[", b"\xe2\x80\xae")
            )
    return bytes(found)
