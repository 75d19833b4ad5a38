"""Whether a run is still the one that began."""

from __future__ import annotations

from typing import Any

import pytest

from bi_harness.certificate.statement import EndpointScope, Power
from bi_harness.runner.same_run import differences
from tests.certificate.journals import DIGEST, planned, started

HOST = {"hostname": "a", "cpu_model": "X", "cpu_flags": ["amx"], "physical_cores": 2, "gpus": []}
BASE: dict[str, Any] = {
    "device": {"id": "cpu", "kind": "cpu", "host": HOST},
    "provenance": {
        "harness": {"version": "1", "git_commit": "a"},
        "digests": {"models.yaml": DIGEST},
        "command": ["bi-harness", "run"],
        "environment": {"VLLM_X": "1", "BI_HARNESS_OUT": "a"},
    },
    "asked": {"vllm": "0.32.0", "options": {}},
}
GPU = {"name": "H200", "capability": "9.0", "memory_gib": 139.8, "mig": False, "uuid": "a"}


def changed(path: str, value: object) -> dict[str, Any]:
    """``BASE`` with another value at a path of keys."""

    def change(where: Any, keys: list[str]) -> Any:
        return {**where, keys[0]: change(where.get(keys[0], {}), keys[1:]) if keys[1:] else value}

    made: dict[str, Any] = change(BASE, path.split("/"))
    return made


SAME = {
    "provenance/command": ["bi-harness", "run", "--resume", "x"],
    "provenance/environment": {"VLLM_X": "1", "BI_HARNESS_OUT": "b", "BI_HARNESS_RESUME": "x"},
    "provenance/harness/git_commit": "b",
    "device/host/hostname": "b",
    "asked/options": {"engine_python": "/elsewhere"},
    "time": "1970-01-01T00:00:00Z",
}
OTHER = {
    "device/id": ("h200", "device: cpu then, h200 now"),
    "device/kind": ("cuda", "device's kind: cpu then, cuda now"),
    "device/host/cpu_model": ("Y", "host's cpu_model: X then, Y now"),
    "device/host/cpu_flags": ([], "host's cpu_flags"),
    "device/host/gpus": ([GPU], "host's gpus"),
    "asked/vllm": ("0.33.0", "vLLM: 0.32.0 then, 0.33.0 now"),
    "provenance/harness/version": ("2", "bi-harness: 1 then, 2 now"),
    "provenance/digests/models.yaml": ("sha256:0", "digest of models.yaml"),
    "provenance/digests/new": ("sha256:0", "digest of new: none then"),
    "provenance/environment/VLLM_X": ("2", "variable VLLM_X: 1 then, 2 now"),
    "provenance/environment/OMP_NUM_THREADS": ("1", "variable OMP_NUM_THREADS: none then, 1 now"),
    "provenance/environment/BI_HARNESS_PLANT_FAULT": ("ulp", "variable BI_HARNESS_PLANT_FAULT: none then"),
    "plan": ((planned("alone", "more"),), "plan: 1 checks then, 2 now"),
    "power": (
        (
            Power(
                suite="s",
                device="cpu",
                vllm="1",
                measured="t",
                current=True,
                faults=1,
                caught=1,
                clean_runs=1,
                false_alarms=0,
            ),
        ),
        "power: another one now",
    ),
}
SCOPE = {
    "seed": (1, "seed: 0 then, 1 now"),
    "profile": ("release", "profile: smoke then, release now"),
    "weights": ("synthetic", "weights: named then, synthetic now"),
    "layers": (2, "layers: none then, 2 now"),
    "filters": ({"k": "x"}, "k: none then, x now"),
    "models": ({"tiny": "x"}, "models: tiny: none then, x now"),
    "endpoint": (EndpointScope(url="http://h"), "endpoint: none then"),
}


@pytest.mark.parametrize("path", SAME)
def test_what_may_be_another(path: str) -> None:
    assert differences(started(**BASE), started(**changed(path, SAME[path]))) == ()


@pytest.mark.parametrize("path", OTHER)
def test_what_may_not(path: str) -> None:
    value, message = OTHER[path]
    (found,) = differences(started(**BASE), started(**changed(path, value)))
    assert found.startswith(message)


@pytest.mark.parametrize("name", SCOPE)
def test_no_part_of_the_scope_may(name: str) -> None:
    value, message = SCOPE[name]
    then = started(**BASE)
    now = then.model_copy(update={"scope": then.scope.model_copy(update={name: value})})
    (found,) = differences(then, now)
    assert found.startswith(message)


def test_all_of_it_is_named() -> None:
    now = started(**{**changed("asked/vllm", "0.33.0"), "plan": (planned("other"),)})
    assert len(differences(started(**BASE), now)) == 2


def test_a_long_value_is_cut() -> None:
    (found,) = differences(started(**BASE), started(**changed("asked/vllm", "x" * 10_000)))
    assert len(found) < 300
