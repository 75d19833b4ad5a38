"""When a rule applies."""

from __future__ import annotations

import pytest

from bi_harness.errors import UsageError
from bi_harness.matrix.rules import (
    Point,
    RuleBook,
    compares,
    divides_heads,
    fits_gpus,
    fits_memory,
    holds_for,
    point_meets,
    version,
    weights_gib,
)
from bi_harness.spec.hardware import RuleSpec
from bi_harness.spec.load import Spec, default_paths, load_spec
from bi_harness.spec.types import Conditions

POINT = Point("big", "mha", "FLASH_ATTN", 2, 1, "compile", "core")


def rule(vllm: str = "", **when: object) -> RuleSpec:
    return RuleSpec.model_validate(
        {"id": "r", "vllm": vllm, "when": when, "then": "skip", "reason": "r", "source": "s"}
    )


@pytest.mark.parametrize(
    ("value", "comparison", "met"),
    [
        ("8.9", "<9.0", True),
        ("9.0", "<9.0", False),
        ("10.0", "<9.0", False),
        ("10.0", ">= 9.0", True),
        ("8.0", "==8.0", True),
        ("2", ">1", True),
        ("1", "!=1", False),
        ("16", "<=8", False),
    ],
)
def test_numbers_are_compared_part_by_part(value: str, comparison: str, met: bool) -> None:
    assert compares(value, comparison) is met


@pytest.mark.parametrize(
    ("when", "met"),
    [
        ({}, True),
        ({"model": "big"}, True),
        ({"model": ["tiny", "big"]}, True),
        ({"model": "tiny"}, False),
        ({"attention": "mla"}, False),
        ({"backend": ["TRITON_ATTN", "FLASH_ATTN"]}, True),
        ({"mode": "eager"}, False),
        ({"suite": "core", "tp": ">1"}, True),
        ({"tp": 2, "dp": 1}, True),
        ({"dp": ">1"}, False),
    ],
)
def test_every_condition_given_must_be_met(when: dict[str, object], met: bool) -> None:
    assert point_meets(Conditions.model_validate(when), POINT) is met


@pytest.mark.parametrize(
    ("range_", "release", "held"),
    [
        ("", "0.5", True),
        ("<0.22", "0.21.0", True),
        ("<0.22", "0.22.0", False),
        ("<0.22", "0.22.0rc1", False),
        (">=0.13,<0.22", "0.21.1.dev5+gabc", True),
        (">=0.13,<0.22", "0.12.0", False),
    ],
)
def test_releases(range_: str, release: str, held: bool) -> None:
    assert holds_for(rule(range_), version(release)) is held


def test_a_version_that_is_none() -> None:
    with pytest.raises(UsageError, match='"new" is not a vLLM version'):
        version("new")


def test_the_first_rule_that_matches_names_the_skip(spec: Spec) -> None:
    first = rule(mode="compile").model_copy(update={"id": "first"})
    second = rule(tp=2).model_copy(update={"id": "second"})
    book = RuleBook([first, second], spec.devices["gpu"], version("0.33"))
    assert [book.decide(POINT), book.decide(POINT)] == [book.decide(POINT)] * 2
    found = book.decide(POINT)
    assert found is not None
    assert found.rule == "first"
    other = book.decide(POINT._replace(mode="eager"))
    assert other is not None
    assert other.rule == "second"
    assert book.decide(POINT._replace(mode="eager", tp=1)) is None


def test_capability_conditions_never_meet_a_cpu(spec: Spec) -> None:
    book = RuleBook([rule(capability="<9.0")], spec.devices["cpu"], version("0.33"))
    assert book.decide(POINT) is None


def test_gpus(spec: Spec) -> None:
    assert fits_gpus(2, 2, spec.devices["gpu"], 4) is None
    excluded = fits_gpus(2, 2, spec.devices["gpu"], 2)
    assert excluded is not None
    assert excluded.rule == "gpus"
    assert fits_gpus(2, 2, spec.devices["cpu"], 0) is None


def test_heads(spec: Spec) -> None:
    assert divides_heads(spec.models["tiny"], 4) is None
    excluded = divides_heads(spec.models["tiny"], 3)
    assert excluded is not None
    assert excluded.rule == "heads"


def test_memory(spec: Spec) -> None:
    gpu = spec.devices["gpu"]
    large = spec.models["big"].model_copy(update={"memory_gib": 100.0})
    excluded = fits_memory(large, gpu, 1, 1, synthetic=False, layers=None)
    assert excluded is not None
    assert excluded.rule == "memory"
    assert fits_memory(large, gpu, 2, 1, synthetic=False, layers=None) is None
    assert fits_memory(large, gpu, 1, 1, synthetic=True, layers=4) is None
    # Each GPU of a data-parallel pair holds a whole replica; a CPU's replicas share one memory.
    assert fits_memory(large, gpu, 1, 2, synthetic=False, layers=None) is not None
    half = large.model_copy(update={"memory_gib": 3.0})
    assert fits_memory(half, spec.devices["cpu"], 1, 1, synthetic=False, layers=None) is None
    assert fits_memory(half, spec.devices["cpu"], 1, 2, synthetic=False, layers=None) is not None


def test_synthetic_weights_are_not_quantized(spec: Spec) -> None:
    model = spec.models["big"].model_copy(update={"quantization": "fp8"})
    assert weights_gib(model, synthetic=False, layers=None) == model.memory_gib
    assert weights_gib(model, synthetic=True, layers=None) == 2 * model.memory_gib
    assert weights_gib(model, synthetic=True, layers=16) == pytest.approx(model.memory_gib, rel=0.01)


@pytest.mark.parametrize(
    ("device", "release", "mode", "suite", "backend", "excluded"),
    [
        # vLLM pull request 42456: SM80 compiles from 0.22.0 on.
        ("a100", "0.21.0", "compile", "batch_invariance", "FLASH_ATTN", "eager-only-below-9.0"),
        ("a100", "0.21.0", "eager", "batch_invariance", "FLASH_ATTN", None),
        ("a100", "0.22.0", "compile", "batch_invariance", "FLASH_ATTN", None),
        ("l4", "0.21.0", "compile", "batch_invariance", "FLASH_ATTN", "eager-only-below-9.0"),
        ("h100", "0.21.0", "compile", "batch_invariance", "FLASH_ATTN", None),
        ("b200", "0.13.0", "compile", "batch_invariance", "FLASH_ATTN", None),
        # The early releases needed capability 9.0.
        ("a100", "0.12.0", "eager", "batch_invariance", "FLASH_ATTN", "needs-capability-9.0"),
        ("h100", "0.12.0", "eager", "batch_invariance", "FLASH_ATTN", None),
        # Pull requests 38938 and 30018: EAGLE with DP stays eager below 9.0.
        ("a100", "0.33.0", "compile", "eagle_dp", "FLASH_ATTN", "eagle-dp-eager-below-9.0"),
        ("h200", "0.33.0", "compile", "eagle_dp", "FLASH_ATTN", None),
        ("h200", "0.20.0", "eager", "batch_invariance", "FLEX_ATTENTION", "flex-attention-unsupported"),
        ("h200", "0.21.0", "eager", "batch_invariance", "FLEX_ATTENTION", None),
        ("cpu", "0.12.0", "compile", "batch_invariance", "CPU_ATTN", None),
    ],
)
def test_the_shipped_rules(
    device: str, release: str, mode: str, suite: str, backend: str, excluded: str | None
) -> None:
    paths = default_paths(environ={})
    shipped = load_spec(paths.models, paths.hardware, paths.suites)
    book = RuleBook(shipped.rules, shipped.devices[device], version(release))
    point = Point("qwen3-1.7b", "mha", backend, 1, 1, mode, suite)  # type: ignore[arg-type]
    found = book.decide(point)
    assert (found.rule if found else None) == excluded
