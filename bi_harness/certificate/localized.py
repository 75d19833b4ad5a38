"""Where a failure begins: what ``bi-harness localize`` found, and what that rests on.

A localization is told beside a verdict and never changes it.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from bi_harness.certificate.records import Count, PositiveCount, Record

Outcome = Literal["module", "elsewhere", "compiled", "unproven", "not_reproduced", "failed"]
State = Literal["equal", "culprit", "differs", "unseen"]

MAX_MODULES = 4096
MAX_RAN = 64


class UlpBand(Record):
    """Values whose distance lies from ``first`` to ``last`` units in the last place of their dtype."""

    first: PositiveCount
    last: PositiveCount
    values: Count


class TensorDifference(Record):
    """One tensor that the culprit gave, the same request's rows of it in both arms.

    Attributes:
        path: of the tensor in what the module returned.
        dtype: in both arms, or ``alone and batch``.
        shape_alone, shape_batch: of the whole tensor, in the step in which it first differs.
        rows, values: compared, from the first row that differs up to the next whose inputs differ.
        differing_rows, differing_values: of them.
        max_ulp: the largest distance.
        ulps: a histogram; not of values that are no numbers.
    """

    path: str
    dtype: str
    shape_alone: tuple[Count, ...]
    shape_batch: tuple[Count, ...]
    rows: Count
    values: Count
    differing_rows: Count
    differing_values: Count
    max_ulp: Count = 0
    ulps: tuple[UlpBand, ...] = ()


class InputShape(Record):
    """A tensor that the culprit was given, with the same bits in both arms."""

    path: str
    dtype: str
    shape_alone: tuple[Count, ...]
    shape_batch: tuple[Count, ...]


class ModuleState(Record):
    """One module of the model, in the order in which modules run.

    Attributes:
        name: qualified; ``(model)`` for all of it and ``(sampler)`` for vLLM's sampler.
        class_name: its class.
        state: ``equal`` in all rows, the ``culprit``, ``differs`` downstream of it, or ``unseen``: it was not
            called with the request's rows.
    """

    name: str
    class_name: str
    state: State


class Sent(Record):
    """How large a pair is: a request alone, and the same request in company.

    Attributes:
        neighbours: requests that are there to disturb it.
        prompt_tokens: of the request.
        neighbour_tokens: of all neighbours' prompts.
        steps: tokens that it generates.
        bursts_before: bursts that run before it.
    """

    neighbours: Count
    prompt_tokens: Count
    neighbour_tokens: Count
    steps: Count
    bursts_before: Count = 0


class OptionTried(Record):
    """One engine of the bisection of a cell with torch.compile or CUDA graphs.

    Attributes:
        name: what was other than as it failed.
        differs: whether the pair differs there; ``None`` where it could not be tried.
        note: why not, or what it means.
    """

    name: str
    differs: bool | None
    note: str = ""


class Cost(Record):
    """What it took.

    Attributes:
        seconds: of wall time; engines' starts included.
        starts: engines started.
        tries: pairs that were run to find the smallest.
        plain_s, watched_s: seconds that the smallest pair took without hooks and with them on every module.
        rss_before, rss_after: bytes of the engine's process, before and after the watched run.
        kept: bytes of digests that were kept.
        device_peak: peak bytes of the device's memory; ``None`` on a CPU.
    """

    seconds: Annotated[float, Field(ge=0)]
    starts: Count
    tries: Count = 0
    plain_s: Annotated[float, Field(ge=0)] = 0.0
    watched_s: Annotated[float, Field(ge=0)] = 0.0
    rss_before: Count = 0
    rss_after: Count = 0
    kept: Count = 0
    device_peak: Count | None = None


class Localization(Record):
    """What was found of one failed check.

    Attributes:
        cell, check: which.
        outcome: ``module``: the first one whose inputs are equal and whose output differs is named;
            ``elsewhere``: the difference arises outside of modules; ``compiled``: it differs with
            torch.compile or CUDA graphs and not eager; ``unproven``: an eager engine differs too, and that is
            not shown to be the same; ``not_reproduced``: the rerun did not differ; ``failed``: it could not
            be tried to its end.
        module, class_name: the culprit; empty without one.
        where: one sentence.
        reason: why there is no culprit, or what else to know.
        eager: whether the eager rerun differs; ``None`` where that was not found out.
        rank: tensor parallel rank that it was seen on.
        request: the check's subject, counted from 0; ``None`` where none was tried.
        arm: of the check.
        step: of the request's tokens, the first that it concerns, counted from 0 (a prefill is step 0).
        position: of the token whose row differs first.
        planned, smallest: the pair as the check sends it, and the smallest that still differs.
        inputs, outputs: of the culprit.
        ran_alone, ran_batch: operators and kernels behind the culprit's call, in both arms.
        modules: of the model.
        options: of a cell with torch.compile or CUDA graphs in which no module is named.
        cost: see there.
    """

    cell: str
    check: str
    outcome: Outcome
    module: str = ""
    class_name: str = ""
    where: str = ""
    reason: str = ""
    eager: bool | None = None
    rank: Count = 0
    request: Count | None = None
    arm: str = ""
    step: Count | None = None
    position: Count | None = None
    planned: Sent | None = None
    smallest: Sent | None = None
    inputs: tuple[InputShape, ...] = ()
    outputs: tuple[TensorDifference, ...] = ()
    ran_alone: tuple[str, ...] = ()
    ran_batch: tuple[str, ...] = ()
    modules: tuple[ModuleState, ...] = ()
    options: tuple[OptionTried, ...] = ()
    cost: Cost | None = None
