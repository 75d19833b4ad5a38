"""Which modules a model has, by type. Worker side: nothing but the standard library here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Kind:
    """What modules have in common that are of one type.

    Attributes:
        cls: name of the class.
        weights: its own parameters and buffers, with name, sizes and dtype; those of parts are the parts'.
        quant: class of its quantization method; empty for none.
        parameters: how many parameters it has of its own.
        sequence: whether it, or a part of it, keeps something between tokens (a KV cache, a state), so that a
            row's result is of more than the row.
    """

    cls: str
    weights: tuple[str, ...]
    quant: str
    parameters: int
    sequence: bool


def kinds(model: Any, layers: Mapping[str, Any]) -> Iterator[tuple[str, Any, Kind]]:
    """Every module of the model but the model itself: qualified name, module, kind. A module that has several
    names is there once.

    Args:
        layers: those that vLLM finds by their name while a model runs (``static_forward_context``).
    """
    stateful = {id(layer) for layer in layers.values() if keeps_state(layer)}
    for name, module in model.named_modules():
        if name:
            yield name, module, kind_of(module, stateful)


def kind_of(module: Any, stateful: set[int]) -> Kind:
    """Of one module.

    Args:
        stateful: ``id`` of the modules that keep something between tokens.
    """
    method = getattr(module, "quant_method", None)
    own = dict(module.named_parameters(recurse=False))
    tensors = {**own, **dict(module.named_buffers(recurse=False))}
    return Kind(
        cls=type(module).__name__,
        weights=(*_sizes(module), *(_described(name, tensor) for name, tensor in tensors.items())),
        quant=type(method).__name__ if method is not None else "",
        parameters=len(own),
        sequence=any(id(part) in stateful or keeps_state(part) for part in module.modules()),
    )


def keeps_state(module: Any) -> bool:
    """Whether a module keeps something between tokens: vLLM asks such layers for the cache that they need,
    and gives them one. A mixture of experts is found by its name, too, and keeps nothing."""
    return hasattr(module, "get_kv_cache_spec") or hasattr(module, "kv_cache")


def _sizes(module: Any) -> tuple[str, ...]:
    """Of a linear layer or an embedding, whose weight vLLM may have repacked and emptied."""
    for rows, columns in (
        ("output_size_per_partition", "input_size_per_partition"),
        ("num_embeddings_per_partition", "embedding_dim"),
        ("output_size", "input_size"),
    ):
        sizes = getattr(module, rows, None), getattr(module, columns, None)
        if all(isinstance(size, int) for size in sizes):
            return (f"{sizes[0]}x{sizes[1]}",)
    return ()


def _described(name: str, tensor: Any) -> str:
    dtype = str(tensor.dtype).removeprefix("torch.")
    if not tensor.numel():
        return f"{name} {dtype}"
    return f"{name} {'x'.join(str(size) for size in tensor.shape) or 'scalar'} {dtype}"
