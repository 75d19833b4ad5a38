"""What a cell's mode comes out as on a release of vLLM and a device, from ``hardware.yaml``. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from packaging.specifiers import SpecifierSet
from packaging.version import Version

from bi_harness.matrix.rules import Exclusion, device_meets
from bi_harness.spec.execution import ExecutionSpec
from bi_harness.spec.hardware import DeviceSpec
from bi_harness.spec.models import ModelSpec
from bi_harness.spec.types import Mode

SAME_AS_DEFAULT = "same-as-default"
"""Id of the built-in rule that leaves out a mode which ``default`` is on this release and device."""


def execution_for(
    entries: Sequence[ExecutionSpec],
    model: ModelSpec,
    device: DeviceSpec,
    *,
    vllm: Version | None,
    tp: int,
    synthetic: bool,
) -> ExecutionSpec | None:
    """The first entry that holds; ``None`` where ``hardware.yaml`` does not know.

    Args:
        entries: of ``hardware.yaml``, in its order.
        vllm: the release; ``None`` where it is not known, and so no entry with a range holds.
        tp: tensor parallel size, which divides linear layers.
        synthetic: whether the weights are made on the spot.
    """
    for entry in entries:
        if entry.vllm and (vllm is None or not SpecifierSet(entry.vllm).contains(vllm, prereleases=True)):
            continue
        if not device_meets(entry.when, device):
            continue
        if entry.tuned_linear and not _has_tuned_layer(entry, model, tp=tp, synthetic=synthetic):
            continue
        return entry
    return None


def default_mode(entry: ExecutionSpec | None) -> Mode | None:
    """The mode that ``default`` comes out as; ``None`` where that is none of the others, or not known."""
    return None if entry is None or entry.default == "breakable" else entry.default


def left_to_default(entry: ExecutionSpec, vllm: str) -> Exclusion:
    """Why a mode does not run where ``default`` is the same."""
    reason = f"default is {entry.default} here (vLLM {vllm}): the default cell has its results."
    return Exclusion(SAME_AS_DEFAULT, reason, entry.source)


def default_twin(cell: str) -> str:
    """The id of the ``default`` cell that has the results of ``cell``, the id of a cell in another mode."""
    *place, _, suite = cell.split("/")
    return "/".join((*place, "default", suite))


def linear_shapes(model: ModelSpec, tp: int) -> set[tuple[int, int]]:
    """Output and input features of the QKV, output, gate-up and down projections on one rank.

    As ``_uses_breakable_cudagraph_for_batch_invariance`` of vLLM 0.33.0 (``vllm/config/vllm.py``) computes
    them, also for models that have other layers besides: it looks at these sizes of the configuration alone.
    """
    config = model.config
    hidden, heads = int(config["hidden_size"]), int(config["num_attention_heads"])
    kv_heads = int(config.get("num_key_value_heads") or heads)
    if model.attention == "mla":
        # vLLM keeps one latent head, of this size.
        head = int(config["kv_lora_rank"]) + int(config["qk_rope_head_dim"])
        kv_heads = 1
    else:
        head = int(config.get("head_dim") or hidden // heads)
    heads, kv_heads = heads // tp, max(1, kv_heads // tp)
    shapes = {((heads + 2 * kv_heads) * head, hidden), (hidden, heads * head)}
    if isinstance(intermediate := config.get("intermediate_size"), int):
        shapes |= {(2 * intermediate // tp, hidden), (hidden, intermediate // tp)}
    return shapes


def _has_tuned_layer(entry: ExecutionSpec, model: ModelSpec, *, tp: int, synthetic: bool) -> bool:
    quantized = model.quantize is not None or (model.quantization is not None and not synthetic)
    if quantized or model.dtype not in ("bfloat16", "auto"):
        return False
    return not linear_shapes(model, tp).isdisjoint(entry.tuned_linear)
