"""Any certificate that the schema allows."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from bi_harness.certificate.records import (
    MAX_COUNT,
    BatchReached,
    CheckResult,
    Divergence,
    Evidence,
    Waiver,
)
from bi_harness.certificate.statement import Scope, Statement, Totals, WaiverUse

from . import samples

NASTY = [
    samples.HOSTILE,
    samples.ANSI,
    "`" * 5,
    "|",
    "]]>",
    "-->",
    "</style>",
    "{{ 7*7 }}",
    "[bold]x[/bold]",
    "A" * 9_999,
]

texts = st.one_of(st.text(max_size=30), st.sampled_from(NASTY))
names = st.one_of(
    texts,
    st.builds(
        "/".join,
        st.tuples(
            st.sampled_from(["h200", "cpu"]),
            st.sampled_from(["qwen3-1.7b", "org/model", samples.HOSTILE]),
            st.sampled_from(["FLASH_ATTN", "CPU_ATTN"]),
            st.sampled_from(["tp1-dp1", "tp2-dp1", "tp0-dp"]),
            st.sampled_from(["eager", "compile", "other"]),
            st.sampled_from(["batch_invariance", "online"]),
        ),
    ),
)
counts = st.one_of(st.integers(0, 100_000), st.integers(0, MAX_COUNT))
integers = st.one_of(st.integers(-1, 100_000), st.integers(-(10**40), 10**40))
floats = st.floats(allow_nan=False, allow_infinity=False)
patterns = st.integers(0, 2**32 - 1).map(lambda value: f"0x{value:08x}")
digests = st.text("0123456789abcdef", min_size=64, max_size=64).map(lambda value: f"sha256:{value}")
json_values: st.SearchStrategy[Any] = st.recursive(
    st.one_of(st.none(), st.booleans(), integers, floats, texts),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(texts, inner, max_size=3)),
    max_leaves=8,
)
objects = st.dictionaries(
    st.one_of(st.sampled_from(["id", "name", "vllm", "packages"]), texts), json_values, max_size=4
)

divergences = st.builds(
    Divergence,
    prompt=counts,
    prompt_tokens=counts,
    batch_size=st.integers(1, MAX_COUNT),
    step=counts,
    rank=st.integers(-1, MAX_COUNT),
    reference_token=st.integers(-1, MAX_COUNT),
    observed_token=st.integers(-1, MAX_COUNT),
    reference_bits=patterns,
    observed_bits=patterns,
    reference_logprob=st.one_of(st.none(), floats),
    observed_logprob=st.one_of(st.none(), floats),
    ulp=counts,
)
arms = st.builds(
    BatchReached,
    batch_size=st.integers(1, MAX_COUNT),
    prompts=counts,
    steps=counts,
    max_requests=counts,
    max_tokens=counts,
)
evidences = st.builds(
    Evidence,
    prompts=counts,
    steps=counts,
    values=counts,
    differing_prompts=counts,
    differing_steps=counts,
    differing_values=counts,
    first_divergence=st.one_of(st.none(), divergences),
    max_ulp=counts,
    max_abs=floats,
    digest=digests,
    reference_digest=digests,
    upper95=st.floats(0, 1),
    batches=st.lists(arms, max_size=2).map(tuple),
)
waivers = st.builds(
    Waiver,
    cell=names.map(lambda name: name[:4_096]),
    check=texts,
    reason=texts,
    link=texts,
    owner=texts,
    expires=st.dates().map(str),
)
uses = st.builds(
    WaiverUse,
    waiver=waivers,
    state=st.sampled_from(["in_force", "expired", "stale", "no_answer", "not_in_run"]),
    checks=st.lists(texts, max_size=2).map(tuple),
)
checks = st.builds(
    CheckResult,
    cell=names,
    check=texts,
    status=st.sampled_from(["pass", "fail", "inconclusive", "error", "skip", "waived"]),
    reason=texts,
    evidence=st.one_of(st.none(), evidences),
    control=st.one_of(st.none(), evidences),
    rule=st.one_of(st.none(), texts),
    log=st.one_of(st.none(), texts),
    duration_s=st.one_of(st.none(), floats),
    waiver=st.one_of(st.none(), waivers),
)
scopes = st.builds(
    Scope,
    profile=texts,
    filters=st.dictionaries(texts, texts, max_size=2),
    weights=st.one_of(st.sampled_from(["named", "synthetic"]), texts),
    layers=st.one_of(st.none(), counts),
    seed=counts,
)


@st.composite
def statements(draw: st.DrawFn) -> Statement:
    listed = tuple(draw(st.lists(checks, max_size=4)))
    effective = tuple(
        {
            "unit": draw(names),
            "arm": draw(st.sampled_from(["treatment", "control"])),
            "config": draw(objects),
            "start_s": 1.0,
        }
        for _ in range(draw(st.integers(0, 2)))
    )
    return samples.statement(
        draw(st.sampled_from(["CERTIFIED", "NOT_CERTIFIED", "INCONCLUSIVE"])),
        listed,
        why=draw(texts),
        device=draw(objects),
        run_id=draw(texts),
        started=draw(texts),
        finished=draw(st.one_of(st.none(), texts)),
        interrupted=draw(st.booleans()),
        scope=draw(scopes),
        totals=draw(st.sampled_from([samples.totals(listed), Totals(passed=99)])),
        effective=effective,
        provenance=draw(objects),
        waivers=tuple(draw(st.lists(uses, max_size=2))),
    )
