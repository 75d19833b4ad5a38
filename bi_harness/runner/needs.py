"""What a unit takes of a host while it runs, from the YAML. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from bi_harness.device.facts import HostFacts
from bi_harness.engine.memory import engine_gib, kv_cache_bytes, two_fit
from bi_harness.matrix.cells import Unit
from bi_harness.matrix.weights import unit_weight
from bi_harness.runner.schedule import Free, Need
from bi_harness.spec.load import Spec
from bi_harness.workload.plan import plan_workload

CORES = 4.0
"""Of a unit on GPUs: two engines, each a busy thread and, while it starts, what compiles (measured: eight
engines that start together keep 6 to 13 of 16 cores busy)."""

LOCALIZING_CORES = CORES / 2
"""Of a unit that is over, while its failure is localized: engines of one arm."""

MOST = 8
"""Units at once for each GPU, if nobody says how many: each engine has some 5 GiB of the host's memory."""

_OPERATORS_GIB = 24.0
"""Of two processes that measure operators: their CUDA contexts, and the largest batch of the widest one."""


def host_free(host: HostFacts, kind: str, jobs: int) -> Free:
    """What units may take of a host: the GPUs' free memory, or for each of ``jobs`` its share of a CPU."""
    if kind == "cpu":
        return Free.of([1.0] * jobs, float(jobs))
    left = [max(0.0, 0.9 * gpu.memory_gib - gpu.memory_used_gib) for gpu in host.gpus]
    return Free.of(left, float(host.usable_cores))


def how_many(asked: int | None, host: HostFacts, kind: str) -> int:
    """How many units run at once, at most; ``None`` for as many as the host takes.

    Engines on a CPU take all of it, and slow each other down by more than they save (their threads wait by
    spinning): there it is one, unless somebody says otherwise.
    """
    if asked is not None:
        return min(asked, max(1, host.usable_cores)) if kind == "cpu" else asked
    if kind == "cpu":
        return 1
    return max(1, min(MOST * max(1, len(host.gpus)), int(host.usable_cores / LOCALIZING_CORES)))


def shares(cores: Sequence[int], jobs: int) -> tuple[tuple[int, ...], ...]:
    """The cores of each of ``jobs`` units at once; some may be left over, so that all have as many."""
    each = max(1, len(cores) // jobs)
    return tuple(tuple(cores[i * each : (i + 1) * each]) for i in range(jobs))


def need(
    unit: Unit,
    spec: Spec,
    *,
    checks: Mapping[str, tuple[str, ...]],
    profile: str,
    seed: int,
    layers: int | None,
) -> Need:
    """What a unit takes.

    Args:
        unit: the unit.
        spec: the YAML.
        checks: those that are to run, by cell.
        profile, seed, layers: of the run.
    """
    first = unit.cells[0]
    device, model = spec.devices[first.device], spec.models[first.model]
    weight = unit_weight(unit, spec, checks)
    if device.kind == "cpu":
        return Need(gpus=1, gpu_gib=1.0, cores=1.0, weight=weight)
    suites = [spec.suites[cell.suite] for cell in unit.cells]
    loads = [
        plan_workload(model, suite, profile=profile, seed=seed)
        for suite in suites
        if suite.workload != "operators"
    ]
    if not loads:
        return Need(gpus=unit.gpus, gpu_gib=_OPERATORS_GIB, cores=CORES, weight=weight)
    depth = model.layers if layers is None else layers
    kv_bytes = kv_cache_bytes(
        model,
        layers=depth,
        tp=first.tp,
        max_num_seqs=max(load.resident for load in loads),
        max_model_len=max(load.max_tokens for load in loads),
    )
    if kv_bytes is None:
        return Need(gpus=unit.gpus, gpu_gib=None, cores=CORES, weight=weight)
    both = 2 if two_fit(model, device, layers=depth, tp=first.tp, kv_bytes=kv_bytes) else 1
    gib = both * engine_gib(model, layers=depth, tp=first.tp, kv_bytes=kv_bytes)
    return Need(gpus=unit.gpus, gpu_gib=gib, cores=CORES * max(1, unit.gpus / 2), weight=weight)


def to_localize(need: Need) -> Need:
    """What a unit takes while its failure is localized. Memory as before: a check may need two engines."""
    return replace(need, cores=min(need.cores, LOCALIZING_CORES))
