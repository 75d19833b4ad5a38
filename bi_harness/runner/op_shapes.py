"""Shapes that nobody wrote down: Hypothesis draws them, and finds the smallest that fails.

Hypothesis lives here, with the harness; the operators are measured in the engine's process, a case at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from bi_harness.certificate.ops import HOLDS, found
from bi_harness.certificate.records import OpResult
from bi_harness.engine.ops_client import OpRecord
from bi_harness.errors import EngineError

Case = Callable[[Mapping[str, int], int], OpRecord]
"""Measures one shape at one batch size."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What is drawn.

    Attributes:
        examples: shapes to try at most; 0 for none.
        width: the largest of each size.
        rows: the largest batch.
        seed: the same one draws the same shapes.
    """

    examples: int
    width: int
    rows: int
    seed: int


def search(drawn: Mapping[str, int], limits: Limits, case: Case) -> OpResult:
    """Try drawn shapes, and where one fails, smaller ones.

    Args:
        drawn: of the sizes that are drawn, what each is a multiple of.
        case: measures one.

    Returns:
        All of them as one: the counts of all, or, where some fail, the smallest of these.

    Raises:
        EngineError: a shape could not be measured at all.
    """
    # Here: it is imported by every run, and most measure no operators.
    import hypothesis
    from hypothesis import strategies

    tried: list[tuple[Mapping[str, int], int, OpResult]] = []
    broken: list[EngineError] = []
    shapes = strategies.fixed_dictionaries(
        {
            name: strategies.integers(1, max(1, limits.width // least)).map(least.__mul__)
            for name, least in drawn.items()
        }
    )

    def holds(shape: Mapping[str, int], rows: int) -> None:
        if broken:
            return
        try:
            record = case(shape, rows)
            if record.error:
                raise EngineError(f"{record.result.op} of {dict(shape)}, {rows} rows: {record.error}")
        except EngineError as error:
            broken.append(error)
            return
        tried.append((shape, rows, record.result))
        assert found(record.result) == HOLDS

    test = hypothesis.given(shape=shapes, rows=strategies.integers(2, limits.rows))(holds)
    test = hypothesis.settings(
        max_examples=limits.examples,
        database=None,
        deadline=None,
        suppress_health_check=list(hypothesis.HealthCheck),
        phases=(hypothesis.Phase.generate, hypothesis.Phase.shrink),
        report_multiple_bugs=False,
    )(hypothesis.seed(limits.seed)(test))
    try:
        test()
    except AssertionError:
        pass  # the failing shapes are in ``tried``
    except hypothesis.errors.Flaky:
        pass  # an operator that differs one time and not the next: that it did is in ``tried``, too
    if broken:
        raise broken[0]
    return together(tried)


def together(tried: list[tuple[Mapping[str, int], int, OpResult]]) -> OpResult:
    """Drawn shapes as one result.

    Raises:
        EngineError: there are none.
    """
    if not tried:
        raise EngineError("no shape was drawn")
    wrong = [one for one in tried if found(one[2]) != HOLDS]
    if wrong:
        shape, rows, result = min(wrong, key=lambda one: (one[1], sorted(one[0].values())))
        sizes = ", ".join(f"{name} {size}" for name, size in shape.items())
        # What is smallest stands for all: its counts, under its shape.
        return result.model_copy(
            update={"shape": f"{sizes} and {rows} {result.unit}", "drawn": len(tried), "ranges": ()}
        )
    results = [one[2] for one in tried]
    first = results[0]
    return first.model_copy(
        update={
            "shape": f"{len(tried)} drawn shapes",
            "rows": sum(r.rows for r in results),
            "max_ulp": max(r.max_ulp for r in results),
            "repeated": sum(r.repeated for r in results),
            "unequal": sum(r.unequal for r in results),
            "distance": max(r.distance for r in results),
            "ranges": (),
            "drawn": len(tried),
        }
    )
