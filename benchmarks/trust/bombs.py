"""Small files that ask for much: each must be refused (or be harmless) within limits of time and memory.

Everything here fits into what the reader accepts in bytes; a larger file is refused by its size alone.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from bi_harness.errors import HarnessError

LIMIT_S = 10.0
"""CPU seconds that one file may take."""

LIMIT_MB = 1_024
"""Peak memory of the process that reads it."""

HANGS_S = 60.0
"""Wall time after which a reader counts as waiting without end."""

_K = 256 * 1024 - 1_024


def yaml_bombs() -> dict[str, bytes]:
    """YAML texts of up to 256 KB, by what they are about."""
    nine = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 10)
    )
    merges = "a0: &a0 {k: 1}\n" + "".join(
        f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}\n" for i in range(1, 20)
    )
    texts: dict[str, str | bytes] = {
        "billion laughs": nine,
        "merge keys, nine by nine": merges,
        "merges of a wide mapping": "a: &a {"
        + ",".join(f"k{i}: 1" for i in range(9_000))
        + "}\nb: {<<: ["
        + "*a," * 1_000
        + "]}",
        "duplicate keys behind aliases": "x: &x {" + "a," * 60_000 + "}\ny: [" + "*x," * 30_000 + "]",
        "keys that are lists, behind aliases": "x: &x {" + "[]," * 40_000 + "}\ny: [" + "*x," * 30_000 + "]",
        "an alias of itself": "a: &a [*a]",
        "open lists": "[" * _K,
        "open mappings": "{" * _K,
        "closed lists": "[" * (_K // 2) + "]" * (_K // 2),
        "question marks": "? " * (_K // 2),
        "dashes": "- " * (_K // 2),
        "colons": ": " * (_K // 2),
        "a key of 250,000 letters": f"? {'A' * (_K - 10)}\n: 1",
        "an alias of 250,000 letters": "*" + "A" * _K,
        "a tag of 250,000 letters": "!" + "a" * (_K - 2) + " x",
        "an integer of 250,000 digits": "a: " + "9" * (_K - 3),
        "a version of 250,000 digits": "%YAML 1." + "9" * (_K - 20) + "\n---\na",
        "a float of 250,000 digits": "a: 0." + "9" * (_K - 5),
        "escapes": '"' + "\\x41" * (_K // 4) + '"',
        "the same key 40,000 times": "a: 1\n" * 40_000,
        "30,000 keys": "".join(f"{i:x}: 1\n" for i in range(30_000)),
        "60,000 list items": "[" + "a," * 60_000 + "]",
        "a plain text over 100,000 lines": "a\n" * 100_000,
        "a folded text over 60,000 lines": ">\n" + " a\n\n" * 60_000,
        "documents": "--- a\n" * 40_000,
        "a comment of 250,000 letters": "#" * _K,
        "empty lines": "\n" * _K,
        "quotes": "'" * _K,
        "tabs": "\t" * _K,
        "a NUL byte": "a: \0",
        "CRLF": "a: 1\r\n" * 40_000,
        "UTF-16": "a: 1".encode("utf-16"),
        "a byte order mark inside": "a: \ufeffb",
        "not UTF-8": b"a: 1\nb: \xff\n",
        "half a surrogate": b"a: \xed\xa0\x80",
        "a Python object": "a: !!python/object/apply:os.system [touch /tmp/owned]",
        "a binary tag": "a: !!binary AAAA",
        "a complex key": "{[1]: 2, {a: b}: c}",
    }
    return {name: text if isinstance(text, bytes) else text.encode() for name, text in texts.items()}


def spec_bombs(models: str, hardware: str, suite: str) -> dict[str, tuple[str, str]]:
    """``(file, text)`` of specs that are small YAML and much else, made from the small spec of the tests.

    Args:
        models, hardware, suite: its three files.
    """
    long = "n" * 60_000
    found = {
        "a long name with 10,000 mistakes": (
            "models.yaml",
            f"models:\n  ? {long}\n  : {{{', '.join(f'a{i:x}: 1' for i in range(10_000))}}}",
        ),
        "9,000 unknown keys": (
            "models.yaml",
            models.replace("tiny:\n", "tiny:\n" + "".join(f"    a{i:x}: 1\n" for i in range(9_000)), 1),
        ),
        "18,000 unknown suites": (
            "models.yaml",
            models.replace("[core]", f"[{','.join(f'core{i:x}' for i in range(18_000))}]", 1),
        ),
        "a long name twice, 3,000 times": (
            "models.yaml",
            f'x-a: &a ["{long}", "{long}"]\nmodels:\n'
            + "".join(f"  m{i}: {{suites: *a}}\n" for i in range(3_000)),
        ),
        "15,000 sizes": (
            "models.yaml",
            models.replace("tp: [1, 2]", f"tp: [{','.join(map(str, range(1, 15_000)))}]"),
        ),
        "a regular expression, nested": ("hardware.yaml", hardware.replace("[A100]", f"['{'(' * 50_000}']")),
        "a regular expression, repeated": ("hardware.yaml", hardware.replace("[A100]", "['a{99999999999}']")),
        "500 wide regular expressions": (
            "hardware.yaml",
            hardware.replace(
                "[A100]",
                "["
                + ",".join(f"'(?i)[\\x{i % 200 + 1:02x}-\\U000{0x10FF0 + i:05x}]'" for i in range(500))
                + "]",
            ),
        ),
        "a release of 5,000 digits": ("hardware.yaml", hardware.replace('"0.33.0"', f'"{"1" * 5_000}"')),
        "a range of 50,000 parts": ("hardware.yaml", hardware.replace('"<0.22"', f'"<{"1." * 50_000}"')),
        "a name of control characters": (
            "models.yaml",
            models.replace("hf: Org/Big", 'hf: "' + "A\\x1b" * 30_000 + '"'),
        ),
        "9,000 parameters of a kind that is none": (
            "suites/core/suite.yaml",
            suite.replace("prompts: 3", "prompts: 3, " + ", ".join(f"k{i}: [a]" for i in range(9_000))),
        ),
    }
    return {name: (file, text) for name, (file, text) in found.items()}


def journal_bombs(start: bytes, end: bytes) -> dict[str, bytes]:
    """Journals that are damaged, or sound and senseless.

    Args:
        start: a sound ``run_started`` line, without its newline.
        end: a sound ``run_finished`` line.
    """
    plan = b'{"type":"run_started","time":"t","run_id":"r","device":{},"scope":{"profile":"p","filters":{},'
    plan += b'"weights":"w","layers":null,"seed":%s},"plan":[%s],"provenance":{%s}}\n'
    found = {
        "a plan of a million nothings": plan % (b"0", b"0," * 1_000_000 + b"0", b""),
        "3,000,000 lists in a list": b'{"a":[' + b"[]," * 2_500_000 + b"0]}\n",
        "500,000 unknown keys": b'{"type":"run_finished","time":"t","interrupted":false,'
        + b",".join(b'"k%d":0' % i for i in range(500_000))
        + b"}\n",
        "the same key 300,000 times": b'{"type":"run_finished","time":"t",'
        + b'"interrupted":true,' * 300_000
        + b'"interrupted":false}\n',
        "lists in lists": b"[" * 4_000_000 + b"\n",
        "a deep provenance": plan % (b"0", b"", b'"a":' + b"[" * 100_000 + b"]" * 100_000),
        "a seed of a million digits": plan % (b"9" * 1_000_000, b"", b""),
        "a line of 9 MB": b'{"type":"run_finished","time":"' + b"A" * 9_000_000 + b'","interrupted":false}\n',
        "a million empty lines": b"\n" * 1_000_000,
        "no newline": b"A" * 8_000_000,
        "NUL bytes": start + b"\n" + b"\0" * 4096 + b"\n",
        "half a surrogate": b'{"type":"run_finished","time":"\\ud800","interrupted":false}\n',
        "a byte order mark": b"\xef\xbb\xbf" + start + b"\n" + end + b"\n",
        "CRLF": start + b"\r\n" + end + b"\r\n",
        "two runs": (start + b"\n") * 2 + end + b"\n",
        "only the end": end + b"\n",
        "nothing": b"",
        "the start 300 times": (start + b"\n") * 300,
    }
    shapes: tuple[bytes, ...] = (b"null", b"0", b'""', b'"x"', b"[]", b"[1]", b'{"x": 1}', b'{"x": {"y": 2}}')
    for key in (b"digests", b"vllm", b"checkpoints", b"harness", b"command", b"packages", b"devices"):
        for shape in shapes:
            name = f"a provenance with {key.decode()} {shape.decode()}"
            found[name] = plan % (b"0", b"", b'"%s":%s' % (key, shape)) + end + b"\n"
    return found


def certificate_bombs(sound: bytes, envelope: bytes) -> dict[str, bytes]:
    """Certificates and envelopes that are damaged, or ask for much.

    Args:
        sound: a certificate.
        envelope: a signed one.
    """
    checks = sound.index(b'"checks": [') + len(b'"checks": [')
    names = sound.index(b'"passedTests": [') + len(b'"passedTests": [')
    payload = envelope.index(b'"payload": "') + len(b'"payload": "')
    return {
        "a million nothings for checks": sound[:checks] + b"0," * 1_000_000 + sound[checks:],
        "a million numbers for names": sound[:names] + b"0," * 1_000_000 + sound[names:],
        "a million names": sound[:names] + b'"a",' * 1_000_000 + sound[names:],
        "500,000 unknown keys": b"{" + b"".join(b'"k%d":0,' % i for i in range(500_000)) + sound[1:],
        "a verdict twice": sound.replace(b'"verdict":', b'"verdict": "CERTIFIED", "verdict":', 1),
        "2,500,000 lists in a list": b"[" + b"[]," * 2_500_000 + b"0]",
        "open lists": b"[" * 4_000_000,
        "open objects": b'{"a":' * 1_000_000,
        "a number of a million digits": sound.replace(b'"seed": 0', b'"seed": ' + b"9" * 1_000_000),
        "a number of 4,000 digits": sound.replace(b'"seed": 0', b'"seed": ' + b"9" * 4_000),
        "NaN": sound.replace(b'"duration_s": 1.5', b'"duration_s": NaN'),
        "a reason of 8,000,000 letters": sound.replace(
            b'"reason": ""', b'"reason": "' + b"A" * 8_000_000 + b'"', 1
        ),
        "a byte order mark": b"\xef\xbb\xbf" + sound,
        "not UTF-8": sound[:-9] + b"\xff" + sound[-9:],
        "spaces": sound + b" " * 8_000_000,
        "nothing": b"",
        "half of it": sound[: len(sound) // 2],
        "an envelope of 8,000,000 letters": envelope[:payload] + b"A" * 8_000_000 + envelope[payload:],
        "an envelope of a million signatures": envelope.replace(
            b'"signatures": [', b'"signatures": [' + b"{}," * 1_000_000
        ),
        "an envelope in an envelope": envelope[:payload] + b"e30=" + envelope[payload:],
    }


def file_bombs(folder: Path, content: bytes) -> dict[str, Path]:
    """Paths that are no regular file, made in ``folder``, and one that is and is a link to one."""
    (folder / "sound").write_bytes(content)
    os.mkfifo(folder / "fifo")
    (folder / "loop").symlink_to("loop")
    (folder / "nowhere").symlink_to("missing")
    (folder / "folder").mkdir()
    with open(folder / "huge", "wb") as file:
        file.truncate(2**40)  # takes no room on the disk
    return {
        "a FIFO": folder / "fifo",
        "/dev/zero": Path("/dev/zero"),
        "/dev/stdin": Path("/dev/stdin"),
        "/dev/tty": Path("/dev/tty"),
        "a link to itself": folder / "loop",
        "a link to nothing": folder / "nowhere",
        "a folder": folder / "folder",
        "a terabyte of nothing": folder / "huge",
        "a name with NUL": Path("a\0b"),
        "a name of 5,000 letters": folder / ("n" * 5_000),
        "/proc/self/mem": Path("/proc/self/mem"),
    }


@dataclass(frozen=True, slots=True)
class Survived:
    """What became of a reader.

    Attributes:
        outcome: ``accepted``; ``refused: ...`` with the message; else what broke.
        good: whether it was one of the first two, within the limits.
        seconds: CPU time.
        megabytes: peak of memory.
    """

    outcome: str
    good: bool
    seconds: float
    megabytes: float


def survive(reader: Callable[[], str]) -> Survived:
    """Run a reader in a fork of this process, so that its peak of memory is its own.

    Args:
        reader: returns what it made of its input, or raises ``HarnessError``.
    """
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=_child, args=(reader, theirs), daemon=True)
    child.start()
    theirs.close()
    told = ours.recv() if ours.poll(HANGS_S) else None
    if told is None:
        child.kill()
        child.join()
        return Survived(f"hung for {HANGS_S:g} s", False, HANGS_S, 0.0)
    child.join()
    outcome, good, seconds, megabytes = told
    if good and (seconds > LIMIT_S or megabytes > LIMIT_MB):
        return Survived(f"{outcome} (too slow, or too large)", False, seconds, megabytes)
    return Survived(outcome, good, seconds, megabytes)


def _child(reader: Callable[[], str], told: Connection) -> None:
    # Not the machine's memory: a reader that runs away ends in MemoryError.
    resource.setrlimit(resource.RLIMIT_AS, (8 * LIMIT_MB * 2**20, 8 * LIMIT_MB * 2**20))
    started = time.process_time()
    try:
        outcome, good = reader(), True
    except HarnessError as error:
        outcome, good = f"refused: {str(error)[:300]}", len(str(error)) < 100_000
    except BaseException as error:
        outcome, good = f"{type(error).__name__}: {error}"[:300], False
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    told.send((outcome, good, time.process_time() - started, peak))
    told.close()
