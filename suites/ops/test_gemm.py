"""Matrix products: the linear layers and the `lm_head` through vLLM's own methods, and torch's products.

The latter are replaced by the batch-invariant mode on GPUs, and judged there alone.

What makes it non-vacuous: with invariance off the same operators differ, or, where they compute each row by
itself in stock vLLM, too, a planted difference is seen by the same measurement.
"""


def test_gemm(cell, operators, check):
    operators(cell)
    check.conclude()
