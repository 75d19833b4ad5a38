"""Rows of requests, known by request and position, compared alone and together. Pure but for the digests."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bi_harness.engine.modules.sequences import Compared, Place, Row, Steps, compare, digest_of_prompt


def rows(request: bytes, outs: str, *, ins: str = "", company: int = 1, step: int = 4) -> dict[Place, Row]:
    """One row a letter: what came out, and what went in (by default the same for all)."""
    return {
        (request, i): Row((ins or "." * len(outs))[i].encode(), out.encode(), step, i, company)
        for i, out in enumerate(outs)
    }


def test_the_same_bits_hold() -> None:
    found = compare(rows(b"a", "xyz"), rows(b"a", "xyz", company=3, step=9))
    assert (found.rows, found.differing, found.first, found.sizes) == (3, 0, None, {9: (3, 0)})


def test_other_bits_for_the_same_history_differ() -> None:
    found = compare(rows(b"a", "xyz"), rows(b"a", "xYz", company=3, step=9))
    assert (found.rows, found.differing, found.first) == (3, 1, (9, 1))


def test_from_the_first_row_that_went_in_otherwise_nothing_is_compared() -> None:
    found = compare(rows(b"a", "xyz", ins="abc"), rows(b"a", "xYZ", ins="aBc", company=3))
    assert (found.rows, found.differing) == (1, 0)


def test_a_request_that_does_not_begin_at_its_beginning_is_not_compared() -> None:
    together = {k: v for k, v in rows(b"a", "xyz", company=2).items() if k[1] > 0}
    assert compare(rows(b"a", "xyz"), together).rows == 0


def test_company_is_what_is_compared_with_being_alone() -> None:
    assert compare(rows(b"a", "xyz"), rows(b"a", "xyz")).rows == 0
    assert compare(rows(b"a", "xyz", company=2), rows(b"a", "xyz", company=2)).rows == 0


def test_another_request_is_not_the_same() -> None:
    assert compare(rows(b"a", "xyz"), rows(b"b", "xyz", company=2)).rows == 0


def test_a_turned_bit_is_seen() -> None:
    together = rows(b"a", "xyz", company=2)
    place = (b"a", 2)
    row = together[place]
    together[place] = Row(row.into, row.out, row.step, row.at, row.company, planted=b"?")
    assert compare(rows(b"a", "xyz"), together).differing == 0
    assert compare(rows(b"a", "xyz"), together, planted=True).differing == 1


@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("xy"), st.sampled_from("xy")), max_size=6))
def test_it_counts_rows_up_to_the_first_other_input(parts: list[tuple[str, str, str]]) -> None:
    alone = rows(b"r", "".join(p[1] for p in parts), ins="a" * len(parts))
    together = rows(b"r", "".join(p[2] for p in parts), ins="".join(p[0] for p in parts), company=2)
    until = next((i for i, p in enumerate(parts) if p[0] != "a"), len(parts))
    found = compare(alone, together)
    assert found.rows == until
    assert found.differing == sum(a != b for _, a, b in parts[:until])
    assert (found.first is None) == (found.differing == 0)


def test_sums_keep_the_smallest_step_and_each_size() -> None:
    total = Compared()
    total.add(Compared(3, 1, (9, 2), {9: (3, 1)}))
    total.add(Compared(2, 1, (4, 0), {4: (1, 1), 9: (1, 0)}))
    assert (total.rows, total.differing, total.first) == (5, 2, (4, 0))
    assert total.sizes == {9: (4, 1), 4: (1, 1)}


class Runner:
    def __init__(self) -> None:
        self.input_batch = SimpleNamespace(req_ids=["b", "a"])
        self.ran: list[Any] = []

    def execute_model(self, output: Any) -> str:
        self.ran.append(output)
        return "done"


def output(tokens: dict[str, int], new: dict[str, int], cached: dict[str, int]) -> Any:
    return SimpleNamespace(
        num_scheduled_tokens=tokens,
        scheduled_new_reqs=[
            SimpleNamespace(req_id=r, prompt_token_ids=[ord(r)], num_computed_tokens=n)
            for r, n in new.items()
        ],
        scheduled_cached_reqs=SimpleNamespace(
            req_ids=list(cached), num_computed_tokens=list(cached.values())
        ),
    )


def test_each_row_of_a_step_is_told_in_the_runners_own_order() -> None:
    runner = Runner()
    steps = Steps(runner)
    assert runner.execute_model(output({"a": 2, "b": 1}, {"a": 0, "b": 0}, {})) == "done"
    a, b = digest_of_prompt([ord("a")]), digest_of_prompt([ord("b")])
    assert steps.places() == [(b, 0), (a, 0), (a, 1)]
    runner.execute_model(output({"a": 1, "b": 3}, {}, {"a": 2, "b": 1}))
    assert steps.places() == [(b, 1), (b, 2), (b, 3), (a, 2)]
    steps.close()
    runner.execute_model(output({"a": 1}, {}, {"a": 9}))
    assert steps.places()[-1] == (a, 2), "it looks on no longer"
    assert len(runner.ran) == 3


class SecondRunner:
    """As vLLM's second model runner: its batch is made for each step, and handed on."""

    def __init__(self) -> None:
        self.ran: list[Any] = []

    def prepare_inputs(self, output: Any, described: Any) -> Any:
        tokens = output.num_scheduled_tokens
        return SimpleNamespace(req_ids=sorted(tokens, key=lambda name: tokens[name]), described=described)

    def execute_model(self, output: Any) -> str:
        self.ran.append(self.prepare_inputs(output, "any"))
        return "done"


def test_a_runner_that_makes_a_batch_for_each_step_tells_its_order_too() -> None:
    runner = SecondRunner()
    steps = Steps(runner)
    runner.execute_model(output({"a": 2, "b": 1}, {"a": 0, "b": 0}, {}))
    a, b = digest_of_prompt([ord("a")]), digest_of_prompt([ord("b")])
    assert steps.places() == [(b, 0), (a, 0), (a, 1)]
    runner.execute_model(output({"a": 1, "b": 3}, {}, {"a": 2, "b": 1}))
    assert steps.places() == [(a, 2), (b, 1), (b, 2), (b, 3)]
    assert [made.described for made in runner.ran] == ["any", "any"]
    steps.close()
    assert vars(runner) == {"ran": runner.ran}


def test_a_runner_with_other_requests_than_were_scheduled_is_refused() -> None:
    runner = Runner()
    steps = Steps(runner)
    runner.execute_model(output({"a": 1}, {"a": 0}, {}))
    with pytest.raises(LookupError, match="Runner does not tell the order of its batch"):
        steps.places()
    del runner.input_batch
    with pytest.raises(LookupError):
        steps.places()


def test_digests_are_of_bits_row_by_row() -> None:
    torch = pytest.importorskip("torch")
    from bi_harness.engine.modules.sequences import digests

    x = torch.tensor([[0.0, 1.0], [-0.0, 1.0], [0.0, 1.0]], dtype=torch.bfloat16)
    one, other, same = digests([x, None, torch.ones(2)], 3)
    assert one == same != other
    # A padded step has more rows than tokens.
    assert digests([x], 2) == digests([x[:2]], 2)
    assert digests([x], 1, turned=True) != digests([x], 1)
    # What has another number of rows is none of theirs.
    assert digests([x, torch.ones(2)], 3) == digests([x], 3)
    for values in ([], [torch.ones(())], [torch.ones(2)], [None]):
        with pytest.raises(LookupError, match="no tensor with a row for each of 3"):
            digests(values, 3)
