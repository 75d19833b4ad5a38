"""The parts of a record whose content is free: what a reader looks up in them has the type it expects.

Hosts, engines and options are described by mappings without a schema, so that a new version can say more.
Limits of depth and size apply to what is read from JSON alone: a run writes what its engines report.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Final

from pydantic import AfterValidator, ValidationInfo

MAX_DEPTH: Final = 32
"""Levels of mappings and lists. Runs write 6."""

MAX_BITS: Final = 256
"""Of an integer. Python refuses to write one of more than 4,300 digits, and takes long for fewer."""

MAX_VERSION: Final = 200
"""Characters of a version. Comparing versions takes time that grows with the square of their length."""


def _bounded(value: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
    if info.mode == "json":
        _walk(value, 1)
    return value


def _walk(value: object, depth: int) -> None:
    if isinstance(value, dict | list):
        if depth > MAX_DEPTH:
            raise ValueError(f"more than {MAX_DEPTH} levels of mappings and lists")
        for part in value.values() if isinstance(value, dict) else value:
            _walk(part, depth + 1)
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError("a number that is not finite")
    elif isinstance(value, int) and value.bit_length() > MAX_BITS:
        raise ValueError(f"an integer of {value.bit_length()} bits, more than {MAX_BITS}")


Free = Annotated[dict[str, Any], AfterValidator(_bounded)]
"""A mapping with any content."""


def _mapping(value: object, name: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{name} is not a mapping: {type(value).__name__}")
    return value


def _texts(value: object, name: str) -> None:
    if not all(isinstance(text, str) for text in _mapping(value, name).values()):
        raise ValueError(f"{name} is not a mapping of texts")


def provenance_parts(value: dict[str, Any]) -> dict[str, Any]:
    """The digests, the vLLM and the checkpoints of a provenance, as the certificate looks them up.

    Raises:
        ValueError: one of them has another type, or a version is too long.
    """
    for name, digest in _mapping(value.get("digests", {}), "digests").items():
        if name == "checkpoints" or not isinstance(digest, str):
            _texts(digest, f"digests.{name[:60]}")
    vllm = _mapping(value.get("vllm", {}), "vllm")
    named = {key: vllm.get(key, "") for key in ("version", "distribution")}
    if vllm.get("record_sha256") is not None:
        named |= {key: vllm.get(key) for key in ("version", "record_sha256")}
    _texts(named, "vllm")
    if (length := len(named["version"])) > MAX_VERSION:
        raise ValueError(f"vllm.version has {length} characters, more than {MAX_VERSION}")
    _texts(value.get("checkpoints", {}), "checkpoints")
    return value


def device_parts(value: dict[str, Any]) -> dict[str, Any]:
    """The host of a device and its GPUs, as reports and ``--resume`` look them up.

    Raises:
        ValueError: one of them has another type.
    """
    host = value.get("host")
    if host is None:
        return value
    gpus = _mapping(host, "host").get("gpus")
    if gpus is None:
        return value
    if not isinstance(gpus, list):
        raise ValueError(f"host.gpus is not a list: {type(gpus).__name__}")
    for number, gpu in enumerate(gpus):
        _mapping(gpu, f"host.gpus.{number}")
    return value


def asked_parts(value: dict[str, Any]) -> dict[str, Any]:
    """The options and paths of a run, as ``--resume`` and ``merge`` look them up.

    Raises:
        ValueError: one of them has another type.
    """
    _mapping(value.get("options", {}), "options")
    _texts(value.get("paths", {}), "paths")
    return value


def _device_read(value: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
    return device_parts(value) if info.mode == "json" else value


Provenance = Annotated[Free, AfterValidator(provenance_parts)]
"""Where a run, or one of its engines, came from."""

Device = Annotated[Free, AfterValidator(_device_read)]
"""A device and its host; checked where it is read."""

Asked = Annotated[Free, AfterValidator(asked_parts)]
"""The options of a run."""
