"""The upper bound of a rate, against scipy's exact interval and the closed form for zero."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from bi_harness.compare.power import upper_bound_95


@given(st.integers(1, 10**9))
def test_zero_of_n_has_a_closed_form(compared: int) -> None:
    assert upper_bound_95(0, compared) == pytest.approx(1 - 0.05 ** (1 / compared), rel=1e-6, abs=1e-15)


@given(st.integers(1, 3000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_it_is_the_exact_one_sided_bound(counts: tuple[int, int]) -> None:
    differing, compared = counts
    exact = binomtest(differing, compared, alternative="less").proportion_ci(0.95, "exact").high
    assert upper_bound_95(differing, compared) == pytest.approx(exact, rel=1e-9)


@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_it_lies_above_the_rate_and_falls_with_more_trials(counts: tuple[int, int]) -> None:
    differing, compared = counts
    bound = upper_bound_95(differing, compared)
    assert differing / compared <= bound <= 1
    assert upper_bound_95(differing, compared + 1) <= bound


def test_nothing_compared_bounds_nothing() -> None:
    assert upper_bound_95(0, 0) == 1.0


@pytest.mark.parametrize(("differing", "compared"), [(-1, 3), (4, 3), (0, -1), (1, 0)])
def test_what_is_no_count_is_refused(differing: int, compared: int) -> None:
    with pytest.raises(ValueError, match="not a count"):
        upper_bound_95(differing, compared)
