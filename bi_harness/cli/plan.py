"""``bi-harness plan``: what a run would do, and what the rules exclude. Starts nothing."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bi_harness.cli.options import (
    AsJson,
    Backends,
    Device,
    Expression,
    Gpus,
    HardwareFile,
    Layers,
    Models,
    ModelsFile,
    Modes,
    Profile,
    ProfileName,
    Shard,
    Suites,
    SuitesDir,
    VllmVersion,
    Weights,
    WeightsName,
)
from bi_harness.cli.output import warn
from bi_harness.errors import NothingToRun

if TYPE_CHECKING:
    from bi_harness.cli.release import VllmRelease
    from bi_harness.matrix.select import Selection


def plan(
    device: Device = "auto",
    model: Models = None,
    suite: Suites = None,
    backend: Backends = None,
    mode: Modes = None,
    k: Expression = None,
    shard: Shard = None,
    profile: Profile = ProfileName.smoke,
    weights: Weights = WeightsName.named,
    layers: Layers = None,
    vllm_version: VllmVersion = None,
    gpus: Gpus = None,
    models_file: ModelsFile = None,
    hardware_file: HardwareFile = None,
    suites_dir: SuitesDir = None,
    as_json: AsJson = False,
) -> None:
    """Show what a run would do, and what the rules exclude. Starts nothing; needs neither torch nor vLLM.

    With --shard I/N, what of it that part would do (in a Buildkite step with parallelism, its own job by
    default); cells that rules exclude are in one part each, too.

    Ends with 0; with 4 for a wrong flag or a mistake in the YAML; with 5 when nothing would run.
    """
    from bi_harness.cli.release import vllm_release
    from bi_harness.matrix.expand import expand
    from bi_harness.matrix.select import absent, known, select
    from bi_harness.matrix.shards import narrowed_to, parts, shard_asked
    from bi_harness.matrix.weights import unit_weights
    from bi_harness.spec.load import default_paths, load_spec

    part = shard_asked(shard, os.environ)
    paths = default_paths(models_file, hardware_file, suites_dir)
    spec = load_spec(paths.models, paths.hardware, paths.suites)
    if device == "auto":
        from bi_harness.device.detect import detect
        from bi_harness.device.match import match_device

        facts = detect()
        device = match_device(device, spec.devices, facts)
        gpus = len(facts.gpus) if gpus is None else gpus
    # Before the release is looked up, which needs the device.
    known("device", [device], [*spec.devices, "auto"])
    release = vllm_release(spec, device, vllm_version)
    selection = select(
        expand(
            spec,
            device,
            vllm_version=release.version,
            profile=profile.value,
            weights=weights.value,
            layers=layers,
            gpus=gpus,
            models=model,
            suites=suite,
            backends=backend,
            modes=[m.value for m in mode] if mode else None,
        ),
        spec,
        k,
    )
    for name in absent(model or (), selection.plan):
        warn(f"--model {name} leaves no cell on {device}: no backend, size, mode or check in common")
    settings: dict[str, Any] = {"profile": profile.value, "weights": weights.value, "layers": layers}
    nothing = not selection.running
    if part is not None:
        settings["shard"] = {"index": part.index, "count": part.count}
        units = parts(unit_weights(selection, spec), part.count)[part.index - 1]
        selection = narrowed_to(selection, units)
    if as_json:
        from bi_harness.cli.output import write_json

        write_json(as_data(selection, release, settings))
    else:
        from bi_harness.cli.plan_view import show

        show(selection, release, settings)
    if nothing:
        filters = {"--model": model, "--suite": suite, "--backend": backend, "--mode": mode, "-k": k}
        raise NothingToRun(_nothing(selection, filters, profile.value))


def as_data(selection: Selection, release: VllmRelease, settings: Mapping[str, Any]) -> dict[str, Any]:
    """``plan --json``."""
    chosen = selection.plan
    return {
        "device": chosen.device,
        "vllm_version": release.version,
        "vllm_origin": release.origin,
        **settings,
        "cells": [
            {
                "id": planned.cell.id,
                "unit": planned.unit,
                "status": planned.status,
                "rule": planned.rule,
                "reason": planned.reason,
                "source": planned.source,
                "checks": list(selection.checks[planned.cell.id]),
            }
            for planned in chosen.cells
        ],
        "units": [
            {"id": unit.id, "gpus": unit.gpus, "cells": [cell.id for cell in unit.cells]}
            for unit in chosen.units
        ],
        "totals": totals(selection),
    }


def totals(selection: Selection) -> dict[str, int]:
    """How many cells, by status, and what they come to."""
    cells = selection.plan.cells
    running = sum(planned.status == "run" for planned in cells)
    return {
        "cells": len(cells),
        "run": running,
        "skip": len(cells) - running,
        "units": len(selection.plan.units),
        "checks": selection.running,
    }


def _nothing(selection: Selection, filters: Mapping[str, str | Sequence[Any] | None], profile: str) -> str:
    cells = selection.plan.cells
    if cells:
        rules = ", ".join(dict.fromkeys(str(planned.rule) for planned in cells))
        return f"nothing to run: all {len(cells)} cells are excluded (rules: {rules})"
    used = [name for name, value in filters.items() if value]
    why = f"nothing matches {' with '.join(used)}" if used else "no model of models.yaml is for it"
    return f"nothing to run on {selection.plan.device} in profile {profile}: {why}"
