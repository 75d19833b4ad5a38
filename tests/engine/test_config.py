"""What an engine is started with: the arms differ in nothing but the invariance and their caches."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from bi_harness.engine.config import EngineConfig, EngineSettings, checkpoint_spec, engine_config
from bi_harness.errors import UsageError
from bi_harness.invariance.faults.registry import PLANT_VARIABLE
from bi_harness.matrix.cells import Cell
from bi_harness.spec.execution import ExecutionSpec
from bi_harness.spec.load import Spec
from bi_harness.spec.suites import CheckSpec
from bi_harness.workload.adapters import adapter_spec
from bi_harness.workload.checkpoint import spec_digest

CACHES = {"VLLM_CACHE_ROOT", "TORCHINDUCTOR_CACHE_DIR"}
GPU = {"device": "h200", "model": "qwen3-1.7b", "backend": "FLASH_ATTN"}
CPU = {"device": "cpu", "model": "qwen3-tiny", "backend": "CPU_ATTN"}


def settings(**changes: Any) -> EngineSettings:
    plain = EngineSettings(
        python="/env/bin/python",
        weights="named",
        layers=None,
        model_cache="/models",
        compile_cache="/compile",
        shared_cache="/shared",
        environment={"PATH": "/bin"},
        cores=4,
    )
    return dataclasses.replace(plain, **changes)


def config(
    spec: Spec,
    arm: Any = "treatment",
    *,
    device: str = "h200",
    model: str = "qwen3-1.7b",
    backend: str = "FLASH_ATTN",
    tp: int = 1,
    dp: int = 1,
    mode: Any = "eager",
    check: CheckSpec | None = None,
    execution: ExecutionSpec | None = None,
    **changes: Any,
) -> EngineConfig:
    return engine_config(
        Cell(device, model, backend, tp, dp, mode, "batch_invariance"),
        arm,
        model=spec.models[model],
        device=spec.devices[device],
        suite=spec.suites["batch_invariance"],
        settings=settings(**changes),
        max_num_seqs=33,
        max_model_len=924,
        check=check,
        execution=execution,
    )


def entry(default: str | None, **environment: str) -> ExecutionSpec:
    """An entry of ``execution`` that says so."""
    return ExecutionSpec.model_validate(
        {"id": "x", "when": {}, "default": default, "compile_env": environment, "source": "here"}
    )


BREAKABLE = entry("breakable", VLLM_USE_BREAKABLE_CUDAGRAPH="0")


@pytest.mark.parametrize("arm", ["treatment", "control"])
@pytest.mark.parametrize("mode", ["default", "compile", "eager"])
def test_only_compile_takes_the_environment_that_turns_torch_compile_on(
    spec: Spec, mode: str, arm: str
) -> None:
    with_entry, without = (config(spec, arm, mode=mode, execution=e).env for e in (BREAKABLE, None))
    added = {"VLLM_USE_BREAKABLE_CUDAGRAPH": "0"} if mode == "compile" else {}
    assert with_entry == {**without, **added}
    assert "VLLM_USE_BREAKABLE_CUDAGRAPH" not in without


def test_environment_of_compile_goes_over_the_users_and_not_over_the_invariance(spec: Spec) -> None:
    (variable,) = spec.devices["h200"].invariance.on
    execution = entry("breakable", VLLM_USE_BREAKABLE_CUDAGRAPH="0", **{variable: "wrong"})
    users = {"VLLM_USE_BREAKABLE_CUDAGRAPH": "1"}
    compiled = config(spec, mode="compile", execution=execution, environment=users).env
    assert compiled["VLLM_USE_BREAKABLE_CUDAGRAPH"] == "0"
    assert compiled[variable] == spec.devices["h200"].invariance.on[variable]
    default = config(spec, mode="default", execution=execution, environment=users).env
    assert default["VLLM_USE_BREAKABLE_CUDAGRAPH"] == "1"


@pytest.mark.parametrize(
    ("mode", "execution", "treatment", "control"),
    [
        ("eager", None, "eager", "eager"),
        ("compile", None, "compile", "compile"),
        ("eager", BREAKABLE, "eager", "eager"),
        ("compile", BREAKABLE, "compile", "compile"),
        # Without the invariance mode, default may be another mode: only the treatment is checked.
        ("default", entry("compile"), "compile", None),
        ("default", entry("eager"), "eager", None),
        ("default", BREAKABLE, None, None),
        ("default", entry(None, A="1"), None, None),
        ("default", None, None, None),
    ],
)
def test_expected_mode_of_each_arm(
    spec: Spec, mode: str, execution: ExecutionSpec | None, treatment: str | None, control: str | None
) -> None:
    arms = [config(spec, arm, mode=mode, execution=execution) for arm in ("treatment", "control")]
    assert [arm.execution for arm in arms] == [treatment, control]
    assert [arm.for_worker()["execution"] for arm in arms] == [treatment, control]
    assert {arm.llm["enforce_eager"] for arm in arms} == {mode == "eager"}


def own(**changes: Any) -> CheckSpec:
    """A check whose engine is its own where ``changes`` say so."""
    return CheckSpec(**{"id": "x", "test": "test_x.py::test_x", "summary": "X.", **changes})


@pytest.mark.parametrize("mode", ["default", "compile", "eager"])
@pytest.mark.parametrize("device", ["cpu", "l4", "a100", "h100", "h200", "b200"])
@pytest.mark.parametrize("environment", [{}, {"VLLM_BATCH_INVARIANT": "1", "BI_HARNESS_CPU_INVARIANCE": "1"}])
def test_the_arms_differ_in_the_invariance_and_their_caches_alone(
    spec: Spec, device: str, environment: dict[str, str], mode: str
) -> None:
    model = "qwen3-tiny" if device == "cpu" else "qwen3-1.7b"
    one, two = (
        config(spec, arm, device=device, model=model, environment=environment, mode=mode)
        for arm in ("treatment", "control")
    )
    assert one.llm == two.llm
    assert one.checkpoint == two.checkpoint
    assert (one.python, one.platform, one.room_for_two) == (two.python, two.platform, two.room_for_two)
    assert (one.invariance, two.invariance) == (True, False)
    invariance = spec.devices[device].invariance
    differing = {k for k in one.env | two.env if one.env.get(k) != two.env.get(k)}
    apart = {"VLLM_CACHE_ROOT"} if mode == "eager" else CACHES
    assert differing == apart | set(invariance.on)
    for key, value in invariance.on.items():
        assert (one.env[key], two.env[key]) == (value, invariance.off[key])
    assert not {one.env[k] for k in apart} & {two.env[k] for k in apart}


@pytest.mark.parametrize(("kind", "compiled"), [(GPU, "/shared/"), (CPU, "/compile/")])
def test_the_arms_share_inductors_cache_in_eager_mode_alone(
    spec: Spec, kind: dict[str, str], compiled: str
) -> None:
    """A graph that was compiled with the invariance mode must not be taken for one without it; nor, on a CPU,
    code for another number of threads."""
    found = {
        (mode, arm): config(spec, arm, mode=mode, **kind).env["TORCHINDUCTOR_CACHE_DIR"]
        for mode in ("default", "compile", "eager")
        for arm in ("treatment", "control")
    }
    assert found["eager", "treatment"] == found["eager", "control"]
    assert len(set(found.values())) == 3
    assert found["eager", "control"].startswith("/shared/")
    assert all(folder.startswith(compiled) for (mode, _), folder in found.items() if mode != "eager")


def test_vllms_caches_are_of_a_unit_and_an_arm_and_tritons_of_all(spec: Spec) -> None:
    engines = [
        config(spec, arm, mode=mode).env for mode in ("eager", "compile") for arm in ("treatment", "control")
    ]
    assert all(env["VLLM_CACHE_ROOT"].startswith("/compile/") for env in engines)
    assert {env["TRITON_CACHE_DIR"] for env in engines} == {"/shared/triton"}


@pytest.mark.parametrize("name", sorted({*CACHES, "TRITON_CACHE_DIR"}))
def test_a_cache_of_the_environment_is_not_taken(spec: Spec, name: str) -> None:
    assert config(spec, environment={name: "/home/cache"}).env[name].startswith(("/compile/", "/shared/"))


@pytest.mark.parametrize("device", ["cpu", "h200"])
def test_a_planted_fault_is_in_what_is_tested_and_not_in_the_control(spec: Spec, device: str) -> None:
    environment = {PLANT_VARIABLE: "gemm-m16", "PATH": "/bin"}
    model = "qwen3-tiny" if device == "cpu" else "qwen3-1.7b"
    one, two = (
        config(spec, arm, device=device, model=model, environment=environment)
        for arm in ("treatment", "control")
    )
    assert one.env[PLANT_VARIABLE] == "gemm-m16"
    assert PLANT_VARIABLE not in two.env
    assert two.env["PATH"] == "/bin"
    assert environment[PLANT_VARIABLE] == "gemm-m16"
    stock = config(spec, "control", device=device, model=model, environment={"PATH": "/bin"})
    assert two == stock


def test_nothing_is_planted_unless_it_is_asked_for(spec: Spec) -> None:
    assert PLANT_VARIABLE not in config(spec).env


def test_a_checks_own_arguments_go_over_the_suites_and_the_devices(spec: Spec) -> None:
    check = own(
        engine_args={
            "enable_prefix_caching": False,
            "gpu_memory_utilization": 0.5,
            "max_num_seqs": 2,
            "enable_lora": True,
        }
    )
    for arm in ("treatment", "control"):
        made, shared = config(spec, arm, check=check), config(spec, arm)
        assert made.llm == {**shared.llm, **check.engine_args}
        assert made.env == shared.env
        assert "enable_lora" not in shared.llm


def test_a_check_without_arguments_of_its_own_has_the_shared_engine(spec: Spec) -> None:
    assert config(spec, check=own()) == config(spec, check=None)


def test_a_checks_adapters_fit_the_checkpoint_that_runs(spec: Spec) -> None:
    model = spec.models["qwen3-1.7b"]
    for changes, layers in (({}, 28), ({"weights": "synthetic", "layers": 2}, 2)):
        one, two = (config(spec, arm, check=own(adapters=3), **changes) for arm in ("treatment", "control"))
        assert one.adapters == two.adapters == adapter_spec(model, layers, 3)
        assert one.for_worker()["adapters"] == one.adapters


def test_without_adapters_there_are_none_to_make(spec: Spec) -> None:
    for check in (None, own(), own(engine_args={"enable_lora": True})):
        assert config(spec, check=check).adapters is None
        assert config(spec, check=check).for_worker()["adapters"] is None


def test_the_shipped_lora_check_has_room_for_its_adapters(spec: Spec) -> None:
    check = spec.suites["batch_invariance"].check("lora")
    made = config(spec, check=check)
    assert made.adapters is not None
    assert made.llm["enable_lora"] is True
    assert made.adapters["count"] <= made.llm["max_loras"]


def test_a_named_model_runs_its_own_weights_at_its_revision(spec: Spec) -> None:
    made = config(spec)
    assert made.checkpoint is None
    assert (made.llm["model"], made.llm["revision"]) == ("Qwen/Qwen3-1.7B", "main")
    assert "HF_HUB_OFFLINE" not in made.env


@pytest.mark.parametrize(
    ("model", "device", "weights"), [("qwen3-tiny", "cpu", "named"), ("qwen3-1.7b", "h200", "synthetic")]
)
def test_a_synthetic_model_is_made_on_the_spot_and_needs_no_network(
    spec: Spec, model: str, device: str, weights: str
) -> None:
    made = config(spec, device=device, model=model, weights=weights)
    assert made.checkpoint is not None
    assert made.llm["model"] == f"/models/{spec_digest(dict(made.checkpoint))[:32]}"
    assert made.env["HF_HUB_OFFLINE"] == "1"
    assert "revision" not in made.llm


def test_another_depth_is_another_checkpoint(spec: Spec) -> None:
    two, all_of_it = (config(spec, weights="synthetic", layers=n) for n in (2, None))
    assert two.llm["model"] != all_of_it.llm["model"]
    assert two.checkpoint is not None
    assert two.checkpoint["config"]["num_hidden_layers"] == 2
    # The file that was read is left as it is.
    assert spec.models["qwen3-1.7b"].config["num_hidden_layers"] == 28


def test_layers_need_synthetic_weights(spec: Spec) -> None:
    with pytest.raises(UsageError, match="--layers 2 needs --weights synthetic"):
        config(spec, layers=2)


@pytest.mark.parametrize("layers", [0, -1, 29])
def test_layers_are_at_most_the_models_own(spec: Spec, layers: int) -> None:
    with pytest.raises(UsageError, match=r"qwen3-1\.7b has 28; give 1 to 28"):
        config(spec, weights="synthetic", layers=layers)


def test_layers_cut_the_list_of_their_types(spec: Spec) -> None:
    model = spec.models["qwen3-1.7b"]
    typed = model.model_copy(update={"config": {**model.config, "layer_types": ["full", "sliding"] * 14}})
    made = checkpoint_spec(typed, "synthetic", 3)
    assert made is not None
    assert made["config"]["layer_types"] == ["full", "sliding", "full"]
    assert len(typed.config["layer_types"]) == 28


def test_auto_dtype_is_made_in_bfloat16(spec: Spec) -> None:
    made = checkpoint_spec(spec.models["qwen3-1.7b"].model_copy(update={"dtype": "auto"}), "synthetic", None)
    assert made is not None
    assert made["dtype"] == "bfloat16"


@pytest.mark.parametrize(("tp", "dp", "alone"), [(1, 1, True), (2, 1, False), (1, 2, False), (2, 2, False)])
def test_one_process_only_where_one_is_enough(spec: Spec, tp: int, dp: int, alone: bool) -> None:
    made = config(spec, tp=tp, dp=dp)
    assert (made.env.get("VLLM_ENABLE_V1_MULTIPROCESSING") == "0") is alone
    assert made.llm["tensor_parallel_size"] == tp


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (None, None),
        ("", "bi_harness"),
        ("lora", "lora,bi_harness"),
        ("bi_harness", "bi_harness"),
        ("lora,bi_harness", "lora,bi_harness"),
        ("not_bi_harness", "not_bi_harness,bi_harness"),
    ],
)
def test_a_list_of_plugins_keeps_what_it_has_and_gets_ours(
    spec: Spec, before: str | None, after: str | None
) -> None:
    """Without the variable vLLM loads every plugin, ours too; with it, only those that it names."""
    environment = {} if before is None else {"VLLM_PLUGINS": before}
    assert config(spec, environment=environment).env.get("VLLM_PLUGINS") == after


def test_what_is_asked_for_is_handed_on(spec: Spec) -> None:
    made = config(spec, backend="TRITON_ATTN", mode="compile")
    assert made.llm["attention_config"] == {"backend": "TRITON_ATTN"}
    assert made.llm["enforce_eager"] is False
    assert (made.llm["max_num_seqs"], made.llm["max_model_len"]) == (33, 924)
    assert 0.05 < made.llm["gpu_memory_utilization"] < 0.5  # what it takes: others may be on the GPU
    assert made.llm["enable_prefix_caching"] is True  # the suite's
    assert made.llm["trust_remote_code"] is False
    assert made.env["PATH"] == "/bin"
    assert made.env["VLLM_USE_FLASHINFER_SAMPLER"] == "0"
    assert config(spec, device="cpu", model="qwen3-tiny").platform == "cpu"


def test_the_harness_environment_is_not_changed(spec: Spec) -> None:
    environment = {"VLLM_PLUGINS": "x"}
    config(spec, environment=environment)
    assert environment == {"VLLM_PLUGINS": "x"}


def test_memory_is_fixed_but_for_hybrid_models(spec: Spec) -> None:
    assert config(spec).llm["kv_cache_memory_bytes"] > 0
    assert "kv_cache_memory_bytes" not in config(spec, model="qwen3-next-80b-a3b-instruct", tp=4).llm


def test_what_the_worker_reads_is_json(spec: Spec) -> None:
    for made in (config(spec), config(spec, weights="synthetic"), config(spec, check=own(adapters=2))):
        read = json.loads(json.dumps(made.for_worker()))
        assert read == made.for_worker()
        assert set(read) >= {"arm", "platform", "invariance", "llm", "checkpoint", "adapters"}


def eagle(spec: Spec, check: str, arm: Any = "treatment", *, tp: int = 1, dp: int = 1, **changes: Any) -> Any:
    """The engine of one check of ``eagle_dp``."""
    model, device = changes.pop("model", "llama-eagle-tiny"), changes.pop("device", "cpu")
    suite = spec.suites["eagle_dp"]
    return engine_config(
        Cell(device, model, "CPU_ATTN", tp, dp, "eager", "eagle_dp"),
        arm,
        model=spec.models[model],
        device=spec.devices[device],
        suite=suite,
        settings=settings(**changes),
        max_num_seqs=64,
        max_model_len=300,
        check=suite.check(check),
    )


def test_a_synthetic_target_gets_a_draft_made_for_it(spec: Spec) -> None:
    made = eagle(spec, "eagle")
    assert made.checkpoint is not None
    assert made.draft == {**made.checkpoint, "draft": {"noise": 2.0, "opposite": False}}
    assert made.for_worker()["draft"] == made.draft
    speculation = made.llm["speculative_config"]
    assert (speculation["method"], speculation["num_speculative_tokens"]) == ("eagle", 3)
    assert speculation["model"] == f"/models/{spec_digest(made.draft)[:32]}" != made.llm["model"]
    assert made.llm["disable_log_stats"] is False, "accepted tokens are counted there"


def test_drafts_of_one_target_are_different_checkpoints(spec: Spec) -> None:
    drafts = {
        name: eagle(spec, name).llm["speculative_config"]["model"]
        for name in ("eagle", "eagle_accepted", "eagle_rejected")
    }
    assert len(set(drafts.values())) == 3
    assert eagle(spec, "eagle_rejected").draft["draft"]["opposite"] is True


def test_named_weights_take_the_named_draft(spec: Spec) -> None:
    made = eagle(spec, "eagle", device="h200", model="llama-3.1-8b-instruct")
    assert made.draft is None
    assert made.llm["speculative_config"]["model"] == "yuhuili/EAGLE-LLaMA3.1-Instruct-8B"
    assert made.llm["speculative_config"]["revision"] == "main"


def test_a_made_draft_does_not_go_with_named_weights(spec: Spec) -> None:
    with pytest.raises(UsageError, match="the draft agreeing is synthetic"):
        eagle(spec, "eagle_accepted", device="h200", model="llama-3.1-8b-instruct")


def test_ngram_has_no_draft(spec: Spec) -> None:
    made = eagle(spec, "ngram")
    assert (made.draft, made.llm["speculative_config"]["method"]) == (None, "ngram")
    assert "model" not in made.llm["speculative_config"]


def test_without_speculation_there_is_none(spec: Spec) -> None:
    made = eagle(spec, "parallel")
    assert (made.draft, "speculative_config" in made.llm) == (None, False)


def test_engines_that_speculate_and_the_plain_one_have_room_to_draft_at_the_longest_request(
    spec: Spec,
) -> None:
    """Else vLLM drafts for nobody while one request of the batch is that long."""
    lengths = {eagle(spec, check.id).llm["max_model_len"] for check in spec.suites["eagle_dp"].checks}
    assert lengths == {300 + 2 * (5 + 1)}
    assert config(spec).llm["max_model_len"] == 924


def test_ranks_are_asked_for_where_there_are_several(spec: Spec) -> None:
    one, two = (config(spec, dp=dp).llm for dp in (1, 2))
    assert not {name for name in one if name.startswith("data_parallel")}
    assert (two["data_parallel_size"], two["data_parallel_backend"]) == (2, "mp")
    assert config(spec, tp=2).llm["tensor_parallel_size"] == 2


@pytest.mark.parametrize(
    ("tp", "dp", "threads"), [(1, 1, None), (1, 2, "2"), (1, 4, "1"), (1, 8, "1"), (2, 1, None)]
)
def test_ranks_on_a_cpu_have_cores_of_their_own(spec: Spec, tp: int, dp: int, threads: str | None) -> None:
    made = eagle(spec, "parallel", tp=tp, dp=dp, cores=4)
    assert made.env.get("OMP_NUM_THREADS") == threads
    assert made.env.get("VLLM_CPU_SIM_MULTI_NUMA") == ("1" if tp > 1 else None)
    # One process is one rank, unless tensor parallelism takes workers.
    assert (made.env.get("VLLM_ENABLE_V1_MULTIPROCESSING") == "0") == (tp == 1)
    assert made.llm.get("distributed_executor_backend") == ("uni" if dp > 1 else None)


def test_ranks_on_gpus_are_left_to_vllm(spec: Spec) -> None:
    made = config(spec, dp=2, cores=4)
    assert not {"OMP_NUM_THREADS", "VLLM_ENABLE_V1_MULTIPROCESSING"} & set(made.env)
    assert "distributed_executor_backend" not in made.llm


def of_server(spec: Spec, check: str = "completions", **changes: Any) -> EngineConfig:
    suite = spec.suites["online"]
    device = changes.pop("device", "cpu")
    model, backend = ("qwen3-tiny", "CPU_ATTN") if device == "cpu" else ("qwen3-1.7b", "FLASH_ATTN")
    dp = changes.pop("dp", 1)
    return engine_config(
        Cell(device, model, backend, 1, dp, "eager", "online"),
        changes.pop("arm", "treatment"),
        model=spec.models[model],
        device=spec.devices[device],
        suite=suite,
        settings=settings(**changes),
        max_num_seqs=64,
        max_model_len=625,
        check=suite.check(check) if suite.check(check).own_engine else None,
    )


@pytest.mark.parametrize("device", ["cpu", "h200"])
def test_a_server_has_a_tokenizer_and_lets_its_workers_be_asked(spec: Spec, device: str) -> None:
    found = of_server(spec, device=device)
    assert (found.interface, found.api_order) == ("server", True)
    assert "skip_tokenizer_init" not in found.llm
    assert found.env["VLLM_SERVER_DEV_MODE"] == "1"
    assert found.llm["max_model_len"] == 625 + 64, "with room for a chat template"
    assert ("OMP_NUM_THREADS" in found.env) == (device == "cpu")


def test_its_offline_counterpart_differs_in_the_interface_alone(spec: Spec) -> None:
    server, library = of_server(spec), of_server(spec, "offline_online")
    assert (library.interface, library.api_order) == ("library", True)
    assert "VLLM_SERVER_DEV_MODE" not in library.env
    differing = {k for k in {**server.llm, **library.llm} if server.llm.get(k) != library.llm.get(k)}
    assert differing == {"skip_tokenizer_init"}
    assert server.env["OMP_NUM_THREADS"] == library.env["OMP_NUM_THREADS"] == "3", "of four cores"
    assert server.checkpoint == library.checkpoint


def test_a_servers_ranks_share_the_cores(spec: Spec) -> None:
    found = of_server(spec, dp=2)
    assert (found.env["OMP_NUM_THREADS"], found.llm["data_parallel_size"]) == ("1", 2)


def test_the_other_suites_engines_are_driven_as_a_library(spec: Spec) -> None:
    found = config(spec)
    assert (found.interface, found.api_order, found.llm["max_model_len"]) == ("library", False, 924)
