"""Digests and bits of tensors' rows. Worker side: torch alone."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from typing import Any

BLOCK_BYTES = 8 << 20
"""What taking digests may use beside the tensor itself."""

_DEPTH = 4


def tensors(value: Any, path: str = "", depth: int = _DEPTH) -> Iterator[tuple[str, Any]]:
    """Every tensor in a call's arguments or result, with the path to it (``0``, ``1.hidden``)."""
    import torch

    if isinstance(value, torch.Tensor):
        yield path or "0", value
        return
    if depth == 0 or isinstance(value, str | bytes | torch.nn.Module):
        return
    inside: Any = ()
    if isinstance(value, Mapping):
        inside = value.items()
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        inside = zip(value._fields, value, strict=True)
    elif isinstance(value, list | tuple):
        inside = enumerate(value)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        inside = ((field.name, getattr(value, field.name, None)) for field in dataclasses.fields(value))
    for name, item in inside:
        yield from tensors(item, f"{path}.{name}" if path else str(name), depth - 1)


def integers(tensor: Any) -> Any:
    """The bits of a tensor as ``[rows, values]`` integers of the same width.

    Raises:
        TypeError: for values that are not 1, 2, 4 or 8 bytes wide.
    """
    import torch

    if tensor.is_complex():
        tensor = torch.view_as_real(tensor)
    kinds = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    kind = kinds.get(tensor.element_size())
    if kind is None:
        raise TypeError(f"values of {tensor.element_size()} bytes have no bits to look at")
    flat = tensor.detach().reshape(tensor.shape[0], -1).contiguous()
    return flat.view(kind) if flat.numel() else flat.to(kind)


def digests(tensor: Any) -> Any:
    """A 64-bit digest of each row's bits, ``[rows]`` int64, on the tensor's own device.

    It is a sum with random odd weights modulo 2**64: integer arithmetic, so that the same bits give the same
    digest however the device orders the sum. Rows that differ have equal digests with a chance below 2**-48
    (their difference, of 16-bit values, would have to be orthogonal to the weights); what is found by
    digests is compared bit by bit before it is told.
    """
    import torch

    bits = integers(tensor)
    rows, width = bits.shape
    if not width:
        return torch.zeros(rows, dtype=torch.int64, device=bits.device)
    weights = _weights(width, str(bits.device))
    step = max(1, BLOCK_BYTES // (8 * width))
    parts = [(block.to(torch.int64) * weights).sum(dim=1) for block in bits.split(step)]
    return torch.cat(parts) if len(parts) > 1 else parts[0]


@functools.lru_cache(maxsize=256)
def _weights(width: int, device: str) -> Any:
    import torch

    generator = torch.Generator().manual_seed(width)
    weights = torch.randint(
        -(2**63), 2**63 - 1, (width,), generator=generator, dtype=torch.int64, device="cpu"
    )
    return (weights | 1).to(device)


def short(dtype: Any) -> str:
    """``bfloat16`` for ``torch.bfloat16``."""
    return str(dtype).removeprefix("torch.")
