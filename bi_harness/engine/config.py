"""From a cell and the YAML to what one engine is started with. Pure: no torch, no vLLM, no I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from bi_harness.engine.memory import gpu_share, kv_cache_bytes, two_fit
from bi_harness.errors import UsageError
from bi_harness.invariance.faults.registry import PLANT_VARIABLE
from bi_harness.matrix.cells import Cell
from bi_harness.matrix.execution import default_mode
from bi_harness.workload.adapters import adapter_spec
from bi_harness.workload.checkpoint import spec_digest

if TYPE_CHECKING:
    from bi_harness.spec.execution import ExecutionSpec
    from bi_harness.spec.hardware import DeviceSpec
    from bi_harness.spec.models import ModelSpec
    from bi_harness.spec.suites import CheckSpec, Interface, SpeculationSpec, SuiteSpec
    from bi_harness.spec.types import Mode

ArmName = Literal["treatment", "control"]

CHAT_ROOM = 64
"""Tokens that a chat template may put around a prompt."""


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """What one engine process is started with.

    Attributes:
        arm: ``treatment`` (invariance on) or ``control`` (off).
        python: the interpreter that has vLLM.
        platform: vLLM's device type, ``cpu`` or ``cuda``; the engine refuses to run on another.
        capability: compute capability that every GPU must have; ``None`` on a CPU.
        invariance: whether the invariance mode must be on, as read back from the engine.
        llm: keyword arguments of ``vllm.LLM``.
        checkpoint: spec of a synthetic checkpoint to make at ``llm["model"]``; ``None`` for a named one.
        adapters: spec of the LoRA adapters to make; ``None`` for none.
        draft: spec of the synthetic draft to make; ``None`` for none, or a named one.
        env: the whole environment of the process.
        room_for_two: whether the other arm's engine may be up at the same time.
        execution: the mode that the engine must say it runs in: ``compile`` or ``eager``; ``None`` for any.
        interface: how it is driven.
        api_order: whether observations are in the order of ``engine.answers``, as a server's must be.
        notes: folder in which the run's engines note the digest of a checkpoint; ``None`` for none.
    """

    arm: ArmName
    python: str
    platform: str
    capability: str | None
    invariance: bool
    llm: Mapping[str, Any]
    checkpoint: Mapping[str, Any] | None
    adapters: Mapping[str, Any] | None
    draft: Mapping[str, Any] | None
    env: Mapping[str, str]
    room_for_two: bool
    execution: Mode | None = None
    interface: Interface = "library"
    api_order: bool = False
    notes: str | None = None

    def for_worker(self) -> dict[str, Any]:
        """What the worker reads; the environment is already around it."""
        return {
            "arm": self.arm,
            "execution": self.execution,
            "platform": self.platform,
            "capability": self.capability,
            "invariance": self.invariance,
            "llm": dict(self.llm),
            "checkpoint": dict(self.checkpoint) if self.checkpoint is not None else None,
            "adapters": dict(self.adapters) if self.adapters is not None else None,
            "draft": dict(self.draft) if self.draft is not None else None,
            "notes": self.notes,
        }


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """What a run sets for all its engines.

    Attributes:
        python: the interpreter that has vLLM.
        weights: ``named`` or ``synthetic``; a synthetic model of ``models.yaml`` is always synthetic.
        layers: number of layers to shrink synthetic weights to; ``None`` for the model's own.
        model_cache: folder of checkpoints made on the spot.
        compile_cache: folder of the unit's own caches. The arms never share one: a graph compiled with the
            invariance mode must not be taken for one without it.
        shared_cache: folder of the run's caches that are looked up by all of what is compiled: Triton's
            kernels, with the configurations that its tuner found, and on GPUs Inductor's code, of which the
            arms' compiled engines have one each; and of what is known of checkpoints. Nothing of an earlier
            run is in it.
        environment: the environment to start from.
        cores: CPU cores that the engines may use.
    """

    python: str
    weights: str
    layers: int | None
    model_cache: str
    compile_cache: str
    shared_cache: str
    environment: Mapping[str, str]
    cores: int


def checkpoint_folder(model_cache: str, spec: dict[str, Any]) -> str:
    """Where the checkpoint of ``spec`` is made, or was, in the folder of checkpoints."""
    return f"{model_cache}/{spec_digest(spec)[:32]}"


def checkpoint_spec(model: ModelSpec, weights: str, layers: int | None) -> dict[str, Any] | None:
    """The synthetic checkpoint that stands for ``model``; ``None`` when its own weights run.

    Raises:
        UsageError: when ``layers`` is given for a model's own weights, or is not fewer than it has.
    """
    if not (model.synthetic or weights == "synthetic"):
        if layers is not None:
            raise UsageError(
                f"--layers {layers} needs --weights synthetic: {model.id}'s own weights are fixed"
            )
        return None
    config = dict(model.config)
    if layers is not None:
        own = int(config["num_hidden_layers"])
        if not 1 <= layers <= own:
            raise UsageError(f"--layers {layers}: {model.id} has {own}; give 1 to {own}")
        config["num_hidden_layers"] = layers
        if "layer_types" in config:
            config["layer_types"] = list(config["layer_types"])[:layers]
    return {
        "config": config,
        "dtype": "bfloat16" if model.dtype == "auto" else model.dtype,
        "seed": model.seed,
        "weight_scale": model.weight_scale,
        **({"next_token": True} if model.next_token else {}),
        **({"quantize": model.quantize} if model.quantize else {}),
    }


def draft_spec(
    model: ModelSpec, check: CheckSpec | None, checkpoint: dict[str, Any] | None
) -> dict[str, Any] | None:
    """The synthetic draft that the check's engines need; ``None`` for none, or a named one.

    Args:
        checkpoint: of the target.

    Raises:
        UsageError: there is no such draft for the weights that run.
    """
    name = check.speculation.draft if check is not None and check.speculation is not None else None
    if name is None:
        return None
    draft = model.drafts[name]
    if not draft.fits(synthetic=checkpoint is not None):
        raise UsageError(
            f"{model.id}: the draft {name} is {'a repository' if draft.noise is None else 'synthetic'} and "
            f"the model runs {'its own' if checkpoint is None else 'synthetic'} weights: they do not agree"
        )
    if checkpoint is None:
        return None
    return {**checkpoint, "draft": {"noise": draft.noise, "opposite": draft.opposite}}


def engine_config(
    cell: Cell,
    arm: ArmName,
    *,
    model: ModelSpec,
    device: DeviceSpec,
    suite: SuiteSpec,
    settings: EngineSettings,
    max_num_seqs: int,
    max_model_len: int,
    check: CheckSpec | None = None,
    execution: ExecutionSpec | None = None,
    kv_seqs: int | None = None,
) -> EngineConfig:
    """What the engine of ``cell``'s unit is started with.

    Args:
        max_num_seqs: the largest batch of the workload.
        max_model_len: the longest prompt and its steps, in tokens.
        check: one whose engine is its own; ``None`` for the engine that checks share.
        execution: what modes are on this release and device; ``None`` where that is not known.
        kv_seqs: requests of ``max_model_len`` tokens that the KV cache must hold; ``max_num_seqs`` by
            default.

    Raises:
        UsageError: see ``checkpoint_spec``.
    """
    checkpoint = checkpoint_spec(model, settings.weights, settings.layers)
    path = (
        (model.path or model.hf)
        if checkpoint is None
        else checkpoint_folder(settings.model_cache, checkpoint)
    )
    layers = model.layers if settings.layers is None else settings.layers
    max_model_len += max((_room_to_draft(c.speculation) for c in suite.checks), default=0)
    interface = (check.interface if check is not None else None) or suite.interface
    if suite.interface == "server":
        max_model_len += CHAT_ROOM
    kv_bytes = kv_cache_bytes(
        model, layers=layers, tp=cell.tp, max_num_seqs=kv_seqs or max_num_seqs, max_model_len=max_model_len
    )
    share = (
        gpu_share(model, device, layers=layers, tp=cell.tp, kv_bytes=kv_bytes)
        if kv_bytes is not None and device.kind == "cuda"
        else None
    )
    llm: dict[str, Any] = {
        "model": path,
        "dtype": model.dtype,
        "max_model_len": max_model_len,
        "max_num_seqs": max_num_seqs,
        "tensor_parallel_size": cell.tp,
        **({"data_parallel_size": cell.dp, "data_parallel_backend": "mp"} if cell.dp > 1 else {}),
        "enforce_eager": cell.mode == "eager",
        "attention_config": {"backend": cell.backend},
        "seed": 0,
        # Prompts are token ids and nothing is turned into text: the bits are the ids and the logprobs.
        **({"skip_tokenizer_init": True} if interface == "library" else {}),
        "disable_log_stats": True,
        "trust_remote_code": model.trust_remote_code,
        **({"kv_cache_memory_bytes": kv_bytes} if kv_bytes is not None else {}),
        **device.engine_args,
        **({"gpu_memory_utilization": share} if share is not None else {}),
        **suite.engine_args,
        **(check.engine_args if check is not None else {}),
    }
    if checkpoint is None and model.revision:
        llm["revision"] = model.revision
    draft = draft_spec(model, check, checkpoint)
    if check is not None and check.speculation is not None:
        llm["speculative_config"] = _speculation(check.speculation, model, draft, settings.model_cache)
        llm["disable_log_stats"] = False  # the counters of accepted tokens are among them
    invariance = device.invariance
    if cell.mode == "eager":
        # The sampler's helpers alone are compiled, the same in all engines: once for all.
        inductor = settings.shared_cache
    elif device.kind == "cuda":
        inductor = f"{settings.shared_cache}/{arm}"
    else:
        # Code for a CPU has the number of threads in it; torch 2.11 does not look it up by that, 2.13 does.
        inductor = f"{settings.compile_cache}/{arm}"
    env = {
        **settings.environment,
        **device.engine_env,
        **(execution.compile_env if execution is not None and cell.mode == "compile" else {}),
        **(invariance.on if arm == "treatment" else invariance.off),
        "VLLM_CACHE_ROOT": f"{settings.compile_cache}/{arm}",
        "TORCHINDUCTOR_CACHE_DIR": f"{inductor}/inductor",
        "TRITON_CACHE_DIR": f"{settings.shared_cache}/triton",
        "PYTHONHASHSEED": "0",
    }
    if arm == "control":
        # A fault is planted in what is tested; stock vLLM is the same with and without.
        env.pop(PLANT_VARIABLE, None)
    if interface == "server":
        # The server's own methods to look into its workers: on loopback, and not guarded by its key.
        env["VLLM_SERVER_DEV_MODE"] = "1"
    elif cell.tp == cell.dp == 1:
        # One process is the engine: its death is the engine's death, and its scheduler is at hand.
        env["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    if device.kind == "cpu" and (suite.interface == "server" or cell.tp * cell.dp > 1):
        # A server's engine waits for its threads by spinning, and what takes requests has none to run on but
        # theirs: measured on two cores, a streamed step then takes 100 ms in place of 10. vLLM itself leaves
        # a core to it. Its offline counterpart has as many threads.
        spare = cell.dp if suite.interface == "server" else 0
        _share_cores(cell, settings.cores - spare, llm, env)
    if checkpoint is not None:
        env["HF_HUB_OFFLINE"] = "1"
    plugins = env.get("VLLM_PLUGINS")
    if plugins is not None and "bi_harness" not in plugins.split(","):
        env["VLLM_PLUGINS"] = f"{plugins},bi_harness" if plugins else "bi_harness"
    return EngineConfig(
        arm=arm,
        room_for_two=two_fit(model, device, layers=layers, tp=cell.tp, kv_bytes=kv_bytes),
        python=settings.python,
        execution=_must_run(cell, arm, execution),
        platform=device.kind,
        capability=device.capability,
        invariance=arm == "treatment" and invariance.how != "none",
        llm=llm,
        checkpoint=checkpoint,
        adapters=adapter_spec(model, layers, check.adapters)
        if check is not None and check.adapters
        else None,
        draft=draft,
        env=env,
        interface=interface,
        api_order=suite.interface == "server",
        notes=f"{settings.shared_cache}/checkpoints",
    )


def _must_run(cell: Cell, arm: ArmName, execution: ExecutionSpec | None) -> Mode | None:
    """The mode that the engine's own configuration must show; ``None`` for any.

    Of a ``default`` cell it is the mode that was left out of the plan for being the same. Without the
    invariance mode the default may be another one.
    """
    if cell.mode != "default":
        return cell.mode
    return default_mode(execution) if arm == "treatment" else None


def _share_cores(cell: Cell, cores: int, llm: dict[str, Any], env: dict[str, str]) -> None:
    """Give each rank of a CPU engine cores of its own: vLLM puts those of one socket on the same ones."""
    if cell.tp > 1:
        env["VLLM_CPU_SIM_MULTI_NUMA"] = "1"
        return
    # A rank is one process, not two, of which one waits for the other by spinning; its threads are then ours
    # to number.
    llm["distributed_executor_backend"] = "uni"
    env["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    env["OMP_NUM_THREADS"] = str(max(1, cores // cell.dp))


def _room_to_draft(spec: SpeculationSpec | None) -> int:
    """Tokens beyond the longest request in which vLLM goes on drafting.

    Where the longest sequence of a batch comes within a draft of ``max_model_len``, vLLM drafts for none of
    the batch (``_input_fits_in_drafter`` of its model runner): a seeded neighbour then draws other numbers.
    That is a dependence on the batch, and known; a check of anything else must stay clear of it.
    """
    return 0 if spec is None else 2 * (spec.tokens + 1)


def _speculation(
    spec: SpeculationSpec, model: ModelSpec, draft: dict[str, Any] | None, model_cache: str
) -> dict[str, Any]:
    """vLLM's ``speculative_config``."""
    config: dict[str, Any] = {"method": spec.method, "num_speculative_tokens": spec.tokens}
    if spec.draft is None:
        # What repeats in a prompt of random tokens are pairs, not longer runs.
        return {**config, "prompt_lookup_max": 3, "prompt_lookup_min": 1}
    named = model.drafts[spec.draft]
    path = named.hf if draft is None else checkpoint_folder(model_cache, draft)
    revision = named.revision if draft is None else None
    return {**config, "model": path, **({"revision": revision} if revision else {})}
