"""Malformed journals and certificates: refused with a message (4, or 1 by verify), never with a traceback."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bi_harness.certificate.axes import across
from bi_harness.certificate.events import RunStarted
from bi_harness.certificate.files import CERTIFICATE
from bi_harness.certificate.repeated_keys import repeated_key
from bi_harness.certificate.times import utc
from bi_harness.cli import main as cli
from bi_harness.errors import UsageError
from bi_harness.runner.journal import JOURNAL, as_bytes, parse, read_text
from bi_harness.runner.merge import merged_id
from tests.certificate.journals import DIGEST, TIME, result, sound, started
from tests.certificate.runs import write_run

HUGE = 10**400
LONG = "9" * 5_000


def edited(line: bytes, change: Callable[[dict[str, Any]], object]) -> bytes:
    data = json.loads(line)
    change(data)
    return json.dumps(data).encode()


def put(*path: str | int, value: object) -> Callable[[dict[str, Any]], object]:
    def change(data: Any) -> None:
        for step in path[:-1]:
            data = data[step] if isinstance(step, int) else data.setdefault(step, {})
        data[path[-1]] = value

    return change


RESULT, START, READY = "check_finished", "run_started", "engine_ready"
EVIDENCE = ("result", "evidence")
MALFORMED: dict[str, tuple[str, Callable[[dict[str, Any]], object]]] = {
    **{
        f"{name} of {label}": (RESULT, put(*EVIDENCE, name, value=value))
        for name in ("prompts", "steps", "values", "differing_prompts", "max_ulp")
        for label, value in (("10**400", HUGE), ("2**53", 2**53), ("a text", "4"), ("true", True))
    },
    "a batch of 10**400": (RESULT, put(*EVIDENCE, "batches", 1, "batch_size", value=HUGE)),
    "max_abs of 10**400": (RESULT, put(*EVIDENCE, "max_abs", value=HUGE)),
    "a duration of NaN": (RESULT, put("result", "duration_s", value=float("nan"))),
    "a max_abs of infinity": (RESULT, put(*EVIDENCE, "max_abs", value=float("inf"))),
    "checkpoints that are a text": (START, put("provenance", "digests", "checkpoints", value="x")),
    "checkpoints that are a list": (START, put("provenance", "digests", "checkpoints", value=["x"])),
    "checkpoints of numbers": (START, put("provenance", "digests", "checkpoints", value={"m": 1})),
    "an engine's checkpoints": (READY, put("provenance", "checkpoints", value="x")),
    "a version of thousands of digits": (READY, put("provenance", "vllm", "version", value=LONG)),
    "a host that is a text": (START, put("device", "host", value="x")),
    "GPUs that are a text": (START, put("device", "host", "gpus", value="x")),
    "GPUs that are texts": (START, put("device", "host", "gpus", value=["x"])),
    "GPUs that are a mapping": (START, put("device", "host", "gpus", value={"a": 1})),
    "options that are a text": (START, put("asked", value={"options": "x"})),
    "options that are a list": (START, put("asked", value={"options": ["seed"]})),
    "paths that are numbers": (START, put("asked", value={"options": {}, "paths": {"models": 1}})),
    "NaN in a free part": (START, put("device", "memory", value=float("nan"))),
    "infinity in a free part": (READY, put("arm", "config", "x", value=[float("-inf")])),
    "an integer of 400 digits in a free part": (READY, put("arm", "config", "x", value=HUGE)),
    "40 levels in a free part": (START, put("device", "x", value=json.loads("[" * 40 + "]" * 40))),
    "100 levels in an engine's": (READY, put("provenance", "x", value=json.loads("[" * 100 + "]" * 100))),
    "a seed of 10**400": (START, put("scope", "seed", value=HUGE)),
    "a shard of 10**15": (
        START,
        put("shard", value={"index": 1, "count": 10**15, "plan": DIGEST, "units": []}),
    ),
}


def journal_with(kind: str, change: Callable[[dict[str, Any]], object]) -> bytes:
    lines = as_bytes(sound()).splitlines()
    place = next(i for i, line in enumerate(lines) if f'"type":"{kind}"'.encode() in line)
    lines[place] = edited(lines[place], change)
    return b"\n".join(lines) + b"\n"


@pytest.mark.parametrize(("kind", "change"), MALFORMED.values(), ids=MALFORMED.keys())
def test_a_malformed_journal_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str, change: Callable[[dict[str, Any]], object]
) -> None:
    write_run(tmp_path / "run", sound())
    (tmp_path / "run" / JOURNAL).write_bytes(journal_with(kind, change))
    assert cli.main(["verify", str(tmp_path / "run")]) == 1
    assert cli.main(["report", str(tmp_path / "run")]) == 4
    assert f"{JOURNAL}:" in (said := capsys.readouterr().err)
    assert "Traceback" not in said


RAW = {
    "a repeated key": (b'"status":"pass"', b'"status":"fail","status":"pass"'),
    "a repeated key in evidence": (b'"prompts":4', b'"prompts":5,"prompts":4'),
    "the same value twice": (b'"steps":16', b'"steps":16,"steps":16'),
    "a key that is repeated with an escape": (
        b'"interrupted":false',
        b'"\\u0069nterrupted":true,"interrupted":false',
    ),
    "a repeated key in a free part": (b'"id":"cpu"', b'"id":"h200","id":"cpu"'),
    "a repeated key in an engine's own words": (b'"torch":{', b'"torch":{"version":"1","version":"2"},"t":{'),
    "half a surrogate pair": (b'"reason":""', b'"reason":"\\ud800"'),
    "another half": (b'"id":"cpu"', b'"id":"\\udc00"'),
    "what is not UTF-8": (b'"id":"cpu"', b'"id":"\xff"'),
    "an integer of 5,000 digits": (b'"steps":16', b'"steps":' + LONG.encode()),
    "an integer of 5,000 digits in a free part": (b'"id":"cpu"', b'"id":' + LONG.encode()),
    "1e999": (b'"duration_s":1.5', b'"duration_s":1e999'),
    "1e999 in a free part": (b'"id":"cpu"', b'"id":1e999'),
    "100,000 levels": (b'"id":"cpu"', b'"id":' + b"[" * 100_000 + b"]" * 100_000),
    "a control character": (b'"id":"cpu"', b'"id":"\x00"'),
    "a byte order mark": (b'{"type":"run_started"', b'\xef\xbb\xbf{"type":"run_started"'),
}


@pytest.mark.parametrize(("old", "new"), RAW.values(), ids=RAW.keys())
def test_malformed_json_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], old: bytes, new: bytes
) -> None:
    data = as_bytes(sound())
    assert old in data
    write_run(tmp_path / "run", sound())
    (tmp_path / "run" / JOURNAL).write_bytes(data.replace(old, new, 1))
    assert cli.main(["report", str(tmp_path / "run")]) == 4
    assert cli.main(["verify", str(tmp_path / "run")]) == 1
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("name", [CERTIFICATE])
@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"verdict": "CERTIFIED"', b'"verdict": "NOT_CERTIFIED", "verdict": "CERTIFIED"'),
        (b'"prompts": 4', b'"prompts": 4, "prompts": 4'),
        (b'"prompts": 4', b'"prompts": ' + str(HUGE).encode()),
        (b'"prompts": 4', b'"prompts": ' + LONG.encode()),
        (b'"max_abs": 0.0', b'"max_abs": NaN'),
        (b'"id": "cpu"', b'"id": 1e999'),
        (b'"id": "cpu"', b'"id": ' + b"[" * 150 + b"]" * 150),
        (b'"id": "cpu"', b'"id": "\\ud800"'),
    ],
)
def test_a_malformed_certificate_is_no_genuine_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, old: bytes, new: bytes
) -> None:
    write_run(tmp_path / "run", sound())
    path = tmp_path / "run" / name
    data = path.read_bytes()
    assert old in data
    path.write_bytes(data.replace(old, new, 1))
    assert cli.main(["verify", str(path)]) == 1
    assert "Traceback" not in capsys.readouterr().err


def test_repeated_keys() -> None:
    for text in (b'{"a":1,"a":1}', b'[{"b":[{"a":1,"c":{},"a":2}]}]', b'{"\\u0061":1,"a":1}'):
        assert repeated_key(text) == "'a'", text
    for text in (b"{}", b'{"a":{"a":1},"b":{"a":2}}', b'["a","a"]', b'{"a":', b"\xff", b"[" * 100_000):
        assert repeated_key(text) is None, text[:20]
    assert len(repeated_key(b'{"%b":1,"%b":2}' % (b"x" * 9_999, b"x" * 9_999)) or "") < 100


def test_a_repeated_key_is_named_with_its_line() -> None:
    lines = as_bytes(sound()).replace(b'"status":"pass"', b'"status":"fail","status":"pass"')
    with pytest.raises(
        UsageError, match=r"^events\.jsonl:6: not an event of a journal: repeated key: 'status'"
    ):
        read_text(lines, "events.jsonl")


def test_other_spellings_of_the_same_event_are_taken() -> None:
    """Earlier versions wrote fewer fields, and spaces change nothing."""
    line = as_bytes([started()]).rstrip()
    assert parse(json.dumps(json.loads(line), indent=None).encode(), "j", 1) == parse(line, "j", 1)


@pytest.mark.parametrize(
    "sizes",
    [f"tp{LONG}-dp1", f"tp1-dp{LONG}", "tp1234567-dp1", "tp\u0661-dp1", "tp1-dp\uff11", "tp-dp1", "tp1-dp1x"],
)
def test_sizes_that_are_none_are_compared_with_nothing(sizes: str) -> None:
    cells = [f"d/m/B/{one}/eager/s" for one in ("tp1-dp1", sizes)]
    assert across([result(cell=cell) for cell in cells]) == ()


def test_a_cell_of_thousands_of_digits_is_reported(tmp_path: Path) -> None:
    from tests.certificate.journals import planned

    cell = f"d/m/B/tp{LONG}-dp1/eager/s"
    write_run(tmp_path / "run", sound(result(cell=cell), plan=(planned(cell=cell),)))
    assert cli.main(["report", str(tmp_path / "run")]) == 0
    assert cli.main(["verify", str(tmp_path / "run")]) == 0


ENDS = ("0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00")


@pytest.mark.parametrize("time", [*ENDS, "", "x", "2026-01-14T09:15:00", LONG, "2026-W03-3"])
def test_a_time_that_is_none_in_utc(tmp_path: Path, time: str) -> None:
    assert utc(time) is None
    events = sound()
    start = events[0]
    assert isinstance(start, RunStarted)
    write_run(tmp_path / "run", [start.model_copy(update={"time": time}), *events[1:]])
    assert cli.main(["verify", str(tmp_path / "run")]) == 0
    assert cli.main(["report", str(tmp_path / "run")]) == 0


def test_times_in_utc() -> None:
    for text in (TIME, "2026-01-14T10:15:00+01:00", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59+00:00"):
        assert utc(text) is not None
    day = utc("2026-01-14T23:30:00-01:00")
    assert day is not None
    assert str(day.date()) == "2026-01-15"


@pytest.mark.parametrize("time", [*ENDS, "x"])
def test_shards_that_began_at_no_time_in_utc_cannot_be_merged(time: str) -> None:
    from bi_harness.runner.merge import ShardJournal

    shards = [ShardJournal("a", [started(run_id=name, time=time)], DIGEST[7:]) for name in ("one", "two")]
    with pytest.raises(UsageError, match="is not a time in UTC"):
        merged_id(shards)
