"""Plans of the shipped YAML, and of a small one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bi_harness.buildkite.pipeline import DevicePlan
from bi_harness.matrix.expand import expand
from bi_harness.matrix.select import select
from bi_harness.spec.load import Spec

ROOT = Path(__file__).resolve().parents[2]


def plans(
    spec: Spec, *, profile: Any = "nightly", suites: Sequence[str] = (), **more: Any
) -> list[DevicePlan]:
    """One for each device."""
    return [
        DevicePlan(
            spec.devices[name],
            select(
                expand(spec, name, vllm_version=spec.reference(name), profile=profile, suites=suites, **more),
                spec,
            ),
            tuple(suites),
        )
        for name in spec.devices
    ]
