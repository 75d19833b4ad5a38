"""``suites/nvfp4/selection.yaml``: which NVFP4 linear kernel is right, by release and host."""

from __future__ import annotations

from typing import Annotated, Any

from packaging.specifiers import SpecifierSet
from packaging.version import Version
from pydantic import Field, model_validator

from bi_harness.spec.types import Environment, Range, SpecModel, Text

KernelName = Annotated[str, Field(strict=True, pattern=r"^[A-Za-z]\w*Kernel$")]


def _covers(releases: str, release: Version) -> bool:
    # A release's candidates count as the release.
    return release.base_version in SpecifierSet(releases)


class Override(SpecModel):
    """A setting that a user may combine with ``VLLM_BATCH_INVARIANT``.

    Attributes:
        name: for reports.
        env: environment variables.
        kernel_config: fields of ``vllm.config.KernelConfig``, as the command line's flags set them.
        vllm: the releases that know the setting; ``None`` for all.
        source: where ``vllm`` comes from. Required with ``vllm``.
    """

    name: Text
    env: Environment = Field(default_factory=dict)
    kernel_config: dict[str, Any] = Field(default_factory=dict)
    vllm: Range | None = None
    source: Text | None = None

    @model_validator(mode="after")
    def _sets_something(self) -> Override:
        if not self.env and not self.kernel_config:
            raise ValueError("sets nothing: give env or kernel_config")
        if self.vllm is not None and self.source is None:
            raise ValueError(f"{self.name} has a version range without a source")
        return self

    def known_to(self, release: Version) -> bool:
        """Whether that release knows it."""
        return self.vllm is None or _covers(self.vllm, release)


class Table(SpecModel):
    """What is right in some releases.

    Attributes:
        vllm: the releases.
        source: where that is from.
        right: the kernel, by host.
    """

    vllm: Range
    source: Text
    right: dict[str, KernelName] = Field(min_length=1)


class SelectionSpec(SpecModel):
    """The whole file.

    Attributes:
        hosts: by name, the kernels that are supported there. No two hosts have the same.
        tables: the first whose range a release is in counts.
        variables, flags: each of the first is tried with each of the second.
        unknown: names that vLLM has to refuse, listing those that it knows.
        weight_only_refused: the releases that refuse weight-only checkpoints under batch invariance.
    """

    hosts: dict[str, tuple[KernelName, ...]] = Field(min_length=1)
    tables: tuple[Table, ...] = Field(min_length=1)
    variables: tuple[Override, ...] = ()
    flags: tuple[Override, ...] = ()
    unknown: tuple[Override, ...] = ()
    weight_only_refused: Range | None = None

    @model_validator(mode="after")
    def _every_host_has_one(self) -> SelectionSpec:
        kernels = [frozenset(supported) for supported in self.hosts.values()]
        if len(set(kernels)) < len(kernels):
            raise ValueError("two hosts have the same kernels, so their cases are the same")
        for table in self.tables:
            if table.right.keys() != self.hosts.keys():
                raise ValueError(
                    f"the table for {table.vllm} must have a right kernel for each host: "
                    f"{', '.join(self.hosts)}"
                )
            for host, kernel in table.right.items():
                if kernel not in self.hosts[host]:
                    raise ValueError(f"{kernel} is right on {host} and not supported there")
        names = [o.name for o in (*self.variables, *self.flags, *self.unknown)]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"{min(twice)} is there twice")
        return self

    def refuses_weight_only(self, release: Version) -> bool:
        """Whether that release refuses weight-only checkpoints under batch invariance."""
        return self.weight_only_refused is not None and _covers(self.weight_only_refused, release)

    def table(self, release: Version) -> Table | None:
        """The table of a release; ``None`` where there is none. Candidates count as their release."""
        for table in self.tables:
            if _covers(table.vllm, release):
                return table
        return None
