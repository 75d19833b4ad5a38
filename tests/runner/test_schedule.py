"""Which units run side by side."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bi_harness.runner.schedule import Free, Need, following, place, taken

H200 = Free.of([140.0], 16)
TWO = Free.of([140.0, 140.0], 32)


def small(weight: float = 1.0) -> Need:
    return Need(gpus=1, gpu_gib=25.0, cores=4, weight=weight)


def test_units_share_a_gpu_as_far_as_its_memory_and_the_cores_go() -> None:
    running: dict[str, tuple[Need, tuple[int, ...]]] = {}
    waiting = {f"u{n}": small() for n in range(6)}
    while (found := following(waiting, running, H200, jobs=8)) is not None:
        running[found[0]] = (waiting.pop(found[0]), found[1])
    assert list(running) == ["u0", "u1", "u2", "u3"]  # 16 cores
    waiting = {"big": Need(gpus=1, gpu_gib=60.0, cores=1)}
    assert following(waiting, running, H200, jobs=8) is None  # 40 GiB left
    assert following(waiting, dict([*running.items()][:3]), H200, jobs=8) == ("big", (0,))


def test_the_longest_goes_first_and_the_plan_decides_between_equals() -> None:
    waiting = {"a": small(1), "b": small(5), "c": small(5)}
    assert following(waiting, {}, H200, jobs=1) == ("b", (0,))
    assert following(waiting, {"b": (small(5), (0,))}, H200, jobs=1) is None


def test_a_shorter_one_that_fits_does_not_wait_for_a_longer_one_that_does_not() -> None:
    waiting = {"pair": Need(2, 25.0, 4, weight=9), "one": small()}
    running = {"x": (Need(1, 130.0, 4), (0,))}
    assert following(waiting, running, TWO, jobs=4) == ("one", (1,))
    assert following({"pair": waiting["pair"]}, running, TWO, jobs=4) is None


def test_units_spread_over_the_gpus_first() -> None:
    assert place(small(), taken(TWO, small(), (0,))) == (1,)


def test_what_measures_memory_has_its_gpus_for_itself() -> None:
    alone = Need(gpus=1, gpu_gib=None, cores=4)
    assert place(alone, taken(H200, small(), (0,))) is None
    assert place(alone, taken(TWO, small(), (0,))) == (1,)
    assert place(small(), taken(H200, alone, (0,))) is None


def test_what_asks_for_more_than_there_is_runs_alone() -> None:
    """Whether it fits is vLLM's to say; never to run it would leave it without a result."""
    greedy = Need(gpus=1, gpu_gib=500.0, cores=64)
    assert place(greedy, H200) == (0,)
    assert place(small(), taken(H200, greedy, (0,))) is None
    with pytest.raises(ValueError, match="needs 2 GPUs, of 1"):
        place(Need(2, 1.0, 1), H200)


def test_on_a_cpu_only_the_cores_count() -> None:
    host = Free.of([], 8)
    need = Need(gpus=0, gpu_gib=0.0, cores=4)
    assert place(need, host) == ()
    assert place(need, taken(taken(host, need, ()), need, ())) is None


_needs = st.builds(
    Need,
    st.integers(0, 2),
    st.one_of(st.none(), st.floats(1, 200)),
    st.floats(0.5, 40),
    st.floats(0, 9),
)


@given(units=st.lists(_needs, max_size=12), jobs=st.integers(1, 6), ends=st.randoms(use_true_random=False))
def test_every_unit_runs_once_and_nothing_is_taken_twice(
    units: list[Need], jobs: int, ends: st.randoms
) -> None:  # type: ignore[valid-type]
    waiting = {f"u{n}": need for n, need in enumerate(units)}
    running: dict[str, tuple[Need, tuple[int, ...]]] = {}
    done: list[str] = []
    while waiting or running:
        found = following(waiting, running, TWO, jobs)
        if found is None:
            assert running, "everything waits and nothing runs"
            over = ends.choice(sorted(running))  # type: ignore[attr-defined]
            done.append(over)
            del running[over]
            continue
        unit, gpus = found
        need = waiting.pop(unit)
        assert len(set(gpus)) == need.gpus
        running[unit] = (need, gpus)
        assert len(running) <= jobs
        if len(running) > 1:
            assert sum(n.cores for n, _ in running.values()) <= TWO.cores
            for gpu in range(2):
                here = [n for n, on in running.values() if gpu in on]
                assert len(here) < 2 or all(n.gpu_gib is not None for n in here)
                assert len(here) < 2 or sum(n.gpu_gib or 0 for n in here) <= TWO.gpus[gpu]
    assert sorted(done) == sorted(f"u{n}" for n in range(len(units)))
