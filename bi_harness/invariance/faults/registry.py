"""The faults: what each copies, where it sits, and how it is planted. Imports neither torch nor vLLM."""

from __future__ import annotations

import importlib
from dataclasses import dataclass

PLANT_VARIABLE = "BI_HARNESS_PLANT_FAULT"


@dataclass(frozen=True, slots=True)
class Fault:
    """One planted fault.

    Attributes:
        id: what ``BI_HARNESS_PLANT_FAULT`` names it by.
        title: the class of defect.
        source: where it was seen, issues of vllm-project/vllm; empty for a class without one.
        module: pattern of the module it sits in; ``None`` for a fault that sits in no module.
        where: module and function below this package that plants it.
        summary: what it changes, and when.
        model: the model of ``models.yaml`` that shows it.
        suite: the suite that is there for it.
        only: of the suite's cells and checks, those that it is tried on (as ``-k``); all by default.
    """

    id: str
    title: str
    source: str
    module: str | None
    where: str
    summary: str
    model: str = "qwen3-tiny"
    suite: str = "batch_invariance"
    only: str | None = None


_LINEAR = "model.layers.*.{self_attn,mlp}.*_proj"
_ATTENTION = "model.layers.*.self_attn.attn"
_EXPERTS = "model.layers.*.mlp.experts"
_NORMS = "model.{norm,layers.*.{input_layernorm,post_attention_layernorm,self_attn.q_norm,self_attn.k_norm}}"
"""Every one is broken, and which first gives other bits than it should depends on the rounding."""

FAULTS: dict[str, Fault] = {
    fault.id: fault
    for fault in (
        Fault(
            "norm-256",
            "RMSNorm block size by tokens",
            "#48271, #48997",
            _NORMS,
            "kernels:norm_256",
            "Every RMSNorm sums in blocks of 64 once a step has 256 tokens.",
        ),
        Fault(
            "gemm-m16",
            "GEMM variant by M",
            "#40408",
            _LINEAR,
            "kernels:gemm_m16",
            "Linear layers split K in two above 16 rows.",
        ),
        Fault(
            "gemm-m64",
            "GEMM variant by M",
            "#40408",
            _LINEAR,
            "kernels:gemm_m64",
            "Linear layers split K in two above 64 rows.",
        ),
        Fault(
            "split-kv",
            "split-KV by batch",
            "#42670",
            _ATTENTION,
            "attention:split_kv",
            "Attention splits the KV axis, and its work, by what else is in the batch.",
        ),
        Fault(
            "lm-head",
            "lm_head left out of the invariant GEMM",
            "#38938",
            "lm_head",
            "kernels:lm_head",
            "The lm_head alone splits K when it has more than one row.",
        ),
        Fault(
            "one-projection",
            "one projection left out of the invariant GEMM",
            "#38938",
            "model.layers.1.mlp.down_proj",
            "kernels:one_projection",
            "One layer's down_proj runs the stock kernel.",
        ),
        Fault(
            "tensor-scale",
            "per-tensor quantization scale over the batch",
            "#57016",
            "model.layers.2.mlp.gate_up_proj",
            "kernels:tensor_scale",
            "One projection's input is quantized to int8 with one scale for the whole batch.",
        ),
        Fault(
            "atomics",
            "atomics: random order of a reduction",
            "#50602, #50059, #50278",
            "model.layers.0.mlp.down_proj",
            "kernels:atomics",
            "One projection adds four parts of K in a random order when it has more than one row.",
        ),
        Fault(
            "neighbour-tile",
            "attention tile by the longest query",
            "#51902, #47069",
            _ATTENTION,
            "attention:neighbour_tile",
            "Attention of a decoding request moves by a ULP beside a query of 10 tokens or more.",
        ),
        Fault(
            "sampler-seed",
            "sampler seed shared between neighbours",
            "",
            None,
            "sampling:sampler_seed",
            "All seeded rows of a batch draw from the first one's generator.",
        ),
        Fault(
            "greedy-neighbour",
            "greedy rows move a seeded stream",
            "",
            None,
            "sampling:greedy_neighbour",
            "A seeded row draws once more when there are rows without a seed.",
        ),
        Fault(
            "top-k-65",
            "top-k by another kernel from some number of rows on",
            "#50979",
            None,
            "sampling:top_k_65",
            "Top-k keeps a token less from 65 rows on.",
        ),
        Fault(
            "logprob-dtype",
            "logprobs in another dtype when the batch is large",
            "",
            None,
            "sampling:logprob_dtype",
            "Logprobs are computed in bfloat16 from 32 rows on.",
        ),
        Fault(
            "first-request",
            "the first request after start differs",
            "#54243, #33537",
            None,
            "sampling:first_request",
            "The first logprobs after start are computed in bfloat16.",
        ),
        Fault(
            "one-ulp",
            "one ULP of one logprob that is not the sampled token's",
            "#51187",
            None,
            "sampling:one_ulp",
            "In a batch of more than 8, one row's last top-k logprob moves by one ULP.",
        ),
        Fault(
            "one-size",
            "only at one batch size",
            "",
            None,
            "sampling:one_size",
            "Logprobs are computed in bfloat16 at exactly 17 rows.",
        ),
        Fault(
            "abort-corrupts",
            "a neighbour's abort corrupts a row",
            "",
            None,
            "sampling:abort_corrupts",
            "After an abort, the first row's logits move in the next step.",
        ),
        Fault(
            "padded-rows",
            "padded rows leak into a real one",
            "#42670",
            "model.layers.3.mlp.down_proj",
            "kernels:padded_rows",
            "Of more than one row, not a multiple of 16, the last gets what an earlier batch left behind.",
        ),
        Fault(
            "shared-prefix-cascade",
            "cascade attention",
            "#32561",
            _ATTENTION,
            "attention:shared_prefix_cascade",
            "Attention moves by a ULP when 8 requests of a step share 128 tokens of prefix.",
        ),
        Fault(
            "chunk-boundary",
            "the boundary between two chunks of a prefill",
            "#55612",
            _ATTENTION,
            "attention:chunk_boundary",
            "Attention of a chunk's first token moves by a ULP, from the second chunk on.",
        ),
        Fault(
            "stale-block",
            "stale block in the prefix cache",
            "#40896, #46592",
            "model.layers.0.self_attn.attn",
            "attention:stale_block",
            "The last block of a prefix from the cache has another block's keys and values.",
        ),
        Fault(
            "recomputed",
            "recompute after a preemption",
            "#54993, #52522",
            _ATTENTION,
            "attention:recomputed",
            "Attention of a request that is recomputed after a preemption moves by a ULP.",
        ),
        Fault(
            "moe-combine",
            "order of the experts' sum by tokens",
            "#41480",
            _EXPERTS,
            "moe:moe_combine",
            "Experts' outputs are summed from the last to the first above 16 tokens.",
            model="qwen3-moe-tiny",
        ),
        Fault(
            "moe-routing",
            "router precision by tokens: another expert in a large batch",
            "#30321",
            _EXPERTS,
            "moe:moe_routing",
            "Router logits are rounded to 8 bits above 16 tokens.",
            model="qwen3-moe-tiny",
        ),
        Fault(
            "verify-together",
            "tokens of a draft verified together",
            "#38938, #40408",
            _ATTENTION,
            "attention:verify_together",
            "Attention of a decoding request moves by a ULP when several of its tokens are scored together.",
            model="llama-eagle-tiny",
            suite="eagle_dp",
            only="tp1-dp1",
        ),
        Fault(
            "rank-seed",
            "a data parallel rank with another seed",
            "",
            None,
            "sampling:rank_seed",
            "Seeded requests draw from another stream on every rank but the first.",
            model="llama-eagle-tiny",
            suite="eagle_dp",
            only="tp1-dp2",
        ),
        Fault(
            "all-reduce-size",
            "order of an all-reduce by its message's size",
            "#50136, #50505",
            "model.{embed_tokens,layers.*.{self_attn.o_proj,mlp.down_proj}}",
            "parallel:all_reduce_size",
            "An all-reduce of more than 16 rows moves by a ULP.",
            model="llama-eagle-tiny",
            suite="eagle_dp",
            only="tp2-dp1",
        ),
        Fault(
            "override-first",
            "a setting that beats batch invariance in the choice of a kernel",
            "#39129, #39820",
            None,
            "nvfp4:override_first",
            "--linear-backend is looked at before VLLM_BATCH_INVARIANT when an NVFP4 kernel is chosen.",
            model="qwen3-nvfp4-tiny",
            suite="nvfp4",
            only="selection",
        ),
        Fault(
            "activation-scale",
            "global scale of NVFP4 activations over the batch",
            "#57016",
            _LINEAR,
            "nvfp4:activation_scale",
            "NVFP4 activations are scaled by the largest value in the step.",
            model="qwen3-nvfp4-tiny",
            suite="nvfp4",
            only="not selection",
        ),
        Fault(
            "warm-recompiles",
            "a warm start that does not find what the cold one saved",
            "#38051",
            None,
            "startup:warm_recompiles",
            "The key of the compile cache has the process's number in it.",
            suite="compile_startup",
        ),
        Fault(
            "stream-logprobs",
            "streamed logprobs that differ from those of the whole answer",
            "",
            None,
            "server:stream_logprobs",
            "The sampled token's logprob moves by a ULP in streamed completions.",
            suite="online",
        ),
        Fault(
            "op-norm-256",
            "an operator: RMSNorm block size by tokens",
            "#48271, #48997",
            _NORMS,
            "kernels:norm_256",
            "Every RMSNorm sums in blocks of 64 from 256 rows on.",
            suite="ops",
            only="norm",
        ),
        Fault(
            "op-all-reduce-size",
            "an operator: order of an all-reduce by its message's size",
            "#50136, #50505",
            "model.{embed_tokens,layers.*.{self_attn.o_proj,mlp.down_proj}}",
            "parallel:all_reduce_size",
            "An all-reduce of more than 16 rows moves by a ULP.",
            model="qwen3-tiny-ranks",
            suite="ops",
            only="all_reduce",
        ),
        Fault(
            "op-gemm-m16",
            "an operator: GEMM variant by M",
            "#40408",
            _LINEAR,
            "kernels:gemm_m16",
            "Linear layers split K in two above 16 rows.",
            suite="ops",
            only="gemm",
        ),
        Fault(
            "op-lm-head",
            "an operator: lm_head left out of the invariant GEMM",
            "#38938",
            "lm_head",
            "kernels:lm_head",
            "The lm_head alone splits K when it has more than one row.",
            suite="ops",
            only="gemm",
        ),
        Fault(
            "op-one-projection",
            "an operator: one projection left out of the invariant GEMM",
            "#38938",
            "model.layers.1.mlp.down_proj",
            "kernels:one_projection",
            "One layer's down_proj runs the stock kernel.",
            suite="ops",
            only="gemm",
        ),
        Fault(
            "op-tensor-scale",
            "an operator: per-tensor quantization scale over the batch",
            "#57016",
            "model.layers.2.mlp.gate_up_proj",
            "kernels:tensor_scale",
            "One projection's input is quantized to int8 with one scale for the whole batch.",
            suite="ops",
            only="gemm",
        ),
        Fault(
            "op-split-kv",
            "an operator: split-KV by batch",
            "#42670",
            _ATTENTION,
            "attention:split_kv",
            "Attention splits the KV axis, and its work, by what else is in the batch.",
            suite="ops",
            only="attention",
        ),
        Fault(
            "op-logprob-dtype",
            "an operator: logprobs in another dtype when the batch is large",
            "",
            None,
            "sampling:logprob_dtype",
            "Logprobs are computed in bfloat16 from 32 rows on.",
            suite="ops",
            only="softmax",
        ),
        Fault(
            "op-one-size",
            "an operator: only at one batch size",
            "",
            None,
            "sampling:one_size",
            "Logprobs are computed in bfloat16 at exactly 17 rows.",
            suite="ops",
            only="softmax",
        ),
        Fault(
            "op-sampler-seed",
            "an operator: sampler seed shared between neighbours",
            "",
            None,
            "sampling:sampler_seed",
            "All seeded rows of a batch draw from the first one's generator.",
            suite="ops",
            only="sampling",
        ),
        Fault(
            "module-lm-head",
            "a module: lm_head left out of the invariant GEMM",
            "#38938",
            "lm_head",
            "kernels:lm_head",
            "The lm_head alone splits K when it has more than one row.",
            suite="module_invariance",
        ),
        Fault(
            "module-lm-head-m64",
            "a module: lm_head by M, beyond the batches that requests form",
            "#38938",
            "lm_head",
            "kernels:lm_head_m64",
            "The lm_head alone splits K above 64 rows, more than the engine admits requests: logprobs agree.",
            suite="module_invariance",
        ),
        Fault(
            "module-norm-256",
            "a module: RMSNorm block size by tokens",
            "#48271, #48997",
            "model.layers.*.input_layernorm",
            "kernels:norm_256",
            "Every RMSNorm sums in blocks of 64 from 256 rows on.",
            suite="module_invariance",
        ),
        Fault(
            "module-gemm-m16",
            "a module: GEMM variant by M",
            "#40408",
            _LINEAR,
            "kernels:gemm_m16",
            "Linear layers split K in two above 16 rows.",
            suite="module_invariance",
        ),
        Fault(
            "module-one-projection",
            "a module: one projection left out of the invariant GEMM",
            "#38938",
            "model.layers.1.mlp.down_proj",
            "kernels:one_projection",
            "One layer's down_proj runs the stock kernel.",
            suite="module_invariance",
        ),
        Fault(
            "module-atomics",
            "a module: random order of a reduction",
            "#50602, #50059, #50278",
            "model.layers.0.mlp.down_proj",
            "kernels:atomics",
            "One projection adds four parts of K in a random order when it has more than one row.",
            suite="module_invariance",
        ),
        Fault(
            "module-padded-rows",
            "a module: padded rows leak into a real one",
            "#42670",
            "model.layers.3.mlp.down_proj",
            "kernels:padded_rows",
            "Of more than one row, not a multiple of 16, the last gets what an earlier batch left behind.",
            suite="module_invariance",
        ),
        Fault(
            "module-split-kv",
            "a module: split-KV by batch",
            "#42670",
            _ATTENTION,
            "attention:split_kv",
            "Attention splits the KV axis, and its work, by what else is in the batch.",
            suite="module_invariance",
        ),
        Fault(
            "module-moe-combine",
            "a module: order of the experts' sum by tokens",
            "#41480",
            _EXPERTS,
            "moe:moe_combine",
            "Experts' outputs are summed from the last to the first above 16 tokens.",
            suite="module_invariance",
            model="qwen3-moe-tiny",
        ),
        Fault(
            "module-moe-routing",
            "a module: router precision by tokens",
            "#30321",
            _EXPERTS,
            "moe:moe_routing",
            "Router logits are rounded to 8 bits above 16 tokens.",
            suite="module_invariance",
            model="qwen3-moe-tiny",
        ),
    )
}

_planted: list[str] = []


def plant(fault: str) -> None:
    """Plant a fault in this process's vLLM, before the engine is made. A second call does nothing.

    Raises:
        ValueError: there is no such fault, or another one is planted.
        ImportError, AttributeError: this vLLM has not what the fault patches.
    """
    if _planted == [fault]:
        return
    if fault not in FAULTS:
        raise ValueError(f"{PLANT_VARIABLE}={fault}: no such fault; there are {', '.join(FAULTS)}")
    if _planted:
        raise ValueError(f"{PLANT_VARIABLE}={fault}: {_planted[0]} is planted already")
    module, _, function = FAULTS[fault].where.partition(":")
    getattr(importlib.import_module(f"bi_harness.invariance.faults.{module}"), function)()
    _planted.append(fault)


def planted() -> str | None:
    """The fault of this process, read back from what was patched; ``None`` for none."""
    return _planted[0] if _planted else None
