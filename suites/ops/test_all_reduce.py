"""The sum over tensor parallel ranks, on every rank.

What makes it non-vacuous: with invariance off the same sum differs, or, where it takes each row by itself in
stock vLLM, too, a planted difference is seen by the same measurement.
"""


def test_all_reduce(cell, operators, check):
    operators(cell)
    check.conclude()
