"""A log of what the scheduler really did, a line for each engine step.

A batch that was asked for is not a batch that formed: the scheduler may admit fewer requests, split a
prefill or preempt. The probe wraps ``Scheduler.schedule`` of a running vLLM and appends what came out of it
to ``<folder>/steps-dp<rank>-<pid>.jsonl``. The file is there from the making of the scheduler on, the last
thing that a data parallel rank does before it serves: a rank without one did not come up. The probe reads
counts only, and runs in both arms alike. It changes nothing, except where a check holds the scheduler to
limits or plants a difference in a control (``step_limits``).

Worker side: standard library, numpy and vLLM alone.
"""

from __future__ import annotations

import functools
import json
import os
from pathlib import Path
from typing import Any

from bi_harness.engine import step_limits
from bi_harness.engine.protocol import StepSummary

STEP_LOG_VARIABLE = "BI_HARNESS_STEP_LOG"
_MARK = "_bi_harness_step_probe"


def install(folder: str) -> None:
    """Wrap the scheduler of this process. A second call does nothing.

    Raises:
        ImportError: when this vLLM has no v1 scheduler where it is expected.
    """
    from vllm.v1.core.sched.scheduler import Scheduler

    original = Scheduler.schedule
    if getattr(original, _MARK, False):
        return
    Path(folder).mkdir(parents=True, exist_ok=True)

    made = Scheduler.__init__

    @functools.wraps(made)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        made(self, *args, **kwargs)
        _log_path(folder, self).touch()

    @functools.wraps(original)
    def schedule(self: Any, *args: Any, **kwargs: Any) -> Any:
        step_limits.apply(self, folder)
        output = original(self, *args, **kwargs)
        _append(folder, self, output)
        return output

    update = Scheduler.update_from_output

    @functools.wraps(update)
    def update_from_output(
        self: Any, scheduler_output: Any, model_runner_output: Any, *args: Any, **kwargs: Any
    ) -> Any:
        step_limits.plant_in(self, scheduler_output, model_runner_output)
        return update(self, scheduler_output, model_runner_output, *args, **kwargs)

    Scheduler.update_from_output = update_from_output
    setattr(schedule, _MARK, True)
    Scheduler.schedule = schedule
    Scheduler.__init__ = init


def data_parallel_rank(vllm_config: Any) -> int:
    """The rank of this process: a dense model's ranks are told that they are alone, but for their index."""
    parallel = vllm_config.parallel_config
    return int(getattr(parallel, "data_parallel_index", parallel.data_parallel_rank))


def _append(folder: str, scheduler: Any, output: Any) -> None:
    if not output.total_num_scheduled_tokens:
        return
    record = {
        "tokens": output.num_scheduled_tokens,
        "new": {
            r.req_id: len(r.prompt_token_ids or ()) - r.num_computed_tokens for r in output.scheduled_new_reqs
        },
        "cached": sum(r.num_computed_tokens for r in output.scheduled_new_reqs),
        "adapters": len(
            {r.lora_request.lora_int_id for r in scheduler.running if getattr(r, "lora_request", None)}
        ),
        "preempted": len(getattr(output, "preempted_req_ids", None) or ()),
    }
    with open(_log_path(folder, scheduler), "a", encoding="utf-8") as log:
        log.write(json.dumps(record, separators=(",", ":")) + "\n")


def _log_path(folder: str, scheduler: Any) -> Path:
    # The pid is taken each time: an engine core may be forked after the plugin was loaded.
    return Path(folder) / f"steps-dp{data_parallel_rank(scheduler.vllm_config)}-{os.getpid()}.jsonl"


def ranks_up(folder: Path) -> set[int]:
    """The data parallel ranks whose scheduler was made."""
    return {int(_rank(path).removeprefix("dp")) for path in folder.glob("steps-dp*-*.jsonl")}


def _rank(path: Path) -> str:
    return path.stem.split("-")[1]


class StepLog:
    """Reads the log from where the last read ended."""

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)
        self._offsets: dict[Path, int] = {}
        self.ranks: set[str] = set()
        """Those that scheduled something in the steps that were read last: ``dp0``, ``dp1``, ..."""

    def read(self) -> StepSummary:
        """The steps since the last call, over all processes that schedule (one for each DP rank)."""
        steps = max_requests = max_tokens = preemptions = split = mixed = cached = adapters = 0
        self.ranks = set()
        for path in sorted(self._folder.glob("steps-*.jsonl")):
            with open(path, "rb") as log:
                start = self._offsets.get(path, 0)
                log.seek(start)
                whole, newline, _ = log.read().rpartition(b"\n")
            # What follows the last newline is a line that another process is still writing.
            self._offsets[path] = start + len(whole) + len(newline)
            largest = 0
            for line in whole.splitlines():
                record = json.loads(line)
                tokens = record["tokens"]
                steps += 1
                largest = max(largest, len(tokens))
                max_tokens = max(max_tokens, sum(tokens.values()))
                preemptions += record["preempted"]
                split += sum(1 for request, length in record["new"].items() if tokens[request] < length)
                mixed += bool(record["new"]) and len(tokens) > len(record["new"])
                cached += record.get("cached", 0)
                adapters += record.get("adapters", 0) > 1
            max_requests += largest
            if largest:
                self.ranks.add(_rank(path))
        return StepSummary(
            steps,
            max_requests,
            max_tokens,
            preemptions,
            split,
            mixed,
            cached,
            adapter_steps=adapters,
            ranks=len(self.ranks),
        )


class StepCount:
    """Counts the steps since it was made, while others write them: those of the rank that made most."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._offsets = {path: path.stat().st_size for path in folder.glob("steps-*.jsonl")}
        self._steps: dict[Path, int] = {}

    def read(self) -> int:
        """How many there were."""
        for path in self._folder.glob("steps-*.jsonl"):
            with open(path, "rb") as log:
                start = self._offsets.get(path, 0)
                log.seek(start)
                added = log.read()
            self._offsets[path] = start + len(added)
            self._steps[path] = self._steps.get(path, 0) + added.count(b"\n")
        return max(self._steps.values(), default=0)
