"""Running one side's command: where it may run, how long, and what the GPU did meanwhile."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from bi_harness.device.facts import HostFacts

INTERRUPTED_S = 30.0
_PINNED = """
import json, os, signal, sys
# Of whom a shell started in the background it is ignored, and that would be inherited.
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.sched_setaffinity(0, json.loads(sys.argv[1]))
os.execvp(sys.argv[2], sys.argv[2:])
"""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a side may run: these cores, and this GPU; ``None`` for all that are visible."""

    cores: tuple[int, ...]
    gpu: int | None = None

    def environment(self) -> dict[str, str]:
        """What shows an engine this GPU alone."""
        if self.gpu is None:
            return {}
        return {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": str(self.gpu)}


@dataclass(frozen=True, slots=True)
class Ran:
    """What became of a command: wall seconds, its exit code (negative for a signal), the share of samples in
    which its GPU ran a kernel (``None`` where that cannot be asked), and whether it ended by itself."""

    wall_s: float
    exit_code: int
    busy: float | None
    ended: bool


def side_by_side(host: HostFacts, cores: Sequence[int]) -> tuple[Place, Place]:
    """A GPU and half of the cores for each of two sides.

    Raises:
        ValueError: the host has no two whole GPUs of one kind, or fewer than two cores.
    """
    whole = [gpu for gpu in host.gpus if not gpu.mig]
    if len(whole) < 2 or len(cores) < 2 or whole[0].name != whole[1].name:
        raise ValueError("both sides at once need two GPUs of one kind, and two cores")
    half = len(cores) // 2
    ordered = tuple(sorted(cores))
    return Place(ordered[:half], whole[0].index), Place(ordered[half : 2 * half], whole[1].index)


def timed(command: Sequence[str], env: Mapping[str, str], log: Path, timeout_s: float, place: Place) -> Ran:
    """Run a command; its output goes to ``log``. After ``timeout_s`` it is interrupted, so that it can write
    its report, and half a minute later killed."""
    log.parent.mkdir(parents=True, exist_ok=True)
    pinned = [sys.executable, "-c", _PINNED, json.dumps(place.cores), *command]
    with open(log, "wb") as out, Busy(place.gpu) as busy:
        started = time.perf_counter()
        ended = True
        with subprocess.Popen(
            pinned, env={**env, **place.environment()}, stdout=out, stderr=subprocess.STDOUT
        ) as process:
            try:
                process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                ended = False
            wall_s = time.perf_counter() - started
            if not ended:
                process.send_signal(signal.SIGINT)
                try:
                    process.wait(INTERRUPTED_S)
                except subprocess.TimeoutExpired:
                    process.kill()
    return Ran(wall_s, process.returncode, busy.share, ended)


class Busy:
    """Samples a GPU's utilization, while it is entered, every half a second.

    Args:
        gpu: its index in NVML's order; ``None`` for the busiest of those that are visible.
    """

    def __init__(self, gpu: int | None) -> None:
        self._gpu = gpu
        self._samples: list[int] = []
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> Busy:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()

    @property
    def share(self) -> float | None:
        """Of the samples in which a kernel ran; ``None`` where there is no NVIDIA GPU to ask."""
        return sum(s > 0 for s in self._samples) / len(self._samples) if self._samples else None

    def _sample(self) -> None:
        from bi_harness.device.detect import detect

        try:
            import pynvml

            pynvml.nvmlInit()
            # Those that CUDA_VISIBLE_DEVICES leaves: others of the host may be busy with something else.
            handles = [
                pynvml.nvmlDeviceGetHandleByUUID(gpu.uuid)
                for gpu in detect().gpus
                if self._gpu in (None, gpu.index)
            ]
        except Exception:  # Not a verdict: a figure that is left out.
            return
        while handles and not self._done.wait(0.5):
            with suppress(pynvml.NVMLError):
                self._samples.append(max(pynvml.nvmlDeviceGetUtilizationRates(h).gpu for h in handles))


def usable_cores() -> tuple[int, ...]:
    """Those that this process may run on."""
    return tuple(sorted(os.sched_getaffinity(0)))
