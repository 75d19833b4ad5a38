"""How much a suite of single operators tries, from a profile of its ``suite.yaml``."""

from __future__ import annotations

from dataclasses import dataclass, fields
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
        where = f"suites/{suite.id}/suite.yaml: profiles.{profile}"
        params = dict(suite.profiles).get(profile)  # type: ignore[call-overload]
        if params is None:
            raise SpecError(f"{where}: the suite has no such profile; it has {', '.join(suite.profiles)}")
        names = [field.name for field in fields(Amount)]
        given = dict(params)
        if odd := sorted(given.keys() ^ set(names)):
            raise SpecError(f"{where}: {odd[0]} is {'unknown' if odd[0] in given else 'missing'}")
        for key, value in given.items():
            least = 0 if key in ("sample", "all_dtypes", "drawn") else 2
            if type(value) is not int or value < least:
                raise SpecError(f"{where}: {key} must be a whole number from {least}; it is {value!r}")
        return Amount(**{**given, "all_dtypes": bool(given["all_dtypes"])})

    def effort(self, seed: int) -> dict[str, Any]:
        """What the process that measures is told (``engine.ops_probe.Effort``)."""
        names = ("subjects", "least", "most_rows", "told_rows", "sample", "every", "all_dtypes")
        return {**{n: getattr(self, n) for n in names}, "seed": seed}
