"""One rank of several, which sums what each of them has: ``python -m bi_harness.engine.ops.rank SETUP RANK``.

It is set up as vLLM's workers set themselves up, reads a line of JSON for each sum and answers with one. The
rows are in a file that all ranks and whoever asks have mapped.

Worker side: standard library, torch and vLLM alone.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bi_harness.engine.orphan import die_with_parent

STORE = "rows"
"""The mapped file: what each rank gives, then what each has in the end."""

MESSAGE_LIMIT = 2000


def part(store: Any, dtype: str, ranks: int, rows: int, width: int, rank: int, *, result: bool) -> Any:
    """What a rank gives, or has in the end: ``[rows, width]``, in the mapped file.

    Args:
        store: the file, as a uint8 tensor.
        ranks: how many there are.
    """
    import torch

    kind = getattr(torch, dtype)
    size = rows * width * kind.itemsize
    first = (rank + ranks * result) * size
    return store[first : first + size].view(kind).view(rows, width)


def mapped(folder: Path, size: int) -> Any:
    """The file's bytes, as a uint8 tensor."""
    import torch

    return torch.from_file(str(folder / STORE), shared=True, size=size, dtype=torch.uint8)


def what_runs() -> list[str]:
    """What makes this process's vLLM batch-invariant, and the fault that is planted in it: every rank must
    have what the one that asks has."""
    from bi_harness.engine.ops.setting import invariance_by
    from bi_harness.invariance.faults import registry

    return [*invariance_by(), *([fault] if (fault := registry.planted()) else [])]


def main(argv: list[str]) -> int:
    """Serve sums until nobody asks any more."""
    setup = json.loads(Path(argv[0]).read_text(encoding="utf-8"))
    rank, parent = int(argv[1]), os.getppid()
    die_with_parent(parent)
    # What vLLM prints must not be taken for an answer.
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answers:
        os.dup2(2, 1)
        try:
            store, reduce = _open(setup, rank)
        except Exception as error:
            return _failed(answers, error)
        _say(answers, {"event": "ready", "runs": what_runs()})
        for line in sys.stdin:
            try:
                _sum(setup, rank, store, reduce, json.loads(line))
            except Exception as error:
                return _failed(answers, error)
            _say(answers, {"event": "done"})
    return 0


def _sum(setup: Mapping[str, Any], rank: int, store: Any, reduce: Any, asked: Mapping[str, Any]) -> None:
    import torch

    where = (store, asked["dtype"], setup["ranks"], asked["rows"], asked["width"], rank)
    with torch.inference_mode():
        mine = part(*where, result=False).to(setup["device"], copy=True)
        part(*where, result=True).copy_(reduce(mine))


def _open(setup: Mapping[str, Any], rank: int) -> tuple[Any, Any]:
    """The mapped file, and vLLM's sum over the ranks."""
    import torch
    from vllm.platforms import current_platform

    from bi_harness.engine.ops.base import find
    from bi_harness.engine.ops.setting import engine_config

    config = engine_config(Path(setup["model"]), **setup["config"], tensor_parallel=setup["ranks"])
    rendezvous = Path(setup["folder"]) / "rendezvous"
    # Names the ranks' shared memory, as a worker on a CPU does.
    os.environ["VLLM_DIST_IDENT"] = setup["name"]
    if setup["device"] != "cpu":
        torch.cuda.set_device(rank)
    begin, _ = find("vllm.v1.worker.gpu_worker:init_worker_distributed_environment")
    with find("vllm.config:set_current_vllm_config")[0](config):
        begin(config, rank, f"file://{rendezvous}", rank, current_platform.dist_backend)
    reduce, _ = find("vllm.distributed:tensor_model_parallel_all_reduce")
    return mapped(Path(setup["folder"]), setup["bytes"]), reduce


def _failed(answers: Any, error: Exception) -> int:
    traceback.print_exc()
    _say(answers, {"event": "failed", "why": f"{type(error).__name__}: {error}"[:MESSAGE_LIMIT]})
    return 1


def _say(answers: Any, message: Mapping[str, Any]) -> None:
    answers.write(json.dumps(message) + "\n")
    answers.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
