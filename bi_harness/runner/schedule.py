"""Which units run side by side, and on which GPUs. Pure decisions: what is free, and who goes next.

A unit declares what it takes: GPUs, memory on each of them, CPU cores. It goes as soon as that is free; of
those that fit, the one that takes longest goes first, so that no long one is left for the end. A unit that
could never fit beside anything runs alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Need:
    """What a unit takes while it runs.

    Attributes:
        gpus: how many; 0 on a CPU.
        gpu_gib: memory on each of them, of all engines that it has up at once; ``None`` for all that there is
            (an engine that measures the memory it finds must be alone).
        cores: CPU cores that its engines keep busy.
        weight: how long it takes, in any unit of time that is the same for all.
    """

    gpus: int
    gpu_gib: float | None
    cores: float
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Free:
    """What is left of a host.

    Attributes:
        gpus: GiB of each GPU.
        cores: CPU cores.
        whole: GPUs on which nothing runs.
        running: units at work.
    """

    gpus: tuple[float, ...]
    cores: float
    whole: frozenset[int]
    running: int = 0

    @staticmethod
    def of(gpus: Sequence[float], cores: float) -> Free:
        """A host on which nothing runs.

        Args:
            gpus: GiB of each GPU that may be used.
            cores: CPU cores.
        """
        return Free(tuple(gpus), cores, frozenset(range(len(gpus))))


def place(need: Need, free: Free) -> tuple[int, ...] | None:
    """The GPUs on which a unit would run now; ``None`` when it has to wait.

    Where nothing runs it always goes, if there are GPUs enough: what it takes too much of, vLLM will say.
    The GPUs with the most memory left are taken, so that units spread over them first.

    Raises:
        ValueError: the host never had so many GPUs.
    """
    if need.gpus > len(free.gpus):
        raise ValueError(f"a unit needs {need.gpus} GPUs, of {len(free.gpus)}")
    # Of GPUs with as much left, the first: the same choice in every run.
    order = sorted(range(len(free.gpus)), key=lambda gpu: (-free.gpus[gpu], gpu))
    if need.gpu_gib is None:
        fitting = [gpu for gpu in order if gpu in free.whole]
    else:
        fitting = [gpu for gpu in order if free.gpus[gpu] >= need.gpu_gib or gpu in free.whole]
    if len(fitting) < need.gpus:
        return None
    if need.cores > free.cores and free.running:
        return None
    return tuple(sorted(fitting[: need.gpus]))


def taken(free: Free, need: Need, gpus: Sequence[int]) -> Free:
    """What is left once a unit runs on those GPUs."""
    left = list(free.gpus)
    for gpu in gpus:
        left[gpu] = left[gpu] - need.gpu_gib if need.gpu_gib is not None else 0.0
    return replace(
        free,
        gpus=tuple(left),
        cores=free.cores - need.cores,
        whole=free.whole - set(gpus),
        running=free.running + 1,
    )


def following(
    waiting: Mapping[str, Need], running: Mapping[str, tuple[Need, tuple[int, ...]]], host: Free, jobs: int
) -> tuple[str, tuple[int, ...]] | None:
    """The unit that goes next, and its GPUs; ``None`` when all have to wait.

    Args:
        waiting: by id, in the order of the plan, which decides between those that take as long.
        running: by id, with the GPUs that each has.
        host: with nothing running.
        jobs: units at once, at most.

    Raises:
        ValueError: see ``place``.
    """
    if len(running) >= jobs:
        return None
    free = host
    for need, gpus in running.values():
        free = taken(free, need, gpus)
    for unit in sorted(waiting, key=lambda unit: -waiting[unit].weight):
        if (found := place(waiting[unit], free)) is not None:
            return unit, found
    return None
