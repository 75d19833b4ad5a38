"""The log of the scheduler's steps: what is written of a step, and reading it bit by bit."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from bi_harness.engine import step_probe
from bi_harness.engine.protocol import StepSummary
from bi_harness.engine.step_probe import StepLog

NOTHING = StepSummary(0, 0, 0, 0, 0)
NO_LORA = SimpleNamespace(
    running=[],
    vllm_config=SimpleNamespace(parallel_config=SimpleNamespace(data_parallel_index=3, data_parallel_rank=0)),
)


def line(tokens: dict[str, int], new: dict[str, int] | None = None, preempted: int = 0) -> str:
    return json.dumps({"tokens": tokens, "new": new or {}, "preempted": preempted}) + "\n"


def add(folder: Path, text: str, name: str = "steps-dp0-1.jsonl") -> None:
    with open(folder / name, "a", encoding="utf-8") as log:
        log.write(text)


def test_without_a_folder_or_a_file_there_were_no_steps(tmp_path: Path) -> None:
    assert StepLog(str(tmp_path / "none")).read() == NOTHING
    assert StepLog(str(tmp_path)).read() == NOTHING


def test_steps_are_summed_up_and_read_once(tmp_path: Path) -> None:
    log = StepLog(str(tmp_path))
    add(tmp_path, line({"a": 5, "b": 7}, {"a": 5, "b": 9}, preempted=2))
    add(tmp_path, line({"a": 1, "b": 2, "c": 1}, {"c": 1}, preempted=1))
    # b's prefill took more than one step.
    assert log.read() == StepSummary(
        steps=2, max_requests=3, max_tokens=12, preemptions=3, split_prefills=1, mixed_steps=1, ranks=1
    )
    assert log.read() == NOTHING
    add(tmp_path, line({"a": 1}))
    assert log.read() == StepSummary(1, 1, 1, 0, 0, ranks=1)


def test_all_processes_that_schedule_count_also_those_that_come_later(tmp_path: Path) -> None:
    log = StepLog(str(tmp_path))
    add(tmp_path, line({"a": 3}))
    assert log.read().steps == 1
    add(tmp_path, line({"a": 1}))
    add(tmp_path, line({"b": 8, "c": 1}), "steps-dp1-22.jsonl")
    add(tmp_path, "not a step", "other.jsonl")
    # Two ranks have a batch each, and together that of both.
    assert log.read() == StepSummary(2, 3, 9, 0, 0, ranks=2)


def test_a_line_that_is_still_being_written_waits_for_its_end(tmp_path: Path) -> None:
    log = StepLog(str(tmp_path))
    whole = line({"a": 3, "żółć": 4})
    add(tmp_path, line({"a": 1}) + whole[:7])
    assert log.read().steps == 1
    assert log.read() == NOTHING
    add(tmp_path, whole[7:])
    assert log.read() == StepSummary(1, 2, 7, 0, 0, ranks=1)


@given(st.lists(st.integers(1, 5), max_size=8), st.data())
def test_wherever_it_is_cut_every_step_is_read_once(sizes: list[int], data: st.DataObject) -> None:
    import tempfile

    raw = "".join(line({str(i): 1 for i in range(size)}) for size in sizes).encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=5)))
    with tempfile.TemporaryDirectory() as folder:
        log, seen, largest = StepLog(folder), 0, 0
        for start, end in zip([0, *cuts], [*cuts, len(raw)], strict=True):
            with open(os.path.join(folder, "steps-dp0-9.jsonl"), "ab") as file:
                file.write(raw[start:end])
            summary = log.read()
            seen, largest = seen + summary.steps, max(largest, summary.max_requests)
        assert (seen, largest) == (len(sizes), max(sizes, default=0))


def output(tokens: dict[str, int], **changes: Any) -> SimpleNamespace:
    """As vLLM's SchedulerOutput."""
    fields = {
        "num_scheduled_tokens": tokens,
        "total_num_scheduled_tokens": sum(tokens.values()),
        "scheduled_new_reqs": [],
        "preempted_req_ids": None,
        **changes,
    }
    return SimpleNamespace(**fields)


def test_what_is_written_is_what_is_read(tmp_path: Path) -> None:
    new = SimpleNamespace(req_id="b", prompt_token_ids=[1] * 10, num_computed_tokens=2)
    step_probe._append(
        str(tmp_path), NO_LORA, output({"a": 1, "b": 4}, scheduled_new_reqs=[new], preempted_req_ids={"c"})
    )
    step_probe._append(str(tmp_path), NO_LORA, output({}))  # an idle turn is no step
    assert [p.name for p in tmp_path.iterdir()] == [f"steps-dp3-{os.getpid()}.jsonl"]
    assert StepLog(str(tmp_path)).read() == StepSummary(
        1, 2, 5, 1, 1, mixed_steps=1, cached_tokens=2, ranks=1
    )


def test_a_prefix_that_was_computed_before_is_no_split(tmp_path: Path) -> None:
    new = SimpleNamespace(req_id="b", prompt_token_ids=[1] * 10, num_computed_tokens=6)
    step_probe._append(str(tmp_path), NO_LORA, output({"b": 4}, scheduled_new_reqs=[new]))
    assert StepLog(str(tmp_path)).read().split_prefills == 0


def test_steps_with_several_adapters_are_counted(tmp_path: Path) -> None:
    for numbers in ((), (0, 0), (1, 0), (2, 2), (1, 2), (0, 3, 1)):
        running = [
            SimpleNamespace(lora_request=SimpleNamespace(lora_int_id=n) if n else None) for n in numbers
        ]
        scheduler = SimpleNamespace(running=running, vllm_config=NO_LORA.vllm_config)
        step_probe._append(str(tmp_path), scheduler, output({"a": 1}))
    assert StepLog(str(tmp_path)).read().adapter_steps == 2
