"""A small valid spec on disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from bi_harness.errors import SpecError
from bi_harness.spec.load import Spec, load_spec

MODELS = """\
models:
  tiny:
    synthetic: true
    config: {model_type: qwen3, num_hidden_layers: 4, hidden_size: 64, num_attention_heads: 4, vocab_size: 9}
    suites: [core]
    memory_gib: 0.02
    max_model_len: 2048
  big:
    hf: Org/Big
    config: {model_type: llama, num_hidden_layers: 32, hidden_size: 8, num_attention_heads: 32, vocab_size: 9}
    suites: [core]
    tp: [1, 2]
    memory_gib: 15
    max_model_len: 4096
    profiles: [nightly]
    devices: [gpu]
"""

HARDWARE = """\
reference_vllm: "0.33.0"
devices:
  cpu:
    title: CPU
    kind: cpu
    memory_gib: 8
    backends: {mha: [CPU_ATTN]}
    modes: [eager, compile]
    invariance: {how: plugin, on: {X: "1"}, off: {X: "0"}}
    reference_vllm: "0.32.0"
  gpu:
    title: GPU
    kind: cuda
    capability: "8.0"
    match: [A100]
    memory_gib: 80
    gpus: 2
    backends: {mha: [FLASH_ATTN, TRITON_ATTN], mla: [TRITON_MLA]}
    modes: [eager, compile]
    tp: [1, 2]
    invariance: {how: env, on: {X: "1"}, off: {X: "0"}}
rules:
  eager-only:
    vllm: "<0.22"
    when: {kind: cuda, capability: "<9.0", mode: compile}
    then: skip
    reason: Eager only.
    source: PR 1
"""

SUITE = """\
id: core
title: Core
engine: shared
checks:
  - {id: alone, test: "test_a.py::test_a", summary: One.}
  - {id: spread, test: "test_b.py::test_b", summary: Two., needs: {tp: ">1"}}
timeouts: {start_s: 60, check_s: 60}
profiles:
  smoke: {prompts: 3, sizes: [2, 3], part: 0.5, name: x}
control_min_fraction: 0.5
"""


class Files:
    """The three files, by name, and loading them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.models = MODELS
        self.hardware = HARDWARE
        self.suite = SUITE

    def load(self) -> Spec:
        (self.root / "suites" / "core").mkdir(parents=True, exist_ok=True)
        (self.root / "models.yaml").write_text(self.models)
        (self.root / "hardware.yaml").write_text(self.hardware)
        (self.root / "suites" / "core" / "suite.yaml").write_text(self.suite)
        return load_spec(self.root / "models.yaml", self.root / "hardware.yaml", self.root / "suites")

    def errors(self) -> list[str]:
        with pytest.raises(SpecError) as caught:
            self.load()
        return str(caught.value).splitlines()
