"""Every module of the loaded model by itself: fed real rows in batches of every size, or, where it keeps
something between tokens, compared while the same requests run alone and together.

It finds an override that was forgotten in one module even where the requests' logprobs happen to agree.

What makes it non-vacuous: every type with weights and every norm must have been audited; with invariance off
modules of the same types differ, or, where they compute each row by itself in stock vLLM, too, a planted
difference is seen by the same measurement.
"""


def test_modules(engine, control, modules, check):
    modules(engine)
    modules(control())
    check.conclude()
