"""Faults in NVFP4 linear layers. Each function patches functions or classes of this process's vLLM."""

from __future__ import annotations

import functools
import os
from types import SimpleNamespace
from typing import Any


def override_first() -> None:
    """``--linear-backend`` is looked at before batch invariance is."""
    from vllm import envs
    from vllm.config import get_current_vllm_config
    from vllm.model_executor.kernels import linear

    stock = linear.init_nvfp4_linear_kernel

    @functools.wraps(stock)
    def init_nvfp4_linear_kernel(*args: Any, **kwargs: Any) -> Any:
        backend = get_current_vllm_config().kernel_config.linear_backend
        if not envs.VLLM_BATCH_INVARIANT or backend == "auto":
            return stock(*args, **kwargs)
        os.environ["VLLM_BATCH_INVARIANT"] = "0"
        try:
            return stock(*args, **kwargs)
        finally:
            os.environ["VLLM_BATCH_INVARIANT"] = "1"

    linear.init_nvfp4_linear_kernel = init_nvfp4_linear_kernel


def activation_scale() -> None:
    """Activations are quantized with one global scale, of the largest value in the step."""
    from vllm.model_executor.kernels.linear import EmulationNvFp4LinearKernel

    stock = EmulationNvFp4LinearKernel.apply_weights

    @functools.wraps(stock)
    def apply_weights(self: Any, layer: Any, x: Any, bias: Any = None) -> Any:
        scaled = SimpleNamespace(
            weight=layer.weight,
            weight_scale=layer.weight_scale,
            weight_global_scale=layer.weight_global_scale,
            input_global_scale_inv=448.0 * 6.0 / x.abs().max().float().clamp(min=1e-8),
        )
        return stock(self, scaled, x, bias)

    EmulationNvFp4LinearKernel.apply_weights = apply_weights
