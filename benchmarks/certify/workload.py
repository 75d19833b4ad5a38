"""The workload that our side's checks run with: as large as vLLM's own tests have it, or larger."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import yaml

SUITE, PROFILE = "batch_invariance", "smoke"
"""The suite whose profile is replaced in a copy of the suites."""

LOAD: dict[str, Any] = {
    # vLLM's: 32 prompts of 10 to 50 words by themselves and in one batch, the sampled token's logprob of 16
    # steps; and one prompt's text, 128 tokens of it, in batches of 64 to 128 with prompts of 1,024 to 2,048
    # words. Here prompts are shorter than those fillers, so that three backends fit on one GPU at once; the
    # batch of 128 is these 33 among 95 others.
    "prompts": 33,
    "steps": 20,
    "top_k": 5,
    "longest_prompt": 470,
    "batch_sizes": [32, 128],
    "min_steps": 0,
}


def with_load(suites: Path, folder: Path) -> Path:
    """Copy the suites to ``folder``, with this load as the profile ``smoke`` of ``batch_invariance``.

    Args:
        suites: those of the checkout.
        folder: is made.

    Raises:
        OSError: it cannot be written.
        KeyError: the suite has no such profile.
    """
    shutil.copytree(suites, folder, ignore=shutil.ignore_patterns("__pycache__"))
    path = folder / SUITE / "suite.yaml"
    suite = yaml.safe_load(path.read_text(encoding="utf-8"))
    if PROFILE not in suite["profiles"]:
        raise KeyError(f"{path} has no profile {PROFILE}")
    suite["profiles"][PROFILE] = LOAD
    path.write_text(yaml.safe_dump(suite, sort_keys=False), encoding="utf-8")
    return folder
