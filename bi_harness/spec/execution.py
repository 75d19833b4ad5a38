"""What each mode needs, and what mode ``default`` comes out as, by release of vLLM and device."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from bi_harness.spec.types import (
    DeviceConditions,
    Environment,
    Range,
    Size,
    SpecModel,
    Text,
    _unique,
)

Shape = Annotated[tuple[Size, ...], Field(min_length=2, max_length=2)]
"""Output and input features of a linear layer, on one tensor parallel rank."""


class ExecutionSpec(SpecModel):
    """One entry of ``execution`` in ``hardware.yaml``: the first entry that holds for a cell decides.

    Attributes:
        id: its key in the file.
        vllm: the releases that it holds for (PEP 440); all by default.
        when: the devices that it holds for.
        tuned_linear: the entry holds only for a model with a bfloat16, unquantized linear layer of one of
            these shapes (output features, input features); empty for any model.
        default: the mode that ``default`` is the same as; ``breakable`` for breakable CUDA graphs without
            torch.compile, which no other mode is; ``None`` where it is not known.
        compile_env: environment that turns torch.compile on where ``default`` leaves it off.
        source: where vLLM says so.
    """

    id: str
    vllm: Range = ""
    when: DeviceConditions
    tuned_linear: Annotated[tuple[Shape, ...], AfterValidator(_unique)] = ()
    default: Literal["compile", "eager", "breakable"] | None = None
    compile_env: Environment = Field(default_factory=dict)
    source: Text

    @model_validator(mode="after")
    def _says_something(self) -> ExecutionSpec:
        if self.default is None and not self.compile_env:
            raise ValueError("give default, compile_env, or both: the entry says nothing")
        if self.default == "compile" and self.compile_env:
            raise ValueError("default is compile: compile_env has nothing to turn on")
        return self
