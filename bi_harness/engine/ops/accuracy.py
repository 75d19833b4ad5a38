"""How far a result is from the same in float64."""

from __future__ import annotations

from typing import Any


def error(result: Any, expected: Any, *, ulps: float, slack: Any = 0.0) -> float:
    """The largest distance, in units of what is allowed: right up to 1; infinite for a NaN.

    Args:
        result: in the operator's own dtype, on any device.
        expected: float64, on the CPU.
        ulps: allowed, of the result's dtype at the expected value.
        slack: allowed besides, absolute: what the order of a sum may cost.
    """
    import torch

    info = torch.finfo(result.dtype)
    found = result.detach().cpu().double()
    same = (found == expected) | (
        found.isinf() & (found.sign() == expected.sign()) & (expected.abs() > info.max)
    )
    unit = expected.abs().clamp(min=info.tiny) * info.eps
    allowed = ulps * unit + torch.as_tensor(slack, dtype=torch.float64)
    distance = torch.where(same, torch.zeros_like(found), (found - expected).abs() / allowed)
    worst = distance.max().item() if distance.numel() else 0.0
    return float("inf") if worst != worst else float(worst)
