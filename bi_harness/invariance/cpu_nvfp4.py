"""NVFP4 linear layers on a CPU, and batch invariance of them.

vLLM lists no NVFP4 kernel for CPUs, though its emulation (unpack to bfloat16, then multiply) runs there as it
stands. ``offer`` puts it on the list through vLLM's own ``register_linear_kernel``; the device's environment
asks for it in both arms, so that the arms still differ in the invariance mode alone.

The emulation's matrix product depends on the number of rows, as that of every linear layer on a CPU does (see
``rows``), so in the invariance mode its rows are padded likewise. Worker side: torch and vLLM alone.
"""

from __future__ import annotations

from typing import Any

from bi_harness.invariance.rows import Rows, padded, rows_of_this_cpu


def find() -> Any | None:
    """The emulation kernel's class; ``None`` where this vLLM has none."""
    try:
        from vllm.model_executor.kernels.linear import EmulationNvFp4LinearKernel
    except ImportError:
        return None
    _ = EmulationNvFp4LinearKernel.apply_weights
    return EmulationNvFp4LinearKernel


def offer() -> None:
    """List the emulation as a kernel for CPUs, where vLLM lists none. A second call does nothing."""
    from vllm.platforms import PlatformEnum, current_platform

    kernel = find()
    if kernel is None or not current_platform.is_cpu():
        return
    from vllm.model_executor.kernels import linear

    if not linear._POSSIBLE_NVFP4_KERNELS.get(PlatformEnum.CPU):
        linear.register_linear_kernel(kernel, PlatformEnum.CPU, "nvfp4")


def patch(kernel: Any) -> tuple[str, ...]:
    """Patch the class, before any model is made. Returns what was patched, in words."""
    # All at once: each call unpacks the weights.
    rows = Rows(rows_of_this_cpu().multiple)
    kernel.apply_weights = padded(kernel.apply_weights, rows)
    return (f"{kernel.__name__}.apply_weights: rows {rows}",)
