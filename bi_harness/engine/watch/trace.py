"""What one call runs: operators as torch dispatches them, and kernels as its profiler sees them.

Worker side: torch alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

MAX_LINES = 200


def traced(
    stock: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Any, dict[str, Any]]:
    """What the call gives, and what it ran: ``operators`` with shapes and dtypes, a device's ``kernels``."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    lines: list[str] = []

    class Log(TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
        ) -> Any:
            out = func(*args, **(kwargs or {}))
            if len(lines) < MAX_LINES:
                shown = ", ".join(_shape(a) for a in args if isinstance(a, torch.Tensor))
                lines.append(f"{func}({shown})")
            return out

    kernels: dict[str, int] = {}
    on_device = torch.cuda.is_available()
    with Log():
        if not on_device:
            return stock(*args, **kwargs), {"operators": lines, "kernels": kernels}
        activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
        with torch.profiler.profile(activities=activities) as profile:
            out = stock(*args, **kwargs)
            torch.cuda.synchronize()
    for event in profile.events() or ():
        if event.device_type == torch.autograd.DeviceType.CUDA:
            kernels[str(event.name)[:200]] = kernels.get(str(event.name)[:200], 0) + 1
    return out, {"operators": lines, "kernels": kernels}


def _shape(tensor: Any) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"
