"""The sum over tensor parallel ranks, which ends the matrix products that are split over them.

A row is what each rank has of it. The ranks are processes of their own, set up as vLLM's workers are, so that
the sum is the one of an engine: shared memory between CPU ranks, NCCL or vLLM's own kernel between GPUs.
"""

from __future__ import annotations

import atexit
import json
import os
import selectors
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bi_harness.engine.ops.accuracy import error
from bi_harness.engine.ops.base import BOTH, CUDA, MOST_ROWS, Alike, Kind, Made, Missing, Op, Setting
from bi_harness.engine.ops.gemm import values
from bi_harness.engine.ops.rank import STORE, mapped, part, what_runs

START_S, SUM_S = 600.0, 120.0
END_S = 5.0
MOST_WIDTH = 2048
"""That shapes are drawn up to; a wider model has its own."""


class Ranks:
    """Processes that sum what each of them has.

    Args:
        count: of ranks.
        device: torch's name of it; on GPUs each rank has one of its own.
        model: folder with the model's ``config.json``.
        config: arguments of ``setting.engine_config``.
        width: values of the widest row.
        runs: what each must say that it runs, see ``rank.what_runs``.
        module: the program of a rank.

    Raises:
        RuntimeError: they do not come up, or one runs something else.
    """

    def __init__(
        self,
        count: int,
        device: str,
        model: str,
        config: Mapping[str, Any],
        width: int,
        *,
        runs: Sequence[str] = (),
        module: str = "bi_harness.engine.ops.rank",
    ) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="bi-harness-ranks-"))
        self._count = count
        size = 2 * count * MOST_ROWS * width * 8
        with open(self._folder / STORE, "wb") as file:
            file.truncate(size)
        self._store = mapped(self._folder, size)
        setup = {
            "ranks": count,
            "device": device,
            "model": model,
            "config": dict(config),
            "folder": str(self._folder),
            "name": f"bih-{os.getpid()}-{time.monotonic_ns() % 1_000_000}",
            "bytes": size,
        }
        path = self._folder / "setup.json"
        path.write_text(json.dumps(setup), encoding="utf-8")
        environment = {**os.environ, **({"OMP_NUM_THREADS": "1"} if device == "cpu" else {})}
        self._processes = [
            subprocess.Popen(
                [sys.executable, "-m", module, str(path), str(rank)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=environment,
            )
            for rank in range(count)
        ]
        atexit.register(self.close)
        try:
            for rank, said in self._answers(START_S, "did not come up").items():
                if said["runs"] != list(runs):
                    raise RuntimeError(f"rank {rank} runs {said['runs']}, and this process {list(runs)}")
        except RuntimeError:
            self.close()
            raise

    def sum(self, parts: Any) -> tuple[Any, ...]:
        """What each rank has in the end.

        Args:
            parts: ``[rows, ranks, width]``, on any device: what each rank gives.

        Returns:
            For each rank ``[rows, width]``, on the device of ``parts``.

        Raises:
            RuntimeError: a rank failed, or does not answer.
        """
        rows, _, width = parts.shape
        dtype = str(parts.dtype).removeprefix("torch.")
        where = (self._store, dtype, self._count, rows, width)
        for rank in range(self._count):
            part(*where, rank, result=False).copy_(parts[:, rank])
        line = json.dumps({"rows": rows, "width": width, "dtype": dtype}).encode() + b"\n"
        for process in self._processes:
            assert process.stdin is not None
            try:
                process.stdin.write(line)
                process.stdin.flush()
            except OSError as failure:
                raise RuntimeError(f"a rank is gone: {failure}") from failure
        self._answers(SUM_S, "did not sum")
        return tuple(
            part(*where, rank, result=True).to(parts.device, copy=True) for rank in range(self._count)
        )

    def close(self) -> None:
        """End them."""
        atexit.unregister(self.close)
        for process in self._processes:
            if process.stdin is not None:
                process.stdin.close()
        deadline = time.monotonic() + END_S
        for process in self._processes:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _answers(self, limit_s: float, what: str) -> dict[int, dict[str, Any]]:
        """A line of each rank; of the first that fails, why."""
        deadline = time.monotonic() + limit_s
        found: dict[int, dict[str, Any]] = {}
        with selectors.DefaultSelector() as selector:
            for rank, process in enumerate(self._processes):
                assert process.stdout is not None
                selector.register(process.stdout, selectors.EVENT_READ, rank)
            while selector.get_map():
                ready = selector.select(max(0.0, deadline - time.monotonic()))
                if not ready:
                    raise RuntimeError(f"ranks {what} within {limit_s:.0f} s")
                for key, _ in ready:
                    line = key.fileobj.readline()  # type: ignore[union-attr]
                    said = json.loads(line) if line else {"event": "failed", "why": "it ended"}
                    if said["event"] == "failed":
                        raise RuntimeError(f"rank {key.data} {what}: {said['why']}")
                    found[key.data] = said
                    selector.unregister(key.fileobj)
        return found


_running: dict[tuple[str, int, str], Ranks] = {}
"""By device, number and model: their start takes longer than all that is measured on them."""


class _AllReduce(Alike):
    where = "vllm.distributed.tensor_model_parallel_all_reduce"
    bound = "the rounding of each addition"

    def __init__(self, setting: Setting) -> None:
        self._setting, self._width = setting, setting.dims["hidden"]
        self._count = setting.ranks
        self.shape = f"{self._count} ranks, {self._width}"
        self.row_bytes = 8 * self._count * self._width
        key = (setting.device, self._count, str(setting.vllm_config.model_config.model))
        if key not in _running:
            _running[key] = Ranks(
                self._count,
                setting.device,
                key[2],
                {
                    "dtype": str(setting.vllm_config.model_config.dtype).removeprefix("torch."),
                    "backend": None,
                    "max_model_len": setting.vllm_config.model_config.max_model_len,
                },
                max(MOST_WIDTH, self._width),
                runs=what_runs(),
            )
        self._ranks = _running[key]

    def rows(self, count: int, kind: Kind, generator: Any) -> tuple[Any, ...]:
        return (values(count, (self._count, self._width), kind, generator, self._setting),)

    def call(self, rows: tuple[Any, ...]) -> tuple[Any, ...]:
        return self._ranks.sum(rows[0])

    def error(self, rows: tuple[Any, ...], results: tuple[Any, ...]) -> float:
        import torch

        given = rows[0].cpu().double()
        expected, most = given.sum(1), given.abs().sum(1)
        # Each of the additions may round what is at most the sum of all magnitudes.
        slack = (self._count - 1) * torch.finfo(rows[0].dtype).eps * most
        return max(error(result, expected, ulps=1, slack=slack) for result in results)


def _all_reduce(setting: Setting) -> Made:
    if setting.ranks < 2:
        raise Missing("one rank has nothing to sum: it takes a cell of several tensor parallel ranks")
    if setting.device != "cpu":
        import torch

        if (gpus := torch.cuda.device_count()) < setting.ranks:
            raise Missing(f"{setting.ranks} ranks need as many GPUs, and {gpus} are visible")
    return _AllReduce(setting)


OPS = (
    Op(
        "all_reduce",
        "all_reduce",
        _all_reduce,
        ("model",),
        promised=CUDA,
        called=BOTH,
        drawn={"hidden": 8},
    ),
)
