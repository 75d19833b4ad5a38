"""What an engine start imports, as data: for the process that imports it once (``forkserver``).

Worker side: standard library alone.
"""

from __future__ import annotations

_START = (
    "torch",
    "vllm",
    "vllm.entrypoints.llm",
    "vllm.v1.engine.core",
    "vllm.v1.engine.core_client",
    "vllm.v1.engine.llm_engine",
    "vllm.v1.executor.uniproc_executor",
    "vllm.v1.core.sched.scheduler",
    "vllm.v1.metrics.reader",
    "vllm.model_executor.models.registry",
    "vllm.model_executor.model_loader",
    "vllm.transformers_utils.config",
    "bi_harness.engine.worker",
    "bi_harness.workload.checkpoint",
)
_CPU = (
    "vllm.v1.worker.cpu_worker",
    "vllm.v1.worker.cpu_model_runner",
    "vllm.v1.attention.backends.cpu_attn",
)

MODULES = {
    # The model runner of GPUs imports kernels that look at VLLM_BATCH_INVARIANT once and for all (0.32:
    # v1/attention/ops/triton_unified_attention.py): with it, each arm would need an import of its own.
    "cuda": _START,
    "cpu": (*_START, *_CPU),
}
"""By vLLM's platform. One that this vLLM has not got is left out."""

LATE = (
    "CUDA_VISIBLE_DEVICES",
    "VLLM_BATCH_INVARIANT",
    "VLLM_CACHE_ROOT",
    "VLLM_ENABLE_V1_MULTIPROCESSING",
    "TORCHINDUCTOR_CACHE_DIR",
    "TRITON_CACHE_DIR",
)
"""Variables that an engine may have other than the process that it is forked from: they are read each time
that they are needed. Whether that holds of Python code is seen while the modules are imported. C code reads
CUDA_VISIBLE_DEVICES when CUDA is initialised, and VLLM_BATCH_INVARIANT when the first kernel asks."""

LATE_PREFIXES = ("BI_HARNESS_", "PYTEST_")
"""The same, by their beginnings: our own, and pytest's of the test at hand."""

HARMLESS = frozenset(
    {
        # A path that nothing uses: ``DiskDynamoCache.path_prefix`` asks again each time.
        ("TORCHINDUCTOR_CACHE_DIR", "torch._dynamo.package"),
        # Looks for a file of a bisection in it, and keeps nothing.
        ("TORCHINDUCTOR_CACHE_DIR", "torch._inductor.compiler_bisector"),
        # Whether there is any GPU at all: an engine has one, or there is no engine.
        ("CUDA_VISIBLE_DEVICES", "torch._inductor.runtime.benchmarking"),
        ("CUDA_VISIBLE_DEVICES", "torch.utils.cpp_extension"),
        ("CUDA_VISIBLE_DEVICES", "triton.backends.amd.driver"),
        ("CUDA_VISIBLE_DEVICES", "triton.backends.nvidia.driver"),
        ("CUDA_VISIBLE_DEVICES", "tvm_ffi._optional_torch_c_dlpack"),
        ("CUDA_VISIBLE_DEVICES", "vllm.triton_utils.importing"),
    }
)
"""Variables that these modules read while they are imported, and nothing comes of it (torch 2.11 to 2.13,
vLLM 0.25.1 to 0.32.0)."""

ONE_KIND = frozenset({("CUDA_VISIBLE_DEVICES", "vllm.platforms.interface")})
"""The same, where all GPUs are of one kind: vLLM keeps the first one's compute capability."""


def late(name: str) -> bool:
    """Whether a variable may be another in an engine than in what it is forked from."""
    return name in LATE or name.startswith(LATE_PREFIXES)
