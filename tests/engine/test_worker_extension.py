"""What a worker tells of itself, where no engine is needed to see it."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest

from bi_harness.engine.worker_extension import _ir_operators


@dataclass
class Priority:
    """As vLLM's ``IrOpPriorityConfig``: a field for each operator."""

    rms_norm: list[str] = field(default_factory=lambda: ["vllm_c", "native"])
    fused_add_rms_norm: list[str] | None = None


def test_the_implementations_of_ir_operators_in_the_order_in_which_they_are_tried() -> None:
    config = SimpleNamespace(kernel_config=SimpleNamespace(ir_op_priority=Priority()))
    assert _ir_operators(config) == {
        "ir_op_priority": {"fused_add_rms_norm": [], "rms_norm": ["vllm_c", "native"]}
    }


@pytest.mark.parametrize("config", [SimpleNamespace(), SimpleNamespace(kernel_config=SimpleNamespace())])
def test_releases_without_them_tell_nothing(config: SimpleNamespace) -> None:
    assert _ir_operators(config) == {}
