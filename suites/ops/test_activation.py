"""SiLU and product, the activation of gated feed-forward layers.

What makes it non-vacuous: with invariance off the same operators differ, or, where they compute each row by
itself in stock vLLM, too, a planted difference is seen by the same measurement.
"""


def test_activation(cell, operators, check):
    operators(cell)
    check.conclude()
