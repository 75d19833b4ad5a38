"""The same check at several parallel sizes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bi_harness.certificate.axes import across, unequal
from bi_harness.certificate.build import build
from bi_harness.certificate.records import CheckResult
from bi_harness.certificate.verdict import verdict
from tests.certificate.journals import JOURNAL, evidence, planned, result, sound

A, B = ("sha256:" + letter * 64 for letter in "ab")


def at(tp: int, dp: int, digest: str = A, check: str = "eagle", **changes: object) -> CheckResult:
    cell = f"cpu/tiny/CPU_ATTN/tp{tp}-dp{dp}/eager/eagle_dp"
    return result(check=check, cell=cell, evidence=evidence(digest=digest), **changes)


def names(results: list[CheckResult]) -> list[tuple[str, bool]]:
    return [(axis.name, axis.equal) for axis in across(results)]


def test_one_size_has_nothing_to_be_compared_with() -> None:
    assert across([at(1, 1), at(1, 1, check="ngram")]) == ()


def test_data_parallel_sizes_must_agree() -> None:
    (axis,) = across([at(1, 1), at(1, 2)])
    assert (axis.name, axis.required, axis.equal) == ("dp_digest_equal", True, True)
    assert axis.cells == (at(1, 1).cell, at(1, 2).cell)
    assert unequal([axis]) == ""
    (axis,) = across([at(1, 1), at(1, 2, B)])
    assert "eagle has other bits on cpu/tiny/CPU_ATTN/tp1-dp2" in unequal([axis])


def test_tensor_parallel_sizes_are_information() -> None:
    axes = across([at(1, 1), at(2, 1, B)])
    assert [(a.name, a.required, a.equal) for a in axes] == [("tp_digest_equal", False, False)]
    assert unequal(axes) == ""


def test_each_size_is_compared_with_the_smallest() -> None:
    assert names([at(1, 4, B), at(1, 2), at(1, 1)]) == [("dp_digest_equal", False), ("dp_digest_equal", True)]
    found = across([at(1, 1), at(1, 2), at(2, 1), at(2, 2)])
    assert [(a.name, [cell.split("/")[3] for cell in a.cells]) for a in found] == [
        ("dp_digest_equal", ["tp1-dp1", "tp1-dp2"]),
        ("tp_digest_equal", ["tp1-dp1", "tp2-dp1"]),
        ("dp_digest_equal", ["tp2-dp1", "tp2-dp2"]),
        ("tp_digest_equal", ["tp1-dp2", "tp2-dp2"]),
    ]


def test_other_checks_models_and_modes_are_others() -> None:
    other = at(1, 2, B)
    for old, new in (("tiny", "large"), ("eager", "compile"), ("CPU_ATTN", "FLEX"), ("eagle_dp", "nvfp4")):
        moved = other.model_copy(update={"cell": other.cell.replace(old, new)})
        assert across([at(1, 1), moved]) == ()
    assert across([at(1, 1), at(1, 2, check="ngram")]) == ()


def test_what_was_not_compared_is_left_out() -> None:
    without = at(1, 2).model_copy(update={"status": "error", "evidence": None})
    assert across([at(1, 1), without]) == ()


def test_a_reference_that_differs_is_a_difference() -> None:
    other = at(1, 2).model_copy(update={"evidence": evidence(digest=A, reference_digest=B)})
    assert names([at(1, 1), other]) == [("dp_digest_equal", False)]


SIZES = st.sampled_from([1, 2, 4])


@given(st.lists(st.tuples(SIZES, SIZES, st.sampled_from([A, B])), unique_by=lambda t: t[:2]))
def test_a_required_difference_is_never_certified(cells: list[tuple[int, int, str]]) -> None:
    results = [at(tp, dp, digest) for tp, dp, digest in cells]
    axes = across(results)
    got, why = verdict(results, complete=True, axes=axes)
    if any(axis.required and not axis.equal for axis in axes):
        assert (got, "parallel sizes differ" in why) == ("NOT_CERTIFIED", True)
    else:
        assert got == ("CERTIFIED" if results else "INCONCLUSIVE")


def test_the_certificate_has_them_and_its_verdict_follows() -> None:
    for digest, wanted in ((A, "CERTIFIED"), (B, "NOT_CERTIFIED")):
        results = (at(1, 1), at(1, 2, digest))
        plan = tuple(planned("eagle", cell=r.cell) for r in results)
        told = build(sound(*results, plan=plan), JOURNAL).predicate.bi_harness
        assert told.verdict == wanted
        assert [axis.equal for axis in told.axes] == [digest == A]


def test_ten_thousand_checks_take_no_longer_each_than_ten() -> None:
    import time

    from tests.certificate.journals import result as passed

    many = [
        passed(check=f"check_{i % 20}", cell=f"h200/model-{i // 80}/B/tp{1 + i // 20 % 4}-dp1/eager/s")
        for i in range(8_000)
    ]
    started = time.process_time()
    found = across(many)
    assert time.process_time() - started < 5.0  # it took minutes when it looked for each among all
    assert len(found) == 6_000
    assert all(axis.equal for axis in found)
