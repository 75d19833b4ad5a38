"""Which rules apply to a cell. Pure."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version

from bi_harness.errors import UsageError
from bi_harness.spec.hardware import DeviceSpec, RuleSpec
from bi_harness.spec.models import ModelSpec
from bi_harness.spec.types import Attention, Conditions, DeviceConditions, Mode

_Parts = tuple[int, ...]
_OPERATORS: dict[str, Callable[[_Parts, _Parts], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
    ">=": operator.ge,
    ">": operator.gt,
}


class Exclusion(NamedTuple):
    """Why a cell does not run.

    Attributes:
        rule: id of the rule, built-in or from ``hardware.yaml``.
        reason: one sentence for a reader.
        source: where the rule comes from.
    """

    rule: str
    reason: str
    source: str


class Point(NamedTuple):
    """The axes of a cell that conditions look at, the device apart.

    Attributes:
        same_as: the mode that ``default`` comes out as, where it is another mode: conditions on that mode
            hold, too.
    """

    model: str
    attention: Attention
    backend: str
    tp: int
    dp: int
    mode: Mode
    suite: str
    same_as: Mode | None = None


def version(text: str) -> Version:
    """The version.

    Raises:
        UsageError: it is none (PEP 440).
    """
    try:
        return Version(text)
    except InvalidVersion:
        raise UsageError(f'"{text}" is not a vLLM version; give one like 0.32.0') from None


def holds_for(rule: RuleSpec, vllm: Version) -> bool:
    """Whether the rule speaks of this release (development builds and pre-releases included)."""
    return SpecifierSet(rule.vllm).contains(vllm, prereleases=True)


def device_meets(when: DeviceConditions, device: DeviceSpec) -> bool:
    """Whether the device meets the conditions that are about devices."""
    if when.device is not None and device.id not in when.device:
        return False
    if when.kind is not None and device.kind != when.kind:
        return False
    if when.capability is not None:
        return device.capability is not None and compares(device.capability, when.capability)
    return True


def point_meets(when: Conditions, point: Point) -> bool:
    """Whether the cell meets the conditions that are about the other axes."""
    return (
        (when.model is None or point.model in when.model)
        and (when.attention is None or point.attention == when.attention)
        and (when.backend is None or point.backend in when.backend)
        and (when.mode is None or point.mode in when.mode or point.same_as in when.mode)
        and (when.suite is None or point.suite in when.suite)
        and (when.tp is None or compares(str(point.tp), when.tp))
        and (when.dp is None or compares(str(point.dp), when.dp))
    )


@lru_cache(maxsize=4096)
def compares(value: str, comparison: str) -> bool:
    """Whether ``value`` meets ``comparison``: ``compares("8.9", "<9.0")``, ``compares("2", ">1")``.

    Numbers are compared part by part: capability 10.0 is above 9.0.
    """
    found = re.match(r"(<=|>=|==|!=|<|>)\s*([\d.]+)$", comparison)
    assert found is not None, comparison  # the spec's types have seen to it
    return _OPERATORS[found[1]](_parts(value), _parts(found[2]))


def _parts(number: str) -> _Parts:
    return tuple(int(part) for part in number.split("."))


class RuleBook:
    """The rules of ``hardware.yaml`` that can apply on one device with one release.

    A decision depends only on the axes that some such rule looks at, so each combination of those is decided
    once however many cells share it.
    """

    def __init__(self, rules: Sequence[RuleSpec], device: DeviceSpec, vllm: Version) -> None:
        live = [rule for rule in rules if holds_for(rule, vllm) and device_meets(rule.when, device)]
        self._rules = [(rule.when, Exclusion(rule.id, rule.reason, rule.source)) for rule in live]
        self._axes = tuple(
            i
            for i, axis in enumerate(Point._fields)
            if any(
                getattr(when, "mode" if axis == "same_as" else axis) is not None for when, _ in self._rules
            )
        )
        self._decided: dict[tuple[str | int | None, ...], Exclusion | None] = {}

    def decide(self, point: Point) -> Exclusion | None:
        """The first rule that excludes the cell; ``None`` when none does."""
        key = tuple([point[i] for i in self._axes])
        try:
            return self._decided[key]
        except KeyError:
            verdict = next((why for when, why in self._rules if point_meets(when, point)), None)
            self._decided[key] = verdict
            return verdict


SOURCE = "bi-harness"
"""The source of the built-in rules."""

MARGIN_GIB = 2.0
"""What an engine needs beside its weights at the least: activations, a KV cache, CUDA's own."""

USABLE = 0.85
"""The part of a device's memory that an engine may take: `gpu_memory_utilization` of hardware.yaml."""


def for_device(model: ModelSpec, device: DeviceSpec) -> Exclusion | None:
    """Built-in rule ``devices``: the model is not for this device (and was asked for by name)."""
    if model.devices is None or device.id in model.devices:
        return None
    reason = f"models.yaml has {model.id} for {', '.join(model.devices)}, not for {device.id}."
    return Exclusion("devices", reason, "models.yaml")


def fits_gpus(tp: int, dp: int, device: DeviceSpec, gpus: int) -> Exclusion | None:
    """Built-in rule ``gpus``: the host has too few."""
    if device.kind == "cpu" or tp * dp <= gpus:
        return None
    reason = f"tp{tp}-dp{dp} needs {tp * dp} GPUs; the host has {gpus}."
    return Exclusion("gpus", reason, SOURCE)


def divides_heads(model: ModelSpec, tp: int) -> Exclusion | None:
    """Built-in rule ``heads``: vLLM splits attention heads evenly over the tensor-parallel ranks."""
    heads = int(model.config["num_attention_heads"])
    if heads % tp == 0:
        return None
    return Exclusion("heads", f"{heads} attention heads of {model.id} do not divide by tp {tp}.", SOURCE)


def fits_memory(
    model: ModelSpec, device: DeviceSpec, tp: int, dp: int, *, synthetic: bool, layers: int | None
) -> Exclusion | None:
    """Built-in rule ``memory``: the weights do not fit."""
    weights = weights_gib(model, synthetic=synthetic, layers=layers)
    # Every process of a CPU engine takes from the same memory; each GPU holds one rank.
    each = weights * dp if device.kind == "cpu" else weights / tp
    if each + MARGIN_GIB <= USABLE * device.memory_gib:
        return None
    reason = (
        f"{model.id} at tp{tp}-dp{dp} needs {each:.1f} GiB of weights and {MARGIN_GIB:g} GiB more; "
        f"{USABLE:.0%} of {device.id}'s {device.memory_gib:g} GiB can be used."
    )
    return Exclusion("memory", reason, SOURCE)


def weights_gib(model: ModelSpec, *, synthetic: bool, layers: int | None) -> float:
    """What one replica's weights take.

    Args:
        synthetic: whether the weights are made on the spot, and so not quantized.
        layers: number of layers they are cut to; ``None`` for all.
    """
    total = model.memory_gib
    if not synthetic:
        return total
    if model.quantization == "fp8":
        total *= 2
    if layers is None or layers >= model.layers:
        return total
    config = model.config
    tables = 1 if config.get("tie_word_embeddings") else 2
    width = 4 if model.dtype == "float32" else 2
    outside = tables * config["vocab_size"] * config["hidden_size"] * width / 2**30
    outside = min(float(outside), total)
    return outside + (total - outside) * layers / model.layers
