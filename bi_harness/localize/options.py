"""Which option an engine with torch.compile or CUDA graphs must lose for a difference to go away. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from bi_harness.engine.config import EngineConfig

Change = Callable[[EngineConfig], EngineConfig]

DYNAMO_TRACE_ONCE = 2
"""Of vLLM's ``CompilationMode``."""


@dataclass(frozen=True, slots=True)
class Variant:
    """An engine like the one that failed, but for one thing.

    Attributes:
        name: what is other.
        change: of its configuration.
        note: what it means when the difference goes away with it.
    """

    name: str
    change: Change
    note: str


def _by_library(config: EngineConfig) -> EngineConfig:
    return replace(config, llm={**config.llm, "skip_tokenizer_init": True}, interface="library")


def _compiled(**options: Any) -> Change:
    def change(config: EngineConfig) -> EngineConfig:
        return _with_options(_by_library(config), **options)

    return change


def _with_options(config: EngineConfig, **options: Any) -> EngineConfig:
    given = config.llm.get("compilation_config") or {}
    before: Mapping[str, Any] = given if isinstance(given, Mapping) else {"mode": given}
    return replace(config, llm={**config.llm, "compilation_config": {**before, **options}})


def _without_inductor(config: EngineConfig) -> EngineConfig:
    # vLLM's CPU platform puts its own backend in the place of one that comes without that mode.
    mode = {"mode": DYNAMO_TRACE_ONCE} if config.platform == "cpu" else {}
    return _compiled(backend="eager", **mode)(config)


VARIANTS = (
    Variant("as it failed", _by_library, ""),
    Variant("without CUDA graphs", _compiled(cudagraph_mode="NONE"), "it comes with CUDA graphs"),
    Variant(
        "Dynamo without Inductor",
        _without_inductor,
        "it comes with the code that Inductor makes, in place of vLLM's own operators too",
    ),
    Variant(
        "custom operators in all places",
        _compiled(custom_ops=["all"]),
        "it comes with what the compiler puts in place of vLLM's own operators",
    ),
    Variant(
        "without vLLM's fusion passes",
        _compiled(
            pass_config={
                "fuse_norm_quant": False,
                "fuse_act_quant": False,
                "fuse_attn_quant": False,
                "eliminate_noops": False,
            }
        ),
        "it comes with a fusion pass",
    ),
)
"""In the order in which they are tried; on the first the pair is shrunk, and is known to differ."""


GRAPHS, OPERATORS, PASSES = VARIANTS[1], VARIANTS[3], VARIANTS[-1]
"""Which not every engine has, or not by the same options."""


def worth_trying(effective: Mapping[str, Any]) -> tuple[Variant, ...]:
    """The variants that would run differently from an engine.

    Args:
        effective: what the engine reports: an engine without torch.compile has only its CUDA graphs to lose.
    """
    graphs = str(effective.get("cudagraph_mode", "")).upper() not in ("", "NONE")
    mode = effective.get("compilation_mode", "VLLM_COMPILE")
    if mode == "NONE":
        return (GRAPHS,) if graphs else ()
    passes = mode == "VLLM_COMPILE"
    found = (v for v in VARIANTS[1:] if (graphs or v is not GRAPHS) and (passes or v is not PASSES))
    # One with another order has no C++ kernel (gelu_and_mul_sparse of 0.33), and vLLM asserts that each is
    # there.
    orders: Mapping[str, Any] = effective.get("ir_op_priority") or {}
    ir = tuple(name for name, order in orders.items() if list(order) == ["native"])
    return tuple(replace(v, change=_own_operators(ir)) if ir and v is OPERATORS else v for v in found)


def _own_operators(ir: Sequence[str]) -> Change:
    """vLLM's own operators, those of its IR too, in the order of CUDA's eager engines; a CPU has none."""

    def change(config: EngineConfig) -> EngineConfig:
        own = {name: ["vllm_c", "native"] for name in ir} if config.platform == "cuda" else {}
        return _with_ir_priority(OPERATORS.change(config), own)

    return change


def _with_ir_priority(config: EngineConfig, priority: Mapping[str, Any]) -> EngineConfig:
    # vLLM takes it in one place alone, and what the YAML says comes first.
    if not priority or "kernel_config" in config.llm:
        return config
    return replace(config, llm={**config.llm, "ir_op_priority": dict(priority)})


def eager(config: EngineConfig) -> EngineConfig:
    """The same engine, eager and driven by the library: where hooks see every module."""
    config = _by_library(config)
    env, llm = dict(config.env), {**config.llm, "enforce_eager": True}
    if llm.get("data_parallel_size", 1) == 1:
        # A scheduler in a process of its own begins with the requests that have arrived: by time.
        env["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    return replace(config, llm=llm, env=env)


def stand_in(effective: Mapping[str, Any]) -> Change:
    """The eager engine that stands for one with torch.compile or CUDA graphs: with the same operators.

    Left to itself, vLLM gives an eager engine others, C++ kernels in place of what Inductor compiles: custom
    operators, and since 0.25 IR operators (``get_default_ir_op_priority`` of its platforms). A defect of
    those is none that the engine that failed could have, and hides the one that it has.

    Args:
        effective: what the engine that failed reports.
    """

    def change(config: EngineConfig) -> EngineConfig:
        config = eager(config)
        if operators := effective.get("custom_ops"):
            config = _with_options(config, custom_ops=list(operators))
        return _with_ir_priority(config, effective.get("ir_op_priority") or {})

    return change
