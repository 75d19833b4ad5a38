"""Can a comparison have given this evidence? Rules that hold for every comparison, with their reasons. Pure.

A journal without a signature proves nothing about its author, but evidence that no comparison can give is
refused all the same: a reader must never have to decide what it means. Each rule follows from
``compare.bits``, ``compare.evidence`` and ``engine.arms``; none depends on the model, engine or device.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Final

from bi_harness.certificate.localized import Localization, TensorDifference
from bi_harness.certificate.records import (
    BatchReached,
    CheckResult,
    Divergence,
    Evidence,
    ModuleResult,
    OpRange,
    OpResult,
)
from bi_harness.certificate.statement import Power
from bi_harness.compare.power import upper_bound_95

MAX_ULP: Final = 2**32 - 1
"""From the first to the last of all float32 bit patterns, NaNs included."""

MAX_ABS: Final = 2.0 * struct.unpack(">f", b"\x7f\x7f\xff\xff")[0]
"""From the smallest to the largest finite float32."""

UPPER95_RELATIVE_ERROR: Final = 1e-9
"""Between two versions of scipy; the bound is shown and never decides anything."""


def impossible_result(result: CheckResult) -> str:
    """Why no check can have given this result, in one sentence; empty if one can."""
    parts = (
        ("evidence", result.evidence),
        ("control", result.control),
        ("planted control", result.planted_evidence),
    )
    for name, evidence in parts:
        if evidence is not None and (why := impossible_evidence(evidence)):
            return f"{name}: {why}"
    for op in result.ops:
        if why := _impossible_operator(op):
            return f"operator {op.op[:100]}: {why}"
    for module in result.modules:
        if why := _impossible_module(module):
            return f"module {module.name[:100]}: {why}"
    return ""


def impossible_evidence(evidence: Evidence) -> str:
    """Why no comparison can have given this evidence, in one sentence; empty if one can."""
    rules = (_counts, _batches, _distances, _first_divergence, _bound)
    return next((why for rule in rules for why in rule(evidence)), "")


def impossible_localization(localization: Localization) -> str:
    """Why no comparison of modules can have given this, in one sentence; empty if one can."""
    return next((why for output in localization.outputs for why in _tensor(output)), "")


def impossible_power(power: Power) -> str:
    """Why no self-test can have given these counts, in one sentence; empty if one can."""
    return next(
        _more_than(
            ("caught faults", power.caught, "faults", power.faults),
            ("false alarms", power.false_alarms, "clean runs", power.clean_runs),
        ),
        "",
    )


def _more_than(*pairs: tuple[str, int, str, int]) -> Iterator[str]:
    """A part is never larger than the whole."""
    for part, count, whole, of in pairs:
        if count > of:
            yield f"{count} {part} of {of} {whole}"


def _counts(e: Evidence) -> Iterator[str]:
    yield from _more_than(
        ("differing prompts", e.differing_prompts, "prompts", e.prompts),
        ("differing values", e.differing_values, "values", e.values),
        # A prompt differs in one step at least.
        ("differing prompts", e.differing_prompts, "differing steps", e.differing_steps),
    )
    # The sampled token's logprob is always reported, so that each step has one value or more.
    if e.values < e.steps:
        yield f"{e.steps} steps with {e.values} values"
    if e.values and not e.steps:
        yield f"{e.values} values without a step"
    if e.steps and not e.prompts:
        yield f"{e.steps} steps without a prompt"
    # A request that ends early differs in a step that one side never made: one for each arm at most.
    most = e.steps + e.differing_prompts * max(0, len(e.batches) - 1)
    if e.differing_steps > most:
        yield f"{e.differing_steps} differing steps of {e.steps} steps"
    # Each differing step is one of a differing prompt, and each differing value one of a differing step.
    if e.differing_steps and not e.differing_prompts:
        yield f"{e.differing_steps} differing steps without a differing prompt"
    if e.differing_values and not e.differing_steps:
        yield f"{e.differing_values} differing values without a differing step"


def _batches(e: Evidence) -> Iterator[str]:
    if not e.batches:
        yield "no batch: evidence names the reference arm at least"
        return
    if e.prompts and len(e.batches) < 2:
        yield f"{e.prompts} prompts were compared with no batched arm"
    for number, batch in enumerate(e.batches):
        yield from _batch(batch, number, e.prompts if len(e.batches) > 1 else batch.prompts)


def _batch(batch: BatchReached, number: int, prompts: int) -> Iterator[str]:
    # Arms are compared request by request, so that each has the same ones. A batch may be larger: others
    # run together with these requests.
    if batch.prompts != prompts:
        yield f"batch {number} has {batch.prompts} prompts, and {prompts} were compared"
    # An endpoint has no step log: neither steps nor tokens are known there.
    if batch.max_tokens and not batch.steps:
        yield f"batch {number} has {batch.max_tokens} tokens in a step and no step"


def _distances(e: Evidence) -> Iterator[str]:
    if e.max_ulp > MAX_ULP:
        yield f"max_ulp {e.max_ulp}: two float32 are at most {MAX_ULP} apart"
    if not 0 <= e.max_abs <= MAX_ABS:
        yield f"max_abs {e.max_abs}: two float32 are 0 to {MAX_ABS:.3g} apart"
    # Differing values of other tokens have no distance, so that 0 is possible where values differ.
    if e.max_ulp and not e.differing_values:
        yield f"max_ulp {e.max_ulp} without a differing value"
    if e.max_abs and not e.max_ulp:
        yield f"max_abs {e.max_abs} with a max_ulp of 0"


def _first_divergence(e: Evidence) -> Iterator[str]:
    first = e.first_divergence
    if first is None:
        if e.differing_prompts:
            yield f"{e.differing_prompts} prompts differ without a first divergence"
        return
    if not e.differing_prompts:
        yield "a first divergence, and no prompt differs"
        return
    yield from _place(first, e)
    yield from _pair(first, e)


def _place(first: Divergence, e: Evidence) -> Iterator[str]:
    if first.prompt >= e.prompts:
        yield f"first divergence in prompt {first.prompt} of {e.prompts}, counted from 0"
    # A request that ends early differs one step after the last that was compared.
    if first.step > e.steps or (first.rank >= 0 and first.step >= e.steps):
        yield f"first divergence in step {first.step} of {e.steps}, counted from 0"
    if first.rank < -1 or first.rank >= e.values:
        yield f"first divergence in column {first.rank} of {e.values} values"
    if first.rank >= 0 and not e.differing_values:
        yield "first divergence in a logprob, and no logprob differs"
    if first.arm is None:
        # Of before arms were told apart.
        if first.batch_size not in {batch.batch_size for batch in e.batches[1:]}:
            yield f"first divergence at batch size {first.batch_size}, which no arm has"
    elif not 1 <= first.arm < len(e.batches):
        yield f"first divergence in arm {first.arm} of {len(e.batches)}, of which 0 is the reference"
    elif first.batch_size != (size := e.batches[first.arm].batch_size):
        yield f"first divergence at batch size {first.batch_size}, in an arm of batch size {size}"


def _pair(first: Divergence, e: Evidence) -> Iterator[str]:
    sides = (
        ("reference", first.reference_bits, first.reference_logprob),
        ("observed", first.observed_bits, first.observed_logprob),
    )
    for name, bits, logprob in sides:
        value = struct.unpack(">f", bytes.fromhex(bits[2:]))[0]
        if logprob != (value if math.isfinite(value) else None):
            yield f"first divergence: {name} logprob {logprob} with the bits {bits}"
    # Only two logprobs of the same token have a distance.
    same = first.rank >= 0 and first.reference_token == first.observed_token
    distance = abs(_ordered(first.reference_bits) - _ordered(first.observed_bits)) if same else 0
    if same and not distance:
        yield "first divergence between equal bits"
    if first.ulp != distance:
        yield f"first divergence of {first.ulp} ULP, and its bits are {distance} apart"
    if first.ulp > e.max_ulp:
        yield f"first divergence of {first.ulp} ULP, and max_ulp is {e.max_ulp}"
    a, b = first.reference_logprob, first.observed_logprob
    if same and a is not None and b is not None and abs(a - b) > e.max_abs:
        yield f"first divergence of {abs(a - b)}, and max_abs is {e.max_abs}"


def _ordered(bits: str) -> int:
    """As ``compare.ulp.ordered``, of one value's bits."""
    pattern = int(bits, 16)
    magnitude = pattern & 0x7FFFFFFF
    return -magnitude - 1 if pattern >> 31 else magnitude


def _bound(e: Evidence) -> Iterator[str]:
    bound = _upper95(min(e.differing_steps, e.steps), e.steps)
    if not math.isclose(e.upper95, bound, rel_tol=UPPER95_RELATIVE_ERROR):
        yield f"upper95 {e.upper95}: {e.differing_steps} differing steps of {e.steps} give {bound}"


@lru_cache(maxsize=4096)
def _upper95(differing: int, compared: int) -> float:
    if not differing and compared:
        # The closed form. Most evidence has no difference, and scipy takes its time to be imported.
        return -math.expm1(math.log(0.05) / compared)
    return upper_bound_95(differing, compared)


def _impossible_operator(op: OpResult) -> str:
    rules = (
        *_more_than(("differing repeats", op.unequal, "repeats", op.repeated)),
        *_rows(op.rows, op.differing, first=op.first is not None),
        *_ranges(op.ranges),
    )
    return next(iter(rules), "")


def _impossible_module(module: ModuleResult) -> str:
    rules = (
        *_more_than(
            ("differing repeats", module.unequal, "repeats", module.repeated),
            ("unrepeatable rows", module.unrepeatable, "rows alone", module.alone),
        ),
        *_rows(module.rows, module.differing, first=module.first is not None),
        *_ranges(module.ranges),
    )
    return next(iter(rules), "")


def _rows(rows: int, differing: int, *, first: bool) -> Iterator[str]:
    yield from _more_than(("differing rows", differing, "rows", rows))
    if first != bool(differing):
        yield f"{differing} differing rows with{'' if first else 'out'} a first difference"


def _ranges(ranges: Sequence[OpRange]) -> Iterator[str]:
    # They are sorted by size, and each size is in one of them.
    last = 0
    for one in ranges:
        if not last < one.first <= one.last:
            yield f"batch sizes {one.first} to {one.last} after {last}"
        last = one.last


def _tensor(output: TensorDifference) -> Iterator[str]:
    yield from _more_than(
        ("differing rows", output.differing_rows, "rows", output.rows),
        ("differing values", output.differing_values, "values", output.values),
    )
    for band in output.ulps:
        if band.first > band.last:
            yield f"distances from {band.first} to {band.last} ULP"
