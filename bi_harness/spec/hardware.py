"""``hardware.yaml``: the devices, and the rules that take cells out of the matrix."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from bi_harness.spec.execution import ExecutionSpec
from bi_harness.spec.types import (
    Attention,
    Backends,
    Capability,
    Conditions,
    Environment,
    Id,
    Kind,
    Modes,
    Number,
    Positive,
    Range,
    Regex,
    Release,
    Size,
    Sizes,
    SpecModel,
    Text,
)

AgentTags = Annotated[
    dict[
        Annotated[str, Field(strict=True, pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,99}$")],
        Annotated[str, Field(strict=True, min_length=1, max_length=200)],
    ],
    Field(max_length=20),
]
"""``{gpus: "8"}``: tags of Buildkite agents."""


class InvarianceSpec(SpecModel):
    """How a device's batch invariance is switched.

    Attributes:
        how: ``env``: vLLM's own mode; ``plugin``: bi-harness's plugin, where vLLM has none; ``none``: there
            is no mode, the device claims to be invariant as it is. Both arms are then stock vLLM, so that a
            pass is out of reach: the control diverges where the treatment does.
        on: environment of the treatment arm; for ``none``, of neither.
        off: environment of the control arm.
        note: for reports.
    """

    how: Literal["env", "plugin", "none"]
    on: Environment = Field(default_factory=dict)
    off: Environment = Field(default_factory=dict)
    note: str = ""

    @model_validator(mode="after")
    def _differ(self) -> InvarianceSpec:
        if self.how == "none":
            if self.on or self.off:
                raise ValueError("how: none has neither on nor off: there is nothing to switch")
            return self
        # An arm must not inherit what the other one sets: each says every variable itself.
        if self.on.keys() != self.off.keys() or self.on == self.off:
            raise ValueError("on and off must set the same variables, at least one of them differently")
        return self


class BackendsSpec(SpecModel):
    """vLLM's names of the attention backends, by the model's kind of attention."""

    mha: Backends = ()
    mla: Backends = ()
    hybrid: Backends = ()

    def of(self, attention: Attention) -> tuple[str, ...]:
        """Those for one kind of attention."""
        found: tuple[str, ...] = getattr(self, attention)
        return found


class DeviceSpec(SpecModel):
    """One kind of device.

    Attributes:
        id: its key in the file.
        title: for reports.
        kind: ``cpu`` or ``cuda``; vLLM's platform.
        capability: compute capability; ``None`` for a CPU.
        match: regular expressions, one of which is found in the driver's name of the GPU.
        memory_gib: of one GPU, or what a CPU engine may take.
        gpus: GPUs of a usual host; 0 on a CPU.
        backends: the attention backends to certify.
        modes: of ``default``, ``compile`` and ``eager`` those to certify.
        tp, dp: parallel sizes to certify.
        invariance: how the mode is switched.
        engine_env: environment of both arms.
        engine_args: arguments of ``vllm.LLM`` of both arms.
        queue: Buildkite agent queue.
        agents: more tags that a Buildkite agent must have, beside its queue.
        hosts: how many machines of the device there are, where that is known: no more of its jobs run at
            once, over all builds.
        reference_vllm: overrides the file's ``reference_vllm``.
    """

    id: str
    title: Text
    kind: Kind
    capability: Capability | None = None
    match: Annotated[tuple[Regex, ...], Field(max_length=16)] = ()
    memory_gib: Positive
    gpus: Number = 0
    backends: BackendsSpec
    modes: Modes
    tp: Sizes = (1,)
    dp: Sizes = (1,)
    invariance: InvarianceSpec
    engine_env: Environment = Field(default_factory=dict)
    engine_args: dict[str, object] = Field(default_factory=dict)
    queue: Text = "default"
    agents: AgentTags = Field(default_factory=dict)
    hosts: Size | None = None
    reference_vllm: Release | None = None

    @model_validator(mode="after")
    def _kind_fits(self) -> DeviceSpec:
        if "queue" in self.agents:
            raise ValueError("agents: the queue has a key of its own")
        if self.kind == "cpu" and (self.capability or self.match or self.gpus):
            raise ValueError("a cpu device has no capability, no match and no gpus")
        if self.kind == "cuda" and not (self.capability and self.match and self.gpus):
            raise ValueError("a cuda device needs capability, match and gpus")
        return self


class RuleSpec(SpecModel):
    """One exclusion.

    Attributes:
        id: its key in the file; the certificate names it.
        vllm: the releases it holds for (PEP 440); all by default. ``<0.22`` leaves out 0.22's own
            pre-releases, as PEP 440 has it: they have what the release will have.
        when: where it holds.
        then: ``skip``.
        reason: one sentence for a reader of the certificate.
        source: a pull request, an issue, a document.
    """

    id: str
    vllm: Range = ""
    when: Conditions
    then: Literal["skip"]
    reason: Text
    source: Text


class HardwareFile(SpecModel):
    """The whole of ``hardware.yaml``."""

    reference_vllm: Release
    devices: dict[Id, DeviceSpec] = Field(min_length=1)
    execution: dict[Id, ExecutionSpec] = Field(default_factory=dict)
    rules: dict[Id, RuleSpec] = Field(default_factory=dict)
