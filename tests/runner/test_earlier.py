"""A run's folder as it was left: a torn last line of any bytes, and options of any type."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bi_harness.certificate.events import RunStarted
from bi_harness.errors import UsageError
from bi_harness.runner.earlier import Earlier, resuming
from bi_harness.runner.journal import JOURNAL, as_bytes
from bi_harness.runner.resume import prepare_again
from bi_harness.runner.run import RunOptions
from tests.certificate.journals import CELL, result, sound, started

HEAD = f'{{"type":"check_finished","time":"x","result":{{"cell":"{CELL}","check":"'.encode()
TAIL = b'","status":"fail","reason":"two of four'


def left(folder: Path, torn: bytes) -> Path:
    """A run that was cut off in its first check, while a line was written."""
    (folder / JOURNAL).write_bytes(as_bytes(sound(result(check="alone"))[:4]) + torn)
    return folder


def test_a_failure_whose_line_was_torn_stays_one(tmp_path: Path) -> None:
    with resuming(left(tmp_path, HEAD + b"alone" + TAIL)) as earlier:
        assert [(r.check, r.status) for r in earlier.left.reopened] == []
        assert earlier.torn == len(HEAD + b"alone" + TAIL)


DAMAGED = {
    "a bad escape": rb"al\qone",
    "half an escape": rb"al\u00one",
    "half a surrogate pair": rb"al\ud800one",
    "the other half": rb"al\udc00one",
    "two first halves": rb"al\ud800\ud800one",
    "what is not UTF-8": b"al\xffone",
    "a control character": b"al\x01one",
    "a torn character": b"al\xe2\x82",
}


@pytest.mark.parametrize("name", DAMAGED.values(), ids=DAMAGED.keys())
@pytest.mark.parametrize("status", [b"fail", b"inconclusive"])
def test_a_torn_failure_of_no_check_that_can_be_named_is_refused(
    tmp_path: Path, name: bytes, status: bytes
) -> None:
    torn = HEAD + name + TAIL.replace(b"fail", status)
    with (
        pytest.raises(UsageError, match=r"(?s)the last line is damaged.*hint: start a new run"),
        resuming(left(tmp_path, torn)),
    ):
        pass
    assert (tmp_path / JOURNAL).read_bytes().endswith(torn), "nothing was changed"


@pytest.mark.parametrize("torn", [b"\xff" * 40, b"{", b"[" * 100_000, b'{"type":"check_fin\\', HEAD, b"\0"])
def test_a_torn_line_that_tells_of_no_failure_is_dropped(tmp_path: Path, torn: bytes) -> None:
    with resuming(left(tmp_path, torn)) as earlier:
        assert [(r.check, r.status) for r in earlier.left.reopened] == [("alone", "none")]


def test_a_torn_failure_of_a_check_that_was_not_planned_is_refused(tmp_path: Path) -> None:
    with (
        pytest.raises(UsageError, match="a result that was not planned"),
        resuming(left(tmp_path, HEAD + b"other" + TAIL)),
    ):
        pass


PATHS = {"models": "models.yaml", "hardware": "hardware.yaml", "suites": "suites"}
ASKED: dict[str, Any] = {"options": {"device": "cpu", "seed": 0}, "paths": PATHS, "vllm": "0.32.0"}
MISTYPED = {
    "a seed that is a text": ({**ASKED, "options": {"seed": "0"}}, "invalid option.*seed"),
    "models that are a text": ({**ASKED, "options": {"models": "tiny"}}, "invalid option.*models"),
    "models that are numbers": ({**ASKED, "options": {"models": [1]}}, "invalid option.*models"),
    "a device that is a list": ({**ASKED, "options": {"device": []}}, "invalid option.*device"),
    "layers that are a mapping": ({**ASKED, "options": {"layers": {}}}, "invalid option.*layers"),
    "control that is a number": ({**ASKED, "options": {"control": 0}}, "invalid option.*control"),
    "cores that are texts": ({**ASKED, "options": {"cores": ["a"]}}, "invalid option.*cores"),
    "a shard that is a number": ({**ASKED, "options": {"shard": 1}}, "invalid option.*shard"),
    "a shard of one number": ({**ASKED, "options": {"shard": [1]}}, "invalid option.*shard"),
    "a shard of negative numbers": ({**ASKED, "options": {"shard": [-1, 2]}}, "invalid option.*shard"),
    "a profile that there is not": ({**ASKED, "options": {"profile": "x"}}, "invalid option.*profile"),
    "an option that there is not": ({**ASKED, "options": {"x" * 999: 1}}, "invalid option.*xxx"),
    "where to write": ({**ASKED, "options": {"out": "/etc"}}, "does not record this option"),
    "what it waives": ({**ASKED, "options": {"waivers": {}}}, "does not record this option"),
    "what it shares": ({**ASKED, "options": {"shared": {}}}, "does not record this option"),
    "no paths": ({"options": {}}, "missing path.*models, hardware, suites"),
    "no suites": (
        {"options": {}, "paths": {k: v for k, v in PATHS.items() if k != "suites"}},
        "path.*suites",
    ),
    "a path with a NUL": ({**ASKED, "paths": {**PATHS, "models": "a\0b"}}, "invalid path.*models"),
}


@pytest.mark.parametrize(("asked", "message"), MISTYPED.values(), ids=MISTYPED.keys())
def test_options_of_other_types_are_refused(tmp_path: Path, asked: dict[str, Any], message: str) -> None:
    start = RunStarted.model_validate_json(started(asked=asked).model_dump_json())
    earlier = Earlier(tmp_path, (start,), start, 0, 0, 0)
    with pytest.raises(UsageError, match=message) as caught:
        prepare_again(earlier, RunOptions(device="auto", out=tmp_path), ())
    assert str(caught.value).startswith(f"{tmp_path / JOURNAL}: ")
    assert len(str(caught.value)) < 1_000


@pytest.mark.parametrize("options", ["x", 1, [1], None, [["seed", 1]]])
def test_options_that_are_no_mapping_are_refused_when_the_journal_is_read(
    tmp_path: Path, options: object
) -> None:
    line = json.loads(started().model_dump_json())
    line["asked"] = {"options": options}
    (tmp_path / JOURNAL).write_text(json.dumps(line) + "\n")
    with (
        pytest.raises(UsageError, match=r"events\.jsonl:1: .*options is not a mapping"),
        resuming(tmp_path),
    ):
        pass
