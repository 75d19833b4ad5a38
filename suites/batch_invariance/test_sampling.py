"""Seeded sampling with temperature, top-p, top-k, penalties and n > 1, alone and in batches up to the
largest.

A seeded request has a random stream of its own, which no other request of the batch may move. The sequences
of a request with n > 1 have the seeds that follow its own, so each has a request alone to be compared with.

The compared logprobs are those that the token is sampled from, after penalties, temperature and masks. A mask
that keeps one token more or less changes all of them; in the sampled tokens it shows once in thousands of
steps. Samplers take another kernel from some number of rows on: 8 in vLLM 0.25 (vllm-project/vllm pull
request 50979), 65 in 0.33 (apply_top_k_top_p_triton splits top-p over several programs up to 64 rows). So
there are batches on both sides.

What makes it non-vacuous: the whole batch ran together, and the control diverges.
"""

from dataclasses import replace

from bi_harness.workload.checkplan import ArmPlan, CheckPlan, together
from bi_harness.workload.requests import Member

SETTINGS = (
    {"temperature": 1.0},
    {"temperature": 0.8, "top_p": 0.9},
    {"temperature": 0.8, "top_k": 40},
    {"temperature": 1.2, "top_p": 0.95, "top_k": 100},
    {"temperature": 0.7, "presence_penalty": 0.5},
    {"temperature": 0.9, "repetition_penalty": 1.1, "top_p": 0.8},
    {"temperature": 1.0, "min_p": 0.02},
    {"temperature": 0.8, "frequency_penalty": 0.4, "top_k": 50},
)
SEQUENCES = 2
ROWS = (9, 33, 65, 129, 257)
"""Rows of a batch, one over where samplers may take another kernel; those above an engine's limit are left
out."""


def plan(workload):
    parents = tuple(
        replace(workload.requests[i], seed=seed(workload, i), n=SEQUENCES, processed=True, **setting)
        for i, setting in enumerate(SETTINGS)
    )
    subjects = tuple(replace(p, n=1, seed=p.seed + i) for p in parents for i in range(SEQUENCES))
    count = len(subjects)
    rounds = workload.rounds(1, 3 * count * subjects[0].max_tokens)
    arms = [arm for number in range(rounds) for arm in round_of(workload, subjects, parents, number)]
    sizes = sorted({*(size for size in ROWS if size <= workload.max_batch), workload.max_batch})
    return CheckPlan(subjects, (*arms, *(in_rows(workload, subjects, size) for size in sizes)))


def seed(workload, number):
    return workload.seed * 7919 + 10 * number


def in_rows(workload, subjects, size):
    """All subjects in batches of exactly so many rows; of the neighbours that fill it up every second one
    samples."""
    count = len(subjects)
    if size <= count:
        return together(f"{size} rows", subjects, size)
    neighbours = [
        replace(
            workload.neighbour(f"sampling/rows/{size}/{i}", 3 + 5 * i % 23),
            **({"seed": seed(workload, 100 + i), **SETTINGS[i // 2 % len(SETTINGS)]} if i % 2 else {}),
        )
        for i in range(size - count)
    ]
    return ArmPlan(
        name=f"{size} rows",
        requests=(*subjects, *neighbours),
        bursts=(tuple(Member(index) for index in workload.shuffled(f"sampling/rows/{size}", size)),),
        subjects=tuple(range(count)),
        batch_size=size,
    )


def round_of(workload, subjects, parents, number):
    count = len(subjects)
    greedy = tuple(workload.neighbour(f"sampling/{number}/{i}", 20 + 11 * i) for i in range(count))
    # Greedy and sampled rows in turn: a sampler that walks the rows must skip as many as it should.
    yield ArmPlan(
        name=f"between greedy neighbours {number}",
        requests=(*subjects, *greedy),
        bursts=(tuple(Member(index) for i in range(count) for index in (count + i, i)),),
        subjects=tuple(range(count)),
        batch_size=2 * count,
    )
    yield together(f"order {number}", subjects, count, workload.shuffled(f"sampling/{number}", count)[::-1])
    order = workload.shuffled(f"sampling/n/{number}", len(parents) + count)
    yield ArmPlan(
        name=f"as sequences of one request {number}",
        requests=(*parents, *greedy),
        bursts=(tuple(Member(index) for index in order),),
        subjects=tuple(range(count)),
        batch_size=2 * count,
    )


def test_sampling(engine, control, workload, check):
    check.compare(engine, plan(workload))
    check.compare(control(), plan(workload))
    check.conclude()
