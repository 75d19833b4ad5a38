"""Which NVFP4 linear kernel vLLM takes, in every combination of what users set and what hosts support.

Asked of vLLM's own selection function, so that it runs on any host: `selection.yaml` has the cases, and which
kernel is right by release. Sources: vllm-project/vllm pull requests 39129 and 39820.

What makes it non-vacuous: with `VLLM_BATCH_INVARIANT=0`, the same cases must give other kernels.
"""


def test_selection(cell, kernel_choice, check):
    kernel_choice(cell)
    check.conclude()
