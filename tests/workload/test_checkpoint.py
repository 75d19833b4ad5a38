"""Synthetic checkpoints: names and folders (no torch), and what is made (torch and transformers)."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bi_harness.engine.config import checkpoint_spec
from bi_harness.spec.load import default_paths, load_spec
from bi_harness.workload import checkpoint
from bi_harness.workload.checkpoint import ensure, spec_digest
from bi_harness.workload.digests import DONE, checkpoint_digest

PATHS = default_paths(environ={})
MODELS = load_spec(PATHS.models, PATHS.hardware, PATHS.suites).models
SYNTHETIC = sorted(id for id, model in MODELS.items() if model.synthetic)

TINY: dict[str, Any] = {
    "config": {
        "model_type": "qwen3",
        "vocab_size": 300,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "max_position_embeddings": 128,
        "tie_word_embeddings": False,
    },
    "dtype": "bfloat16",
    "seed": 5,
    "weight_scale": 1.0,
}


def spec(**changes: Any) -> dict[str, Any]:
    return {**TINY, **changes}


def test_a_specs_name_stays_and_does_not_depend_on_key_order() -> None:
    """It names folders of a cache that outlives releases; it changes when FORMAT does."""
    assert checkpoint.FORMAT == 2
    assert spec_digest(TINY) == "4146e2ab1148884919928be8cab461949d00731aa8bf9a9461d99410c7eaf4a1"
    turned = dict(reversed([(k, dict(reversed(v.items())) if k == "config" else v) for k, v in TINY.items()]))
    assert spec_digest(turned) == spec_digest(TINY)


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 6},
        {"dtype": "float32"},
        {"weight_scale": 2.0},
        {"config": {**TINY["config"], "head_dim": 32}},
    ],
)
def test_every_part_of_a_spec_has_its_part_in_the_name(change: dict[str, Any]) -> None:
    assert spec_digest(spec(**change)) != spec_digest(TINY)


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Puts a file in place of a checkpoint, and notes the seeds: ensure()'s own logic needs no torch."""
    made: list[int] = []

    def make(spec: dict[str, Any], folder: Path) -> str:
        made.append(spec["seed"])
        (folder / "weights").write_text(str(spec["seed"]))
        return checkpoint_digest(folder)

    monkeypatch.setattr(checkpoint, "_make", make)
    return made


def test_ensure_makes_it_once(tmp_path: Path, stub: list[int]) -> None:
    folder = tmp_path / "deep" / "c"
    assert ensure(TINY, folder) == ensure(TINY, folder)
    assert stub == [5]
    assert sorted(p.name for p in folder.iterdir()) == [DONE, "weights"]
    assert sorted(p.name for p in folder.parent.iterdir()) == ["c", "c.lock"]


@pytest.mark.parametrize("what", ["changed", "added", "removed", "renamed"])
def test_a_tampered_checkpoint_is_made_anew(tmp_path: Path, stub: list[int], what: str) -> None:
    folder = tmp_path / "c"
    record = ensure(TINY, folder)
    weights = folder / "weights"
    if what == "changed":
        weights.write_text("6")
    elif what == "added":
        (folder / "more").touch()
    elif what == "removed":
        weights.unlink()
    else:
        weights.rename(folder / "other")
    assert ensure(TINY, folder) == record
    assert stub == [5, 5]
    assert weights.read_text() == "5"
    assert checkpoint_digest(folder) == record["digest"]


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"digest": 3}', "\x00"])
def test_a_broken_record_is_made_anew(tmp_path: Path, stub: list[int], text: str) -> None:
    record = ensure(TINY, tmp_path / "c")
    (tmp_path / "c" / DONE).write_text(text)
    assert ensure(TINY, tmp_path / "c") == record
    assert stub == [5, 5]


def test_a_folder_that_holds_another_model_is_refused(tmp_path: Path, stub: list[int]) -> None:
    ensure(TINY, tmp_path / "c")
    with pytest.raises(ValueError, match="holds the checkpoint of another model"):
        ensure(spec(seed=6), tmp_path / "c")
    assert (tmp_path / "c" / "weights").read_text() == "5"


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_what_is_no_checkpoint_is_refused_and_left_alone(tmp_path: Path, stub: list[int], kind: str) -> None:
    target = tmp_path / "mine"
    (target if kind == "folder" else tmp_path).mkdir(exist_ok=True)
    thesis = target / "thesis.txt" if kind == "folder" else target
    thesis.write_text("years of work")
    with pytest.raises(ValueError, match="is no checkpoint of bi-harness"):
        ensure(TINY, target)
    assert thesis.read_text() == "years of work"
    assert stub == []


def test_a_failure_leaves_nothing_that_looks_like_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(spec: dict[str, Any], folder: Path) -> str:
        (folder / "half").touch()
        raise ValueError("disk full")

    monkeypatch.setattr(checkpoint, "_make", fail)
    with pytest.raises(ValueError, match="disk full"):
        ensure(TINY, tmp_path / "c")
    assert [p.name for p in tmp_path.iterdir()] == ["c.lock"]


def test_processes_at_once_make_one(tmp_path: Path) -> None:
    code = """
import sys, time
from pathlib import Path
from bi_harness.workload import checkpoint
def make(spec, folder):
    with open(sys.argv[1] + "/made", "a") as log:
        log.write("x")
    time.sleep(0.3)
    (folder / "weights").write_text("w")
    return checkpoint.checkpoint_digest(folder)
checkpoint._make = make
print(checkpoint.ensure({"seed": 1}, Path(sys.argv[1]) / "c"))
"""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", code, str(tmp_path)]
    running = [subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    said = {process.communicate(timeout=60)[0] for process in running}
    assert [process.returncode for process in running] == [0] * 4
    assert len(said) == 1
    assert (tmp_path / "made").read_text() == "x"


def test_one_that_is_there_is_looked_at_by_all_at_once(tmp_path: Path, stub: list[int]) -> None:
    import fcntl

    record = ensure(TINY, tmp_path / "c")
    with open(tmp_path / "c.lock") as other:
        fcntl.flock(other, fcntl.LOCK_SH)  # another process reads it
        assert ensure(TINY, tmp_path / "c") == record
    assert stub == [5]


def test_the_program_says_in_one_line_what_is_wrong(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "bi_harness.workload.checkpoint",
        str(tmp_path / "none"),
        str(tmp_path / "c"),
    ]
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}, capture_output=True
    )
    assert done.returncode == 1
    assert done.stdout == b""
    assert done.stderr.decode().startswith("cannot make the checkpoint")
    assert len(done.stderr.splitlines()) == 1


# From here on real checkpoints: torch and transformers.


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("real") / "tiny"
    ensure(TINY, folder)
    return folder


def test_the_same_spec_gives_the_same_bytes(real: Path, tmp_path: Path) -> None:
    assert ensure(TINY, tmp_path / "again")["digest"] == checkpoint_digest(real)


@pytest.mark.parametrize("change", [{"seed": 6}, {"dtype": "float32"}, {"weight_scale": 0.5}])
def test_another_spec_gives_other_bytes(real: Path, tmp_path: Path, change: dict[str, Any]) -> None:
    assert ensure(spec(**change), tmp_path / "other")["digest"] != checkpoint_digest(real)


def test_a_spec_stays_what_it_was(tmp_path: Path) -> None:
    """transformers changes nested values of what it is given, and the spec is the folder's name."""
    pytest.importorskip("transformers")
    scaling = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    scaling["original_max_position_embeddings"] = 64
    config = {**TINY["config"], "model_type": "llama", "rope_theta": 5e5, "rope_scaling": scaling}
    scaled = spec(config=config)
    before = json.dumps(scaled)
    made = ensure(scaled, tmp_path / "c")
    assert json.dumps(scaled) == before
    assert ensure(json.loads(before), tmp_path / "c") == made


def test_a_checkpoint_may_name_another_class_than_transformers_does(real: Path, tmp_path: Path) -> None:
    named = spec(config={**TINY["config"], "architectures": ["OtherForCausalLM"]})
    ensure(named, tmp_path / "c")
    assert json.loads((tmp_path / "c" / "config.json").read_text())["architectures"] == ["OtherForCausalLM"]
    for weights in real.glob("*.safetensors"):
        assert (tmp_path / "c" / weights.name).read_bytes() == weights.read_bytes()


def test_another_process_gives_the_same_bytes(real: Path, tmp_path: Path) -> None:
    (tmp_path / "spec.json").write_text(json.dumps(TINY))
    command = [sys.executable, "-m", "bi_harness.workload.checkpoint"]
    said = subprocess.run(
        [*command, str(tmp_path / "spec.json"), str(tmp_path / "c")],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        check=True,
    ).stdout
    assert json.loads(said.splitlines()[-1])["digest"] == checkpoint_digest(real)


def test_a_weight_that_was_changed_is_made_anew(real: Path, tmp_path: Path) -> None:
    folder = tmp_path / "c"
    shutil.copytree(real, folder)
    (weights,) = folder.glob("*.safetensors")
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert ensure(TINY, folder)["digest"] == checkpoint_digest(real) == checkpoint_digest(folder)


def test_text_survives_the_tokenizer(real: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(real)
    for text in ("Hello, world!\n\ttwo  spaces ", "żółć 你好 🙂", "<|unused", "\x00\x7f"):
        ids = tokenizer.encode(text, add_special_tokens=False)
        assert ids
        assert max(ids) < 300
        assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text
    assert len(tokenizer) == 300


def test_a_vocabulary_without_room_for_the_bytes_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("tokenizers")
    pytest.importorskip("transformers")
    with pytest.raises(ValueError, match="needs 258"):
        checkpoint.write_tokenizer(tmp_path, 257)


@pytest.mark.parametrize(
    "config", [{"model_type": "no_such_architecture"}, {**TINY["config"], "num_hidden_layers": "two"}]
)
def test_a_configuration_that_transformers_refuses_is_an_error(
    tmp_path: Path, config: dict[str, Any]
) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    with pytest.raises(ValueError, match="transformers refuses the configuration"):
        ensure(spec(config=config), tmp_path / "c")
    assert not (tmp_path / "c").exists()


TARGET = spec(config={**TINY["config"], "model_type": "llama"}, next_token=True)


def weights(made: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The tensors of the checkpoint of that spec."""
    pytest.importorskip("transformers")
    load_file = pytest.importorskip("safetensors.torch").load_file
    ensure(made, folder)
    found: dict[str, Any] = load_file(folder / "model.safetensors")
    return found


def test_tokens_follow_each_other_in_short_cycles(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    found = weights(TARGET, tmp_path / "t")
    head, embedding = found["lm_head.weight"].float(), found["model.embed_tokens.weight"].float()
    follows = (embedding @ head.T).argmax(dim=1)
    assert sorted(follows.tolist()) == list(range(300)), "each token follows one other"
    token = torch.arange(300)
    for _ in range(checkpoint._CYCLE):
        token = follows[token]
    last = 300 % checkpoint._CYCLE
    assert (token == torch.arange(300)).sum() >= 300 - last


def test_a_draft_has_the_targets_embedding_and_passes_it_on(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    embedding = weights(TARGET, tmp_path / "t")["model.embed_tokens.weight"]
    one = torch.cat((torch.eye(32), torch.zeros(32, 32)), dim=1)
    for opposite, sign in ((False, 1.0), (True, -1.0)):
        draft = {**TARGET, "draft": {"noise": 0.0, "opposite": opposite}}
        found = weights(draft, tmp_path / f"d{sign}")
        assert torch.equal(found["embed_tokens.weight"], embedding)
        assert torch.equal(found["fc.weight"].float(), sign * one)
        assert not [name for name in found if name.startswith(("lm_head", "model.", "layers.1"))]
    noisy = weights({**TARGET, "draft": {"noise": 0.5, "opposite": False}}, tmp_path / "n")
    assert 0.01 < (noisy["fc.weight"].float() - one).std() < 0.2


def test_a_tied_head_cannot_say_what_follows(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    tied = {**TARGET, "config": {**TARGET["config"], "tie_word_embeddings": True}}
    with pytest.raises(ValueError, match="needs an lm_head of its own"):
        ensure(tied, tmp_path / "c")


# Packed weights are for vLLM's kernels; `test_checkpoint_nvfp4.py` reads them.
@pytest.mark.parametrize(
    "model_id",
    [
        pytest.param(name, marks=pytest.mark.long) if MODELS[name].memory_gib >= 1 else name
        for name in SYNTHETIC
        if MODELS[name].quantize is None
    ],
)
def test_every_synthetic_model_builds_and_spreads_its_logits(model_id: str, tmp_path: Path) -> None:
    """Logits near zero would hide every difference, and huge ones leave one token without rivals."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    made = checkpoint_spec(MODELS[model_id], "synthetic", None)
    assert made is not None
    ensure(made, tmp_path / "c")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "c", dtype=torch.float32)
    with torch.no_grad():
        logits = model(torch.arange(40).reshape(1, -1) * 97 % 4096).logits
    assert torch.isfinite(logits).all()
    assert 0.3 < logits.std().item() < 10
    # Every position says something else.
    assert logits[0].std(dim=0).mean().item() > 0.1


def test_a_named_models_shape_builds_with_fewer_layers(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    small = MODELS["llama-3.2-1b-instruct"].model_copy(
        update={"config": {**MODELS["llama-3.2-1b-instruct"].config, "vocab_size": 300, "hidden_size": 256}}
    )
    made = checkpoint_spec(small, "synthetic", 1)
    assert made is not None
    ensure(made, tmp_path / "c")
    config = transformers.AutoConfig.from_pretrained(tmp_path / "c")
    assert (config.num_hidden_layers, config.tie_word_embeddings) == (1, True)
