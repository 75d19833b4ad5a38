"""Checkpoints made on the spot: an architecture's real shape with seeded random weights.

Which kernels an engine picks depends on shapes and dtypes, not on what the weights were trained to; so a
synthetic checkpoint certifies a model's *shape* on a host without network, or for a gated model.

``python -m bi_harness.workload.checkpoint SPEC_JSON OUT_DIR`` makes one under the engine's interpreter.
Worker side: standard library, torch, transformers, tokenizers, safetensors alone.

The spec is ``{"config": {"model_type": ..., ...}, "dtype": "bfloat16", "seed": 0, "weight_scale": 1.0}``,
with ``"quantize": "nvfp4"`` for weights packed as in ``checkpoint_nvfp4``, and for speculative decoding,
where random weights would never agree on a token:

- ``"next_token": true`` makes a target whose every token has one that follows it: row ``p(t)`` of the
  ``lm_head`` is the embedding of ``t``, for a random permutation ``p``.
- ``"draft": {"noise": 0.5, "opposite": false}`` makes an EAGLE head for the target of the same spec: one
  layer over the token's own embedding, which agrees with the target as far as the noise lets it (0: always);
  over its opposite, it proposes what follows least (never what the target takes).
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from bi_harness.workload.digests import DONE, checkpoint_digest, digest_in_run, locked

FORMAT = 2
"""Part of the cache key: raise it when the way weights are drawn changes."""


def spec_digest(spec: dict[str, Any]) -> str:
    """The name of the spec's folder in the cache: sha256 of its canonical JSON and of ``FORMAT``."""
    text = json.dumps({"format": FORMAT, "spec": spec}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def ensure(spec: dict[str, Any], folder: Path, notes: Path | None = None) -> dict[str, str]:
    """Make the checkpoint in ``folder`` unless it is there whole. Returns ``{"digest", "made_by"}``.

    Safe when several processes ask at once: one makes it, the others wait. Whether it is whole is looked at
    by all at the same time, or by one for all of a run (``notes``): reading gigabytes one after the other
    would hold up every engine of a host.

    Args:
        spec: see above.
        folder: of the checkpoint.
        notes: see ``digest_in_run``.

    Raises:
        ValueError: when the folder holds something else, or transformers does not know the architecture
            or refuses the configuration.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = folder.with_suffix(".lock")
    with locked(lock, shared=True):
        if (found := _whole(spec, folder, notes)) is not None:
            return found
    with locked(lock):
        if (found := _whole(spec, folder, notes)) is not None:
            return found
        if (folder / DONE).is_file():
            # Someone changed a file: never run what its digest does not describe.
            shutil.rmtree(folder)
        elif folder.exists():
            raise ValueError(f"{folder} exists and is no checkpoint of bi-harness; choose another folder")
        work = Path(tempfile.mkdtemp(prefix=f".{folder.name[:16]}-", dir=folder.parent))
        try:
            record = {"digest": _make(spec, work), "made_by": f"bi-harness checkpoint format {FORMAT}"}
            done = json.dumps({**record, "spec": spec_digest(spec)})
            (work / DONE).write_text(done, encoding="utf-8")
            work.chmod(0o755)
            work.rename(folder)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return record


def _whole(spec: dict[str, Any], folder: Path, notes: Path | None) -> dict[str, str] | None:
    """What is known of the checkpoint in ``folder``; ``None`` where it is not there, or not as it was made.

    Raises:
        ValueError: it is another model's.
    """
    if not (folder / DONE).is_file():
        return None
    record = _record(folder)
    if record.get("spec") not in (None, spec_digest(spec)):
        raise ValueError(f"{folder} holds the checkpoint of another model; choose another folder")
    if not record or record["digest"] != digest_in_run(folder, notes):
        return None
    return {"digest": record["digest"], "made_by": record["made_by"]}


def _record(folder: Path) -> dict[str, str]:
    """What ``DONE`` says; empty when it is not what ``ensure`` wrote."""
    try:
        record = json.loads((folder / DONE).read_text(encoding="utf-8"))
    except ValueError:
        return {}
    whole = isinstance(record, dict) and all(isinstance(record.get(k), str) for k in ("digest", "made_by"))
    return record if whole else {}


def _make(spec: dict[str, Any], folder: Path) -> str:
    if spec.get("draft") is not None:
        return _make_draft(spec, folder)
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    # A copy through and through: transformers changes nested values (rope_scaling), and the spec is the name.
    settings = copy.deepcopy(spec["config"])
    dtype = getattr(torch, spec["dtype"])
    try:
        config = AutoConfig.for_model(settings.pop("model_type"), **settings)
        config.dtype = dtype
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    except Exception as error:  # each release and architecture has errors of its own
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"transformers refuses the configuration: {first}") from error
    model.to_empty(device="cpu")
    model.tie_weights()
    tied = bool(getattr(config, "tie_word_embeddings", False))
    _draw(model, int(spec["seed"]), float(spec["weight_scale"]), tied=tied)
    if spec.get("next_token"):
        _let_tokens_follow(model, int(spec["seed"]), tied=tied)
    model.save_pretrained(folder)
    if "architectures" in spec["config"]:
        # What is saved names transformers' class; released checkpoints may name another, which vLLM knows.
        config.architectures = list(spec["config"]["architectures"])
        config.save_pretrained(folder)
    if spec.get("quantize") == "nvfp4":
        from bi_harness.workload import checkpoint_nvfp4

        checkpoint_nvfp4.quantize(folder)
    write_tokenizer(folder, int(config.vocab_size))
    return checkpoint_digest(folder)


def _draw(model: Any, seed: int, scale: float, *, tied: bool) -> None:
    """Fill every parameter in place, each from a stream of its own, named by the seed and its name.

    Matrices get ``N(0, scale / sqrt(fan_in))``, which keeps activations of order one through the depth, so
    that every bit of the mantissa is in play (weights near zero, as vLLM's dummy loader draws them, hide
    every difference). Norm weights sit near one, biases near zero, embeddings at unit variance; but where
    the embedding is the ``lm_head`` too, it is drawn as a matrix, or a few logits would take all.
    """
    import torch

    with torch.no_grad():
        for name, parameter in model.named_parameters():
            stream = torch.Generator().manual_seed(_stream(seed, name))
            shape = tuple(parameter.shape)
            values = torch.randn(shape, generator=stream, dtype=torch.float32)
            leaf = name.rsplit(".", 1)[-1]
            if parameter.dim() <= 1:
                centre = 0.0 if "bias" in leaf else 1.0
                values.mul_(0.1 * scale).add_(centre)
            elif "embed" in name and not tied:
                values.mul_(scale)
            else:
                values.mul_(scale / shape[-1] ** 0.5)
            parameter.copy_(values)
        for name, buffer in model.named_buffers():
            # Saved buffers (routers' correction biases) are drawn too; the others are not in the file.
            if buffer.is_floating_point() and name in model.state_dict():
                stream = torch.Generator().manual_seed(_stream(seed, name))
                buffer.copy_(torch.randn(tuple(buffer.shape), generator=stream) * 0.1 * scale)


_CYCLE = 8
"""Tokens after which what follows each other begins again, so that looking back finds what comes next."""


def _let_tokens_follow(model: Any, seed: int, *, tied: bool) -> None:
    """Give each token one that follows it, in cycles of ``_CYCLE``.

    Raises:
        ValueError: the embedding is the ``lm_head`` too.
    """
    import torch

    if tied:
        raise ValueError("next_token needs an lm_head of its own: tie_word_embeddings is true")
    embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    stream = torch.Generator().manual_seed(_stream(seed, "next_token"))
    order = torch.randperm(len(head), generator=stream)
    follows = torch.empty_like(order)
    for cycle in order.split(_CYCLE):
        follows[cycle] = cycle.roll(-1)
    with torch.no_grad():
        head[follows] = embedding / embedding.shape[1] ** 0.5


def _make_draft(spec: dict[str, Any], folder: Path) -> str:
    """The EAGLE head: the target's embedding, ``fc`` that passes the embedding on, and one random layer."""
    import torch
    from safetensors.torch import save_file
    from transformers import AutoConfig, AutoModelForCausalLM

    target = {k: v for k, v in spec.items() if k not in ("draft", "next_token")}
    settings = {**copy.deepcopy(target["config"]), "num_hidden_layers": 1}
    dtype, seed = getattr(torch, spec["dtype"]), int(spec["seed"])
    config = AutoConfig.for_model(settings.pop("model_type"), **settings)
    config.dtype = dtype
    model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    # The embedding's stream is named by the seed and its name alone: it is the target's.
    _draw(model, seed, float(spec["weight_scale"]), tied=False)
    size = int(config.hidden_size)
    stream = torch.Generator().manual_seed(_stream(seed, "draft_noise"))
    noise = torch.randn((size, 2 * size), generator=stream) / (2 * size) ** 0.5
    sign = -1.0 if spec["draft"]["opposite"] else 1.0
    passed_on = torch.cat((sign * torch.eye(size), torch.zeros(size, size)), dim=1)
    fc = passed_on + float(spec["draft"]["noise"]) * noise
    weights = {"embed_tokens.weight": model.get_input_embeddings().weight, "fc.weight": fc.to(dtype)}
    for name, parameter in model.named_parameters():
        # An EAGLE head has no norm before its first layer, and the target's lm_head.
        if ".layers." in name and not name.endswith("input_layernorm.weight"):
            weights[name.removeprefix("model.")] = parameter
    save_file({k: v.detach().contiguous() for k, v in weights.items()}, folder / "model.safetensors")
    config.architectures = [type(model).__name__]
    config.save_pretrained(folder)
    return checkpoint_digest(folder)


def _stream(seed: int, name: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:7], "big")


def write_tokenizer(folder: Path, vocab_size: int) -> None:
    """A byte-level tokenizer of ``vocab_size`` entries: 256 bytes, then names that no text produces.

    Raises:
        ValueError: for fewer than 258 entries.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    if vocab_size < 258:
        raise ValueError(f"vocab_size {vocab_size}: a byte-level tokenizer needs 258")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: index for index, token in enumerate(alphabet)}
    vocab |= {"<|bos|>": 256, "<|eos|>": 257}
    vocab |= {f"<|unused{index}|>": index for index in range(258, vocab_size)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<|bos|>", eos_token="<|eos|>")
    fast.save_pretrained(folder)


def main(argv: list[str]) -> int:
    """Make the checkpoint that ``argv`` names and print its record as one line of JSON."""
    spec_path, out = argv
    try:
        record = ensure(json.loads(Path(spec_path).read_text(encoding="utf-8")), Path(out))
    except (OSError, ValueError, KeyError, AttributeError) as error:
        print(f"cannot make the checkpoint in {out}: {error}", file=sys.stderr)
        return 1
    print(json.dumps(record))
    sys.stdout.flush()
    os._exit(0)  # torch's and transformers' thread pools take seconds to wind down


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
