"""Which batches an operator is tried in."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from bi_harness.engine.ops.sizes import batches, ranges, row_counts

_sizes = st.integers(2, 5000)
_seeds = st.integers(0, 2**32)


@given(most=_sizes, sample=st.integers(0, 40), seed=_seeds)
def test_every_power_of_two_and_its_neighbours_are_among_the_sizes(most: int, sample: int, seed: int) -> None:
    counts = row_counts(most, sample, seed)
    assert list(counts) == sorted(set(counts))
    assert (counts[0], counts[-1]) == (1, most)
    wanted = {2**n + d for n in range(13) for d in (-1, 0, 1)}
    assert {n for n in wanted if 1 <= n <= most} <= set(counts)
    assert counts == row_counts(most, sample, seed)


def test_so_many_others_are_drawn() -> None:
    assert len(row_counts(4096, 20, 1)) == len(row_counts(4096, 0, 1)) + 20
    assert row_counts(4096, 20, 1) != row_counts(4096, 20, 2)
    assert {4095, 4096, 256, 255, 257} <= set(row_counts(4096, 0, 0))


@given(most=st.integers(2, 600), subjects=st.integers(2, 200), least=st.integers(1, 80), seed=_seeds)
def test_subjects_stand_where_there_is_room_and_everywhere(
    most: int, subjects: int, least: int, seed: int
) -> None:
    made = batches(row_counts(most, 3, seed), subjects=subjects, least=least, seed=seed, every=2)
    assert {b.rows for b in made} == set(row_counts(most, 3, seed))
    for batch in made:
        assert 1 <= len(batch.places) == len(batch.subjects) == len(set(batch.places)) <= batch.rows
        assert len(set(batch.subjects)) == len(batch.subjects)
        assert all(0 <= place < batch.rows for place in batch.places)
        assert all(0 <= subject < subjects for subject in batch.subjects)
        if batch.filler == "subjects":
            assert len(batch.places) == batch.rows
        elif batch.filler == "random":
            # The first, the middle and the last place are always among them.
            assert {0, batch.rows // 2, batch.rows - 1} <= set(batch.places) or subjects < 3
        else:
            assert batch.rows > len(batch.places)  # somebody stands beside
    for rows in {b.rows for b in made}:
        mine = [b for b in made if b.rows == rows and b.filler in ("random", "subjects")]
        assert sum(len(b.places) for b in mine) >= min(least, subjects)
    assert made == batches(row_counts(most, 3, seed), subjects=subjects, least=least, seed=seed, every=2)


@given(st.lists(st.booleans(), max_size=60))
def test_ranges_tell_every_size_once(outcomes: list[bool]) -> None:
    sizes = [(3 * i + 1, holds) for i, holds in enumerate(outcomes)]
    found = ranges(sizes)
    assert [(n, holds) for a, b, holds in found for n, _ in sizes if a <= n <= b] == sizes
    assert all(a[2] != b[2] and a[1] < b[0] for a, b in pairwise(found))
