"""Faults between the ranks. Each function patches classes of this process's vLLM."""

from __future__ import annotations

from typing import Any


def all_reduce_size() -> None:
    """What an all-reduce of more than 16 rows gives moves by a ULP."""
    import torch
    from vllm.distributed.parallel_state import GroupCoordinator

    stock = GroupCoordinator.all_reduce

    def all_reduce(self: Any, input_: Any) -> Any:
        out = stock(self, input_)
        if self.world_size > 1 and out.dim() > 1 and out.shape[0] > 16:
            out.view(torch.int16 if out.element_size() == 2 else torch.int32).bitwise_xor_(1)
        return out

    GroupCoordinator.all_reduce = all_reduce
