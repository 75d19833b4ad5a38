"""RMSNorm, with a residual, over heads, the C++ kernels below, and those fused with FP8 quantization.

What makes it non-vacuous: with invariance off the same operators differ, or, where they compute each row by
itself in stock vLLM, too, a planted difference is seen by the same measurement.
"""


def test_norm(cell, operators, check):
    operators(cell)
    check.conclude()
