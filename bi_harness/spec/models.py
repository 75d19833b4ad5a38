"""``models.yaml``: the models, and which suites and parallel sizes each is certified for."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, field_validator, model_validator

from bi_harness.spec.types import (
    Attention,
    Flag,
    Id,
    Ids,
    Number,
    Positive,
    Profiles,
    Size,
    Sizes,
    SpecModel,
    Text,
)

Dtype = Literal["bfloat16", "float16", "float32", "auto"]
Quantization = Literal["fp8"]

_NEEDED = ("model_type", "num_hidden_layers", "hidden_size", "num_attention_heads", "vocab_size")


class DraftSpec(SpecModel):
    """A draft for speculative decoding.

    Attributes:
        noise: on the projection of a draft made on the spot, for synthetic weights: 0 agrees with the target,
            more agrees less, and a wider model takes more of it.
        opposite: whether the draft made on the spot proposes what the target is least likely to take.
        hf: Hugging Face repository, for the model's own weights.
        revision: commit, tag or branch of ``hf``.
    """

    noise: Annotated[float, Field(strict=True, ge=0)] | None = None
    opposite: Flag = False
    hf: Annotated[str, StringConstraints(strict=True, pattern=r"^[\w.-]+/[\w.-]+$")] | None = None
    revision: Text | None = None

    @model_validator(mode="after")
    def _some_origin(self) -> DraftSpec:
        if self.noise is None and self.hf is None:
            raise ValueError("give noise (a draft made on the spot), hf (a repository), or both")
        if self.opposite and self.noise is None:
            raise ValueError("opposite is for a draft made on the spot: give its noise")
        if self.revision and self.hf is None:
            raise ValueError("a draft made on the spot has no revision")
        return self

    def fits(self, *, synthetic: bool) -> bool:
        """Whether there is such a draft for the weights that run."""
        return (self.noise if synthetic else self.hf) is not None


class ModelSpec(SpecModel):
    """One model.

    Attributes:
        id: its key in the file.
        title: for reports; the id when empty.
        hf: Hugging Face repository; ``None`` for a synthetic model.
        path: folder of a checkpoint on this host, instead of ``hf``.
        revision: commit, tag or branch of ``hf``.
        synthetic: whether its weights are always made on the spot, from ``config`` and ``seed``.
        attention: which list of the device's backends it runs on.
        config: the Hugging Face configuration, for ``transformers.AutoConfig.for_model(**config)``.
        seed: of the synthetic weights.
        weight_scale: factor on the synthetic weights' usual spread.
        dtype: what the engine computes in.
        quantization: of the named checkpoint.
        quantize: what synthetic weights are quantized to when they are made; ``None`` for not at all.
        suites: the suites it is certified for.
        tp, dp: the parallel sizes; those that the device has too are run.
        memory_gib: of the named checkpoint's weights (or of the synthetic model's).
        max_model_len: longest prompt plus output that an engine is started for.
        trust_remote_code: whether its repository's own code runs. Off, unless a model cannot do without.
        gated: whether ``hf`` needs a token.
        profiles: the run profiles that include it; a model that is named on the command line runs in any.
        devices: the devices that it is for; ``None`` for all.
        next_token: whether, with synthetic weights, each token has one that follows it, so that a draft can
            agree with it.
        drafts: EAGLE heads, by what checks call them: ``main``, ``agreeing``, ``wrong``.
    """

    id: str
    title: str = ""
    hf: Annotated[str, StringConstraints(strict=True, pattern=r"^[\w.-]+/[\w.-]+$")] | None = None
    path: Text | None = None
    revision: Text | None = None
    synthetic: Flag = False
    attention: Attention = "mha"
    config: dict[str, Any]
    seed: Number = 0
    weight_scale: Positive = 1.0
    dtype: Dtype = "bfloat16"
    quantization: Quantization | None = None
    quantize: Literal["nvfp4"] | None = None
    suites: Ids
    tp: Sizes = (1,)
    dp: Sizes = (1,)
    memory_gib: Positive
    max_model_len: Size
    trust_remote_code: Flag = False
    gated: Flag = False
    profiles: Profiles = ("smoke", "nightly", "release")
    devices: Ids | None = None
    next_token: Flag = False
    drafts: dict[Id, DraftSpec] = Field(default_factory=dict)

    @field_validator("config")
    @classmethod
    def _shape(cls, config: dict[str, Any]) -> dict[str, Any]:
        missing = [key for key in _NEEDED if key not in config]
        if missing:
            raise ValueError(f"needs {', '.join(missing)}")
        if not isinstance(config["model_type"], str):
            raise ValueError("model_type is a name, such as qwen3")
        for key in _NEEDED[1:]:
            if type(config[key]) is not int or config[key] < 1:
                raise ValueError(f"{key} must be a whole number above 0")
        return config

    @model_validator(mode="after")
    def _one_origin(self) -> ModelSpec:
        if [self.hf is not None, self.path is not None, self.synthetic].count(True) != 1:
            raise ValueError("give one of hf (a repository), path (a folder) and synthetic: true")
        if self.path is not None and (self.revision or self.gated):
            raise ValueError("a folder has no revision, and is not gated")
        if any(draft.noise is not None for draft in self.drafts.values()) and not self.next_token:
            raise ValueError("a draft made on the spot needs next_token: true")
        if self.synthetic and (self.revision or self.quantization or self.gated):
            raise ValueError("a synthetic model has no revision, no quantization, and is not gated")
        return self

    @property
    def layers(self) -> int:
        """Number of hidden layers."""
        return int(self.config["num_hidden_layers"])


class ModelsFile(SpecModel):
    """The whole of ``models.yaml``."""

    models: dict[Id, ModelSpec] = Field(min_length=1)
