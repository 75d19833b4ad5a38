"""Spec → plan: every cell of a device, with the decision taken on it. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import get_args

from bi_harness.errors import UsageError
from bi_harness.matrix.cells import Cell, Plan, PlannedCell, unit_key
from bi_harness.matrix.collector import no_collection
from bi_harness.matrix.execution import default_mode, execution_for, left_to_default
from bi_harness.matrix.rules import (
    Exclusion,
    Point,
    RuleBook,
    divides_heads,
    fits_gpus,
    fits_memory,
    for_device,
    version,
)
from bi_harness.matrix.select import known
from bi_harness.matrix.units import unit_of, units_of
from bi_harness.spec.execution import ExecutionSpec
from bi_harness.spec.hardware import DeviceSpec
from bi_harness.spec.load import Spec
from bi_harness.spec.models import ModelSpec
from bi_harness.spec.suites import SuiteSpec
from bi_harness.spec.types import MODES, PROFILES, WEIGHTS, Mode, Profile, Weights


@no_collection()
def expand(
    spec: Spec,
    device: str,
    *,
    vllm_version: str,
    profile: Profile,
    weights: Weights = "named",
    layers: int | None = None,
    gpus: int | None = None,
    models: Sequence[str] | None = None,
    suites: Sequence[str] | None = None,
    backends: Sequence[str] | None = None,
    modes: Sequence[str] | None = None,
) -> Plan:
    """The plan for one device.

    Args:
        device: id in ``hardware.yaml``.
        vllm_version: the release that version-bound rules are decided for.
        profile: the models that list it take part; one that is named in ``models`` does in any profile, and
            where it is not for this device that shows as a skip.
        weights: ``synthetic`` runs every model with weights made on the spot.
        layers: number of layers that synthetic weights are cut to.
        gpus: GPUs of the host; the device's usual number by default.
        models, suites, backends, modes: only these, ``None`` (or empty) for all.

    Returns:
        Cells in the files' order: model, backend, sizes, mode, suite. No cell twice.

    Raises:
        UsageError: an unknown id, a version that is none, or ``layers`` that cannot be.
    """
    known("device", [device], spec.devices)
    known("profile", [profile], PROFILES)
    known("kind of weights", [weights], WEIGHTS)
    known("model", models or (), spec.models)
    known("suite", suites or (), spec.suites)
    known("mode", modes or (), MODES)
    known("backend", backends or (), _backends(spec))
    if gpus is not None and gpus < 0:
        raise UsageError(f"--gpus {gpus}: give 0 or more")
    place = spec.devices[device]
    release = version(vllm_version)
    book = RuleBook(spec.rules, place, release)
    cells: list[PlannedCell] = []
    for model in _models(spec, place, profile, models):
        synthetic = model.synthetic or weights == "synthetic"
        _check_layers(model, layers, synthetic=synthetic)
        chosen = [
            suite for name, suite in spec.suites.items() if name in model.suites and _wanted(name, suites)
        ]
        kinds = [mode for mode in place.modes if _wanted(mode, modes)]
        never = for_device(model, place)
        for backend in place.backends.of(model.attention):
            if not _wanted(backend, backends):
                continue
            for tp, dp in _sizes(model, None if never else place):
                excluded = (
                    never
                    or fits_gpus(tp, dp, place, place.gpus if gpus is None else gpus)
                    or divides_heads(model, tp)
                    or fits_memory(model, place, tp, dp, synthetic=synthetic, layers=layers)
                )
                execution = execution_for(
                    spec.execution, model, place, vllm=release, tp=tp, synthetic=synthetic
                )
                cells += _left_to_default(
                    _cells(model, place, backend, (tp, dp), kinds, chosen, book, excluded, execution),
                    execution,
                    vllm_version,
                )
    return Plan(
        device=device,
        vllm_version=vllm_version,
        profile=profile,
        weights=weights,
        cells=tuple(cells),
        units=units_of(cells, cpu=place.kind == "cpu"),
    )


def _cells(
    model: ModelSpec,
    device: DeviceSpec,
    backend: str,
    sizes: tuple[int, int],
    modes: Sequence[Mode],
    suites: Sequence[SuiteSpec],
    book: RuleBook,
    excluded: Exclusion | None,
    execution: ExecutionSpec | None,
) -> Iterator[PlannedCell]:
    tp, dp = sizes
    default = default_mode(execution)
    for mode in modes:
        same_as = default if mode == "default" else None
        key = unit_key(device.id, model.id, backend, tp, dp, mode)
        for suite in suites:
            if mode not in suite.modes or (dp > 1 and not suite.data_parallel):
                continue
            cell = Cell(device.id, model.id, backend, tp, dp, mode, suite.id)
            unit = unit_of(key, suite.id, shared=suite.engine == "shared")
            point = Point(model.id, model.attention, backend, tp, dp, mode, suite.id, same_as)
            why = excluded or book.decide(point)
            if why is None:
                yield PlannedCell(cell, unit, "run", same_as=same_as)
            else:
                yield PlannedCell(cell, unit, "skip", why.rule, why.reason, why.source, same_as)


def _left_to_default(
    cells: Iterable[PlannedCell], execution: ExecutionSpec | None, vllm: str
) -> list[PlannedCell]:
    """The cells of one model, backend and size; a cell whose mode is the same as ``default`` does not run."""
    found = list(cells)
    running = {
        planned.cell.suite: planned.same_as
        for planned in found
        if planned.cell.mode == "default" and planned.status == "run"
    }
    for place, planned in enumerate(found):
        cell = planned.cell
        if execution is not None and planned.status == "run" and running.get(cell.suite) == cell.mode:
            why = left_to_default(execution, vllm)
            found[place] = replace(
                planned, status="skip", rule=why.rule, reason=why.reason, source=why.source
            )
    return found


def _models(
    spec: Spec, device: DeviceSpec, profile: Profile, names: Sequence[str] | None
) -> Iterator[ModelSpec]:
    for name, model in spec.models.items():
        if names:
            if name in names:
                yield model
        elif profile in model.profiles and (model.devices is None or device.id in model.devices):
            yield model


def _sizes(model: ModelSpec, device: DeviceSpec | None) -> list[tuple[int, int]]:
    """The model's sizes that the device has too; all of the model's where no device is given."""
    return [
        (tp, dp)
        for tp in model.tp
        if device is None or tp in device.tp
        for dp in model.dp
        if device is None or dp in device.dp
    ]


def _check_layers(model: ModelSpec, layers: int | None, *, synthetic: bool) -> None:
    if layers is None:
        return
    if not synthetic:
        raise UsageError(f"--layers {layers} needs --weights synthetic: {model.id}'s own weights are fixed")
    if not 1 <= layers <= model.layers:
        raise UsageError(f"--layers {layers}: {model.id} has {model.layers}; give 1 to {model.layers}")


def _wanted(name: str, names: Collection[str] | None) -> bool:
    return not names or name in names


def _backends(spec: Spec) -> list[str]:
    lists = (
        device.backends.of(kind)
        for device in spec.devices.values()
        for kind in get_args(ModelSpec.model_fields["attention"].annotation)
    )
    return sorted({name for names in lists for name in names})
