"""``release.yaml``: what must be certified before a release, and what counts as a certificate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from packaging.specifiers import Specifier, SpecifierSet
from packaging.version import Version
from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from bi_harness.errors import SpecError
from bi_harness.spec.load import load_data
from bi_harness.spec.types import (
    Backend,
    Flag,
    Fraction,
    Mode,
    Positive,
    Profile,
    Range,
    Size,
    SomeModes,
    SpecModel,
    Text,
    _as_list,
    _unique,
)
from bi_harness.spec.yamlsource import load_yaml

Name = Annotated[str, Field(strict=True, pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,199}$")]
"""An id of another checkout's YAML: this file stands alone, so it is not looked up here."""

Names = Annotated[
    tuple[Name, ...], BeforeValidator(_as_list), AfterValidator(_unique), Field(min_length=1, max_length=1000)
]
SomeBackends = Annotated[
    tuple[Backend, ...], BeforeValidator(_as_list), AfterValidator(_unique), Field(min_length=1)
]
Parallel = Annotated[str, Field(strict=True, pattern=r"^tp[1-9][0-9]{0,3}-dp[1-9][0-9]{0,3}$")]
SomeParallel = Annotated[
    tuple[Parallel, ...], BeforeValidator(_as_list), AfterValidator(_unique), Field(min_length=1)
]
Paths = Annotated[tuple[Text, ...], BeforeValidator(_as_list), AfterValidator(_unique), Field(min_length=1)]


class Needs(SpecModel):
    """One block of ``requires``: every combination of what it lists must be certified.

    A combination is met by one cell of one certificate that has everything it asks for: the device, model,
    suite and mode, the backend and parallel size where they are listed, all of ``checks``, and the policy's
    ``min_steps`` and ``max_age_days``. An axis that is left out asks for any one value of it. It never
    allows two cells to meet a combination together, and it does not excuse the other values: every cell of
    the combination that a certificate has, whatever its backend and parallel size, must not have failed.

    Attributes:
        devices, models, suites, modes: ids, as certificates have them.
        backends: attention backends, each of which must be certified. Left out: any one of them is enough.
        parallel: parallel sizes (``tp2-dp1``), each of which must be certified. Left out: any one of them is
            enough.
        checks: of the suite. The one cell must have each of them, and each must have passed there (or be
            waived, with ``allow_waivers``). Left out: all checks that the cell has; then a certificate of a
            part of a suite's checks (``run -k``) is not enough.
    """

    devices: Names
    models: Names
    suites: Names
    modes: SomeModes
    backends: SomeBackends | None = None
    parallel: SomeParallel | None = None
    checks: Names | None = None


class Policy(SpecModel):
    """The whole file. What it does not allow is not allowed.

    Attributes:
        schema_: version of this file's form (``schema``).
        requires: what must be certified.
        vllm: for which releases of vLLM (PEP 440). Builds of a release (``0.33.0+cu128``) are that release.
            Failures of pre-releases (``0.33.0rc1`` for ``>=0.33``) always count; for passes see
            ``allow_prereleases``. A pre-release of a release outside the range (``0.34.0rc1`` for ``<0.34``)
            counts neither way.
        keys: public keys, relative to this file's folder: one of them must have signed each certificate. A
            policy without them asks for no signature.
        max_age_days: how long ago each check that meets a requirement may have run. It is counted from the
            earliest time at which the check can have run: the start of the run, or of the last attempt that
            ran the check again. Failures count as long as the latest time that the certificate names is not
            older; those of a run without an end count at any age.
        profile: the least that must have run: ``smoke`` < ``nightly`` < ``release``.
        min_steps: decode steps that must have been compared in the cell that meets a requirement, over its
            checks.
        min_selftest_score: share of planted faults that each suite's self-test must have caught, without a
            false alarm, with the suite as it is.
        require_journal: whether each certificate must be computed again from its run's journal.
        allow_dirty: certificates of a bi-harness with changes that no commit has, or where that is not known.
        allow_waivers: checks that failed and were waived.
        allow_prereleases: passes of pre-releases that are in the range as PEP 440 orders them: ``0.33.1rc1``
            for ``>=0.33``, but not ``0.33.0rc1``, which comes before ``0.33``. A range that includes a
            pre-release by name (``>=0.33.0rc1``) allows them without this flag.
        allow_skips: checks that a rule left out, other than those named in ``checks`` (some must have passed
            all the same).
        allow_endpoint: certificates of a server whose configuration nobody verified.
        allow_synthetic: weights made on the spot in place of a model's own, and models cut in length.
    """

    schema_: Literal["bi-harness/policy/1"] = Field(default="bi-harness/policy/1", alias="schema")
    requires: Annotated[tuple[Needs, ...], Field(min_length=1, max_length=1000)]
    vllm: Range
    keys: Paths | None = None
    max_age_days: Annotated[Positive, Field(le=36_500)] | None = None
    profile: Profile = "smoke"
    min_steps: Size | None = None
    min_selftest_score: Fraction | None = None
    require_journal: Flag = False
    allow_dirty: Flag = False
    allow_waivers: Flag = False
    allow_skips: Flag = False
    allow_endpoint: Flag = False
    allow_prereleases: Flag = False
    allow_synthetic: Flag = False

    @model_validator(mode="after")
    def _of_bearable_size(self) -> Policy:
        if sum(1 for _ in self.requirements()) > MAX_REQUIREMENTS:
            raise ValueError(f"asks for more than {MAX_REQUIREMENTS} combinations")
        return self

    def requirements(self) -> tuple[Requirement, ...]:
        """Each combination that must be certified, in the file's order, each once."""
        found: dict[Requirement, None] = {}
        for needs in self.requires:
            for device in needs.devices:
                for model in needs.models:
                    for suite in needs.suites:
                        for mode in needs.modes:
                            for backend in needs.backends or (None,):
                                for parallel in needs.parallel or (None,):
                                    one = Requirement(
                                        device, model, suite, mode, backend, parallel, needs.checks
                                    )
                                    found[one] = None
                                    if len(found) > MAX_REQUIREMENTS:
                                        return tuple(found)
        return tuple(found)

    def speaks_of(self, vllm: str) -> bool:
        """Whether a failure with this release of vLLM counts: it, or the release that it precedes, is asked
        for. False for what is not a version: see ``parse_release``."""
        version = parse_release(vllm)
        if version is None:
            return False
        base = Version(version.base_version)
        ranges = tuple(SpecifierSet(self.vllm))
        # A range that names a pre-release tells those before it from those after it: nothing to round up.
        return _in_range(ranges, [version] * len(ranges)) or _in_range(
            ranges, [version if _names_prerelease(one) else base for one in ranges]
        )

    def accepts(self, vllm: str) -> bool:
        """Whether a pass with this release of vLLM counts."""
        version = parse_release(vllm)
        if version is None:
            return False
        ranges = tuple(SpecifierSet(self.vllm))
        if version.is_prerelease and not self.allow_prereleases:
            named = any(one.operator in _INCLUDING and _names_prerelease(one) for one in ranges)
            if not named:
                return False
        return _in_range(ranges, [version] * len(ranges))


def parse_release(vllm: str) -> Version | None:
    """The version of vLLM that a certificate names; ``None`` for what is not a version (PEP 440)."""
    if len(vllm) > MAX_RELEASE_CHARACTERS:
        return None  # Python converts no number of more than 4,300 digits.
    try:
        return Version(vllm)
    except ValueError:
        return None


def _in_range(ranges: Sequence[Specifier], versions: Sequence[Version]) -> bool:
    """Whether each version is in its range; pre-releases are as good as others."""
    pairs = zip(ranges, versions, strict=True)
    return all(one.contains(version, prereleases=True) for one, version in pairs)


def _names_prerelease(one: Specifier) -> bool:
    named = parse_release(one.version.removesuffix(".*"))
    return named is not None and named.is_prerelease


MAX_RELEASE_CHARACTERS = 200

_INCLUDING = ("==", "===", "~=", ">=", "<=")
"""Operators of ranges that include the version that they name."""

MAX_REQUIREMENTS = 100_000


@dataclass(frozen=True, slots=True)
class Requirement:
    """One combination that must be certified, by one cell: see ``Needs``.

    Attributes:
        backend, parallel: ``None`` for any one.
        checks: ``None`` for all that the cell has.
    """

    device: str
    model: str
    suite: str
    mode: Mode
    backend: str | None = None
    parallel: str | None = None
    checks: tuple[str, ...] | None = None

    @property
    def id(self) -> str:
        """As a cell's id, with ``*`` for any: ``h200/qwen3-1.7b/*/*/compile/batch_invariance``."""
        return "/".join(
            (self.device, self.model, self.backend or "*", self.parallel or "*", self.mode, self.suite)
        )


def load_policy(path: Path) -> tuple[Policy, str]:
    """The policy, and ``sha256:...`` of its file.

    Raises:
        SpecError: something is wrong in it; the message has one line for each problem, with file and line.
    """
    policy = load_data(path, Policy)
    return policy, load_yaml(path).digest


__all__ = ["Needs", "Policy", "Requirement", "SpecError", "load_policy", "parse_release"]
