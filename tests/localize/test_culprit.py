"""The first module whose inputs are equal and whose output differs."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bi_harness.errors import EngineError
from bi_harness.localize.culprit import alike_from, differing, first_culprit, logits_equal, rows_of
from bi_harness.localize.seen import Seen, parse
from tests.localize.made import MODULES, record, run, seen, tensor, told

ALONE = [list(range(8)), [8], [9]]
COMPANY = [list(range(3)), list(range(3, 8)), [8], [9]]


def chunks(cuts: set[int]) -> list[list[int]]:
    edges = [0, *sorted(cuts), 10]
    return [list(range(a, b)) for a, b in pairwise(edges) if a < b]


@given(st.sets(st.integers(1, 9)))
def test_however_a_prefill_is_split_equal_rows_are_equal(cuts: set[int]) -> None:
    found = first_culprit(seen(ALONE), seen(chunks(cuts)))
    assert (found.kind, found.compared) == ("nothing", 10 * len(MODULES))


@given(st.sampled_from(MODULES), st.integers(0, 9), st.sets(st.integers(1, 9)))
def test_a_broken_module_is_found_where_it_first_breaks(name: str, position: int, cuts: set[int]) -> None:
    found = first_culprit(seen(ALONE), seen(chunks(cuts), {(name, position): 7}))
    assert (found.kind, found.name, found.position) == ("module", name, position)


@given(st.dictionaries(st.tuples(st.sampled_from(MODULES), st.integers(0, 9)), st.integers(1, 3), min_size=1))
def test_of_several_the_first_is_found(broken: dict[tuple[str, int], int]) -> None:
    # By position first: what a row depends on lies at earlier positions, or before it at its own.
    first = min(broken, key=lambda key: (key[1], MODULES.index(key[0])))
    found = first_culprit(seen(ALONE), seen(COMPANY, broken))
    assert (found.name, found.position) == first


def alike(alone: Seen, company: Seen, position: int) -> tuple[int, ...]:
    place = ("layers.0.proj", 0)
    return alike_from(rows_of(alone, place), *rows_of(company, place)[position])


@given(st.integers(0, 9), st.integers(1, 10), st.sets(st.integers(1, 9)))
def test_rows_behind_one_that_was_given_something_else_are_not_looked_at(
    begins: int, behind: int, cuts: set[int]
) -> None:
    steps = chunks(cuts)
    other = begins + behind
    broken = {("layers.0.proj", begins): 7, ("embed", other): 1}
    (step,) = (step for step in steps if begins in step)
    # Steps behind it carry the difference on by themselves; the call is that of this step alone.
    assert alike(seen(ALONE), seen(steps, broken), begins) == tuple(range(begins, min(other, step[-1] + 1)))


def test_a_row_that_was_not_computed_alone_ends_those_that_are_looked_at() -> None:
    company = seen([list(range(8))], {("layers.0.proj", 1): 7})
    assert alike(seen([list(range(4))]), company, 1) == (1, 2, 3)


def test_the_innermost_is_named_and_not_what_is_around_it() -> None:
    found = first_culprit(seen(ALONE), seen(COMPANY, {("layers.0.proj", 4): 1}))
    assert found.name == "layers.0.proj"
    called, other = differing(seen(ALONE), seen(COMPANY, {("layers.0.proj", 4): 1}))
    assert called == set(MODULES)
    assert {"layers.0", "layers.1", "(model)"} <= other
    assert "layers.0.norm" not in {n for n in other if n == "embed"}


def test_what_changes_outside_of_the_modules_in_a_module_is_told_of_that_module() -> None:
    found = first_culprit(seen(ALONE), seen(COMPANY, {("layers.1", 2): 1}))
    assert (found.kind, found.name, found.before) == ("module", "layers.1", "layers.1.norm")


def test_another_input_from_the_start_is_no_modules_fault() -> None:
    one = parse(told([record("embed", [0, 1], [5, 6], [50, 60]), record("(model)", [0, 1], [5, 6], [7, 8])]))
    other = parse(
        told([record("embed", [0, 1], [5, 9], [50, 90]), record("(model)", [0, 1], [5, 9], [7, 1])])
    )
    found = first_culprit(one, other)
    assert (found.kind, found.name, found.position, found.before) == ("inputs", "embed", 1, "")


def test_an_input_that_nothing_before_it_gave_lies_between_modules() -> None:
    one = parse(told([record("embed", [0], [5], [50]), record("layers.0.norm", [0], [51], [60])]))
    other = parse(told([record("embed", [0], [5], [50]), record("layers.0.norm", [0], [99], [61])]))
    found = first_culprit(one, other)
    assert (found.kind, found.name, found.before) == ("inputs", "layers.0.norm", "embed")


def test_another_input_that_makes_no_other_output_is_not_where_it_begins() -> None:
    def steps(hint: int, last: int) -> Any:
        first = record("embed", [0], [5], [50])
        return parse(
            told(
                [
                    first,
                    record("layers.0", [0], [hint], [60]),
                    record("layers.0.norm", [1], [3], [last], step=1),
                ]
            )
        )

    found = first_culprit(steps(1, 7), steps(2, 8))
    assert (found.kind, found.name, found.position) == ("module", "layers.0.norm", 1)
    found = first_culprit(steps(1, 7), steps(2, 7))
    assert (found.kind, found.name, found.position) == ("inputs", "layers.0", 0)


def test_what_the_sampler_is_given_of_others_is_no_difference() -> None:
    def sampled(*extra: Any) -> Any:
        call = record("(sampler)", [0], [5], [50])
        call["in"] += extra
        return parse(told([call]))

    from tests.localize.made import tensor

    assert first_culprit(sampled(), sampled(tensor([1], "1.temperature"))).kind == "nothing"


def test_a_prefix_that_was_not_computed_is_not_compared() -> None:
    found = first_culprit(seen(ALONE), seen([[6, 7], [8]], {("layers.0.proj", 7): 1}))
    assert (found.name, found.position, found.compared) == ("layers.0.proj", 7, 3 * len(MODULES))


def test_what_is_computed_a_second_time_is_compared_a_second_time() -> None:
    records = [*run([[0, 1]])["records"], *run([[0, 1]], {("layers.0.proj", 0): 1})["records"]]
    found = first_culprit(seen([[0, 1]]), parse(told(records)))
    assert (found.kind, found.name, found.position) == ("module", "layers.0.proj", 0)


def test_calls_of_one_module_are_told_apart() -> None:
    def calls(second: int) -> Any:
        return parse(told([record("embed", [0], [1], [2]), record("embed", [0], [2], [second], call=1)]))

    found = first_culprit(calls(3), calls(4))
    assert (found.name, found.call) == ("embed", 1)
    assert rows_of(calls(3), ("embed", 1))[0][0].made[0].rows.tolist() == [3]


def test_another_dtype_is_another_output() -> None:
    other = run(ALONE)
    for one in other["records"]:
        if one["name"] == "layers.1.norm":
            one["out"][0]["dtype"] = "float32"
    assert first_culprit(seen(ALONE), parse(other)).name == "layers.1.norm"


@pytest.mark.parametrize(
    "change",
    [
        {"records": [{"name": "x"}]},
        {"modules": 3},
        {"records": None},
        {"tp_rank": "first"},
        {"memory": 1},
        {"problems": []},
    ],
)
def test_nonsense_is_an_engines_error(change: dict[str, Any]) -> None:
    with pytest.raises(EngineError, match="makes no sense"):
        parse({**run([[0]]), **change})


def test_rows_that_are_missing_are_an_engines_error() -> None:
    whole = run([[0, 1]])
    whole["records"][0]["positions"] = [0, 1, 2]
    with pytest.raises(EngineError, match="rows of 3 tokens"):
        parse(whole)


@pytest.mark.parametrize("path", ["0.0", "1.logits"])
def test_logits_are_those_that_the_sampler_is_given(path: str) -> None:
    def sampled(logits: int, temperature: int) -> Any:
        one = record("(sampler)", [9], [logits], [logits])
        one["in"] = [tensor([logits], path), tensor([temperature], "1.temperature", shape=[1])]
        return parse(told([one]))

    assert logits_equal(sampled(5, 1), sampled(5, 2), 9)
    assert not logits_equal(sampled(5, 1), sampled(6, 1), 9)
    # Of another step nothing is known.
    assert not logits_equal(sampled(5, 1), sampled(5, 1), 8)
