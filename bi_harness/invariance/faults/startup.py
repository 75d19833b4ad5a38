"""Faults of a start. Each function patches classes of this process's vLLM."""

from __future__ import annotations

import os
from typing import Any


def warm_recompiles() -> None:
    """The key of the compile cache names the process: what an earlier one saved is never found."""
    from vllm.config import VllmConfig

    stock = VllmConfig.compute_hash

    def compute_hash(self: Any) -> str:
        return f"{stock(self)}-{os.getpid()}"

    VllmConfig.compute_hash = compute_hash
