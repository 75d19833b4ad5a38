"""How much is tried of single operators, and of modules, from a profile of a ``suite.yaml``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from bi_harness.errors import SpecError
from bi_harness.spec.suites import SuiteSpec


@dataclass(frozen=True, slots=True)
class Amount:
    """How much is tried.

    Attributes:
        subjects: rows that are compared with themselves alone.
        least: rows compared at each batch size, at least.
        most_rows: the largest batch; told_rows: of what is told and not judged.
        sample: batch sizes besides the powers of two and their neighbours.
        every: each so-many-th batch size has neighbours of zeros and of large values, too.
        all_dtypes: whether dtypes that the model's engines do not have are measured, too.
        drawn: shapes that are drawn for an operator.
        drawn_width, drawn_rows: their largest size and batch.
    """

    subjects: int
    least: int
    most_rows: int
    told_rows: int
    sample: int
    every: int
    all_dtypes: bool
    drawn: int
    drawn_width: int
    drawn_rows: int

    @staticmethod
    def of(suite: SuiteSpec, profile: str) -> Amount:
        """From a profile of the suite.

        Raises:
            SpecError: the suite has not the profile, or a parameter is missing, unknown or no whole number.
        """
        names = [field.name for field in fields(Amount)]
        given = _numbers(suite, profile, names, from_zero=("sample", "all_dtypes", "drawn"))
        return Amount(**{**given, "all_dtypes": bool(given["all_dtypes"])})

    def effort(self, seed: int) -> dict[str, Any]:
        """What the process that measures is told (``engine.ops_probe.Effort``)."""
        names = ("subjects", "least", "most_rows", "told_rows", "sample", "every", "all_dtypes")
        return {**{n: getattr(self, n) for n in names}, "seed": seed}


@dataclass(frozen=True, slots=True)
class ModuleAmount:
    """How much is tried of each type of module; its profile has the workload's parameters beside these.

    Attributes:
        subjects, least, most_rows, sample, every: as ``Amount``, of one instance of each type.
        others_subjects, others_rows: rows compared, and the largest batch, of its other instances.
    """

    subjects: int
    least: int
    most_rows: int
    sample: int
    every: int
    others_subjects: int
    others_rows: int

    @staticmethod
    def of(suite: SuiteSpec, profile: str) -> ModuleAmount:
        """From a profile of the suite.

        Raises:
            SpecError: the suite has not the profile, or a parameter is missing or no whole number.
        """
        names = [field.name for field in fields(ModuleAmount)]
        return ModuleAmount(**_numbers(suite, profile, names, from_zero=("sample",), others=True))

    def effort(self, seed: int) -> dict[str, Any]:
        """What the engine's process is told (``engine.modules.audit``)."""
        return {**asdict(self), "seed": seed}


def _numbers(
    suite: SuiteSpec, profile: str, names: Sequence[str], *, from_zero: Sequence[str], others: bool = False
) -> dict[str, Any]:
    """The whole numbers of a profile.

    Args:
        from_zero: those that may be 0; the others are 2 at least.
        others: whether the profile has parameters beside these.

    Raises:
        SpecError: the suite has not the profile, or a parameter is missing, unknown or no whole number.
    """
    where = f"suites/{suite.id}/suite.yaml: profiles.{profile}"
    params = dict(suite.profiles).get(profile)  # type: ignore[call-overload]
    if params is None:
        raise SpecError(f"{where}: the suite has no such profile; it has {', '.join(suite.profiles)}")
    given = {key: value for key, value in dict(params).items() if not others or key in names}
    if odd := sorted(given.keys() ^ set(names)):
        raise SpecError(f"{where}: {odd[0]} is {'unknown' if odd[0] in given else 'missing'}")
    for key, value in given.items():
        least = 0 if key in from_zero else 2
        if type(value) is not int or value < least:
            raise SpecError(f"{where}: {key} must be a whole number from {least}; it is {value!r}")
    return given
