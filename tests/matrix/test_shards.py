"""A plan in parts: every unit in one of them, the same every time, none much heavier than another."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bi_harness.errors import UsageError
from bi_harness.matrix.expand import expand
from bi_harness.matrix.select import Selection, select
from bi_harness.matrix.shards import MOST, Shard, narrowed_to, parts, shard_asked
from bi_harness.matrix.weights import unit_weights
from bi_harness.spec.load import Spec, default_paths, load_spec
from bi_harness.spec.types import MODES

weights = st.dictionaries(
    st.text("abc/0", min_size=1), st.integers(0, 1000).map(lambda n: n / 8), max_size=40
)
counts = st.integers(1, 60)


@pytest.fixture(scope="module")
def shipped() -> Spec:
    paths = default_paths(None, None, None)
    return load_spec(paths.models, paths.hardware, paths.suites)


def selection(spec: Spec, device: str, profile: str) -> Selection:
    plan = expand(spec, device, vllm_version="0.25.1", profile=profile)  # type: ignore[arg-type]
    return select(plan, spec)


@given(weights, counts)
def test_every_unit_is_in_one_part(given: dict[str, float], count: int) -> None:
    found = parts(given, count)
    assert len(found) == count
    assert sorted(unit for part in found for unit in part) == sorted(given)


@given(weights, counts)
def test_parts_are_in_the_order_of_the_plan(given: dict[str, float], count: int) -> None:
    order = list(given)
    for part in parts(given, count):
        assert list(part) == [unit for unit in order if unit in part]


@given(weights, counts)
def test_the_same_every_time(given: dict[str, float], count: int) -> None:
    assert parts(given, count) == parts(dict(given), count)


@given(weights, counts)
def test_no_part_is_much_heavier(given: dict[str, float], count: int) -> None:
    loads = [sum(given[unit] for unit in part) for part in parts(given, count)]
    heaviest = max(given.values(), default=0)
    assert max(loads) - min(loads) <= heaviest
    # Graham's bound, with the mean and the heaviest unit for what the best division cannot be below.
    rest = sorted(given.values(), reverse=True)
    least = max([sum(loads) / count, heaviest, *(2 * w for w in rest[count : count + 1])])
    assert max(loads) <= least * (4 / 3 - 1 / (3 * count)) + 1e-9


@given(weights)
def test_with_more_parts_than_units_each_has_its_own(given: dict[str, float]) -> None:
    found = parts(given, len(given) + 3)
    assert sorted(map(len, found)) == [0, 0, 0, *[1] * len(given)]


def test_the_heaviest_stands_alone() -> None:
    assert parts({"a": 1, "b": 1, "c": 5, "d": 1, "e": 1}, 2) == (("c",), ("a", "b", "d", "e"))
    assert parts({}, 2) == ((), ())


@pytest.mark.parametrize(("device", "profile"), [("h200", "nightly"), ("cpu", "smoke"), ("cpu", "nightly")])
@pytest.mark.parametrize("count", [2, 3, 7, 500])
def test_parts_of_a_real_plan(shipped: Spec, device: str, profile: str, count: int) -> None:
    whole = selection(shipped, device, profile)
    given = unit_weights(whole, shipped)
    found = [narrowed_to(whole, units) for units in parts(given, count)]
    cells = [planned for part in found for planned in part.plan.cells]
    assert len(cells) == len(whole.plan.cells)
    assert set(cells) == set(whole.plan.cells)
    assert [u for part in found for u in part.plan.units if u not in whole.plan.units] == []
    assert sum(len(part.plan.units) for part in found) == len(whole.plan.units)
    assert sum(part.running for part in found) == whole.running
    merged = {cell: checks for part in found for cell, checks in part.checks.items()}
    assert merged == dict(whole.checks)
    loads = [sum(given[unit.id] for unit in part.plan.units) for part in found]
    assert max(loads) - min(loads) <= max(given.values())


def test_what_rules_leave_out_weighs_nothing(shipped: Spec) -> None:
    whole = selection(shipped, "h200", "nightly")
    running = {unit.id for unit in whole.plan.units}
    for unit, weight in unit_weights(whole, shipped).items():
        assert (weight > 0) == (unit in running)


def test_default_weighs_as_compile_and_more_than_eager(shipped: Spec) -> None:
    plan = expand(
        shipped,
        "h200",
        vllm_version="0.33.0",
        profile="nightly",
        models=["qwen3-1.7b"],
        suites=["batch_invariance"],
        backends=["FLASH_ATTN"],
    )
    given = unit_weights(select(plan, shipped), shipped)
    weights = {mode: given[f"h200/qwen3-1.7b/FLASH_ATTN/tp1-dp1/{mode}"] for mode in MODES}
    assert weights["default"] == weights["compile"]
    assert weights["compile"] > weights["eager"] > 0


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("1/3", Shard(1, 3)),
        ("3/3", Shard(3, 3)),
        (" 2/4 ", Shard(2, 4)),
        ("1/1", None),
        ("007/9", Shard(7, 9)),
    ],
)
def test_a_shard_by_hand(text: str, found: Shard | None) -> None:
    assert shard_asked(text, {}) == found


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0/3", "there is no shard 0 of 3; the first is 1, the last is 3"),
        ("4/3", "there is no shard 4 of 3"),
        ("1/0", "there can be 1 to 999 shards"),
        (f"1/{MOST + 1}", "there can be 1 to 999 shards"),
        ("", "give I/N"),
        ("1", "give I/N"),
        ("-1/3", "give I/N"),
        ("1/3/4", "give I/N"),
        ("1.0/3", "give I/N"),
        ("a/b", "give I/N"),
        ("١/٣", "give I/N"),
        ("1/" + "9" * 5000, "give I/N"),
    ],
)
def test_no_shard(text: str, message: str) -> None:
    with pytest.raises(UsageError, match="--shard") as told:
        shard_asked(text, {})
    assert message in str(told.value)
    assert len(str(told.value)) < 200


def buildkite(job: str, jobs: str) -> dict[str, str]:
    return {"BUILDKITE_PARALLEL_JOB": job, "BUILDKITE_PARALLEL_JOB_COUNT": jobs}


def test_in_a_buildkite_step() -> None:
    assert shard_asked(None, buildkite("0", "3")) == Shard(1, 3)
    assert shard_asked(None, buildkite("2", "3")) == Shard(3, 3)
    assert shard_asked(None, buildkite("0", "1")) is None
    assert shard_asked("3/4", buildkite("0", "3")) == Shard(3, 4), "what is given wins"
    assert shard_asked("1/1", buildkite("0", "3")) is None
    for name in buildkite("0", "3"):
        assert shard_asked(None, {name: "1"}) is None, "one alone is none"


@pytest.mark.parametrize(("job", "jobs"), [("3", "3"), ("-1", "3"), ("x", "3"), ("", ""), ("0", "0")])
def test_buildkite_variables_that_cannot_be(job: str, jobs: str) -> None:
    with pytest.raises(UsageError, match="BUILDKITE_PARALLEL_JOB"):
        shard_asked(None, buildkite(job, jobs))
