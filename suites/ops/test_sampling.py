"""Top-k and top-p, and the tokens that seeded requests draw.

What makes it non-vacuous: with invariance off the same operators differ, or, where they compute each row by
itself in stock vLLM, too, a planted difference is seen by the same measurement.
"""


def test_sampling(cell, operators, check):
    operators(cell)
    check.conclude()
