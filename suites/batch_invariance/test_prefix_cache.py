"""Requests whose prefix comes from the prefix cache, against the same requests computed whole.

Prompts with a common beginning and of lengths around whole blocks: a hit then ends at a block's end, just
before or just after it, and reuses blocks that another request computed. Sources: vllm-project/vllm issues
40896 and 46592, sgl-project/sglang issue 34683.

What makes it non-vacuous: tokens that were taken from the cache (the scheduler's count), as many as blocks
of 128 tokens give at least; the batch ran together; and the control diverges.
"""

from dataclasses import replace

from bi_harness.workload.checkplan import ArmPlan, CheckPlan, together
from bi_harness.workload.requests import Member

LENGTHS = (129, 144, 145, 200, 256, 257, 300, 385, 513, 640)
STEPS, BLOCK = 12, 128


def arm(workload, subjects, number):
    """Each prompt once to fill the cache, then all of them together, then each once more."""
    cache = f"prefix-{number}"
    cold = tuple(replace(r, cache=cache, max_tokens=2) for r in subjects)
    warm = tuple(replace(r, cache=cache) for r in subjects)
    count = len(subjects)
    order = workload.shuffled(f"prefix-cache/{number}", count)
    return ArmPlan(
        name=f"filled, then together {number}",
        requests=(*warm, *cold),
        bursts=(
            *((Member(count + i),) for i in order),
            tuple(Member(i) for i in order),
        ),
        subjects=tuple(range(count)),
        batch_size=count,
    )


def plan(workload):
    lengths = [min(length, workload.longest_prompt) for length in LENGTHS]
    # Two families: what one prompt of a family leaves in the cache, the longer ones begin with.
    families = [workload.prompt(f"prefix-cache/{f}", max(lengths)) for f in range(2)]
    subjects = tuple(workload.request(families[i % 2][:length], STEPS) for i, length in enumerate(lengths))
    rounds = workload.rounds(1, len(subjects) * STEPS)
    arms = tuple(arm(workload, subjects, number) for number in range(rounds))
    alone = together("warm, alone", tuple(replace(r, cache="prefix-0") for r in subjects), 1)
    hits = sum((length - 1) // BLOCK * BLOCK for length in lengths)
    needs = (("cached_tokens", (rounds + 1) * hits),)
    return CheckPlan(subjects, (*arms, alone), needs=needs, planted="cached")


def test_prefix_cache(engine, control, workload, check):
    check.compare(engine, plan(workload))
    check.compare(control(), plan(workload))
    check.conclude()
