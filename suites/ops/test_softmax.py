"""Log-softmax as the sampler calls it, softmax, and the mean.

What makes it non-vacuous: with invariance off the same operators differ, or, where they compute each row by
itself in stock vLLM, too, a planted difference is seen by the same measurement.
"""


def test_softmax(cell, operators, check):
    operators(cell)
    check.conclude()
