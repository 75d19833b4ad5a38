"""``suites/<id>/suite.yaml``: the checks of a suite, its axes and its limits."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, WrapValidator, model_validator
from pydantic_core import PydanticCustomError

from bi_harness.spec.types import (
    MODES,
    PROFILES,
    CheckConditions,
    Conditions,
    Flag,
    Fraction,
    Id,
    Modes,
    Number,
    PathPatterns,
    Positive,
    Profile,
    Profiles,
    Size,
    SpecModel,
    Text,
)

KNOWN_SUITES = (
    *("batch_invariance", "eagle_dp", "nvfp4", "compile_startup", "online", "ops"),
    "module_invariance",
)
"""The design's suites. A model or rule may name one that this checkout does not have yet."""


VLLM_PATHS = ("vllm/", "csrc/", "!vllm/benchmarks/")
"""The part of vLLM's repository that a suite depends on where it does not say: what engines are made of."""


def _param(value: Any, _: Any) -> Any:
    """A union would be reported member by member; this says it once."""
    if type(value) in (int, float, str):
        return value
    if isinstance(value, list) and value and all(type(item) is int for item in value):
        return value
    raise PydanticCustomError("param", "must be a number, a text, or a list of whole numbers")


Param = Annotated[int | float | str | list[int], WrapValidator(_param)]


class SpeculationSpec(SpecModel):
    """Speculative decoding of a check's engine.

    Attributes:
        method: vLLM's name of it.
        draft: which of the model's drafts; ``None`` for a method without one.
        tokens: ``num_speculative_tokens``.
    """

    method: Literal["eagle", "ngram"]
    draft: Id | None = None
    tokens: Size

    @model_validator(mode="after")
    def _draft_where_one_is(self) -> SpeculationSpec:
        if (self.method == "eagle") != (self.draft is not None):
            raise ValueError("eagle needs a draft, and ngram has none")
        return self


Interface = Literal["library", "server"]
"""How an engine is driven: as a Python library, or as ``vllm serve`` over HTTP."""

EngineKind = tuple[dict[str, Any], int, SpeculationSpec | None, Interface | None]
SHARED: EngineKind = ({}, 0, None, None)
"""The engine that a suite's checks share."""


class CheckSpec(SpecModel):
    """One check.

    Attributes:
        id: its name in results.
        test: ``file::function`` in the suite's folder.
        needs: the cells that it makes sense on; everywhere by default.
        unless: of those, the cells that it does not make sense on: where any of these is met.
        profiles: the run profiles that include it.
        engine_args: arguments of ``vllm.LLM`` over the suite's. A check that has some runs on engines of its
            own; those of its neighbours in the list that have the same share them.
        adapters: how many LoRA adapters are made for its engines.
        speculation: of its engines; ``None`` for none. A model without the draft does not have the check.
        interface: of its engines, where it is another than the suite's.
        starts: engine starts that it takes at most, for the unit's limit of time; each arm's by default.
        summary: one sentence for reports.
    """

    id: Annotated[str, Field(strict=True, pattern=r"^[A-Za-z][A-Za-z0-9_]{0,79}$")]
    test: Annotated[str, Field(strict=True, pattern=r"^test_\w+\.py::test_\w+$")]
    needs: Conditions = Field(default_factory=Conditions)
    unless: tuple[CheckConditions, ...] = ()
    profiles: Annotated[Profiles, Field(min_length=1)] = PROFILES
    engine_args: dict[str, Any] = Field(default_factory=dict)
    adapters: Number = 0
    speculation: SpeculationSpec | None = None
    interface: Interface | None = None
    starts: Size = 2
    summary: Text

    @property
    def engine(self) -> EngineKind:
        """What its engines have that the suite's others have not: checks that agree in it share them."""
        return self.engine_args, self.adapters, self.speculation, self.interface

    @property
    def own_engine(self) -> bool:
        """Whether it needs an engine other than the one that the suite's checks share."""
        return self.engine != SHARED


class TimeoutsSpec(SpecModel):
    """Seconds until something counts as hung.

    Attributes:
        start_s: for an engine to become ready.
        check_s: for one check.
    """

    start_s: Positive
    check_s: Positive


class SuiteSpec(SpecModel):
    """One suite.

    Attributes:
        id: the name of its folder.
        title: for reports.
        engine: ``shared``: its cells can share an engine with other shared suites; ``own``: never.
        modes: the modes it makes sense in.
        data_parallel: whether it makes sense with several data parallel ranks, too.
        interface: how its engines are driven.
        workload: what its profiles say: which prompts are sent, or how much of each operator is tried.
        checks: its checks, in the order they run.
        timeouts: see there.
        engine_args: arguments of ``vllm.LLM``, over the device's.
        profiles: the workload's parameters by run profile; what they are called is the suite's own affair.
        control_min_fraction: the part of the prompts that must diverge with invariance off, or a pass
            proves nothing.
        paths: the files of vLLM's repository that the suite depends on, for ``bi-harness pipeline
            --changed-files``; ``None`` for ``VLLM_PATHS``.
    """

    id: Id
    title: Text
    engine: Literal["shared", "own"]
    modes: Modes = MODES
    data_parallel: Flag = False
    interface: Interface = "library"
    workload: Literal["prompts", "operators"] = "prompts"
    checks: tuple[CheckSpec, ...] = Field(min_length=1)
    timeouts: TimeoutsSpec
    engine_args: dict[str, Any] = Field(default_factory=dict)
    profiles: dict[Profile, dict[str, Param]] = Field(min_length=1)
    control_min_fraction: Fraction
    paths: PathPatterns | None = None

    @model_validator(mode="after")
    def _own_engines_last(self) -> SuiteSpec:
        kinds = [check.engine for check in self.checks]
        starts = [kind for i, kind in enumerate(kinds) if i == 0 or kind != kinds[i - 1]]
        if SHARED in starts[1:] or any(kind in starts[:i] for i, kind in enumerate(starts)):
            raise ValueError(
                "checks that need the same engine must follow each other, those of the shared one first: "
                "else its engines would be started twice"
            )
        return self

    def check(self, name: str) -> CheckSpec:
        """The check of that id.

        Raises:
            KeyError: there is none.
        """
        for check in self.checks:
            if check.id == name:
                return check
        raise KeyError(name)
