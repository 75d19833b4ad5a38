"""What starts count, against what they have to: rules, data, exceptions, and the two starts exchanged."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bi_harness.certificate.facts import facts_differ, facts_weakness
from bi_harness.certificate.records import Fact
from bi_harness.certificate.startup import (
    CacheChange,
    StartFound,
    StartRules,
    rules_for,
    start_facts,
    time_facts,
)
from bi_harness.spec.startup import StartupFile

TODAY = date(2027, 1, 1)
KEYS = (
    "num_models_seen",
    "num_aot_compiles",
    "num_aot_artifacts_saved",
    "num_aot_artifacts_loaded",
    "num_compiled_artifacts_saved",
    "num_compiled_artifacts_loaded",
)


def rank(aot: Mapping[str, int] | None = None, layers: int = 8, **counts: int) -> dict[str, Any]:
    return {
        "compilation": {**dict.fromkeys(KEYS, 0), "num_models_seen": 2, **counts},
        "aot_autograd": dict(aot or {}),
        "inductor": {},
        "layers": layers,
    }


def start(*ranks: dict[str, Any], kernels: int = 0, added: int = 0, start_s: float = 10.0) -> StartFound:
    return StartFound.of(ranks, CacheChange(added, 0, kernels), start_s)


# A GPU's, as vLLM's tests have them.
COLD = start(
    rank({"total": 3, "autograd_cache_miss": 3}, num_aot_compiles=1, num_aot_artifacts_saved=1,
         num_compiled_artifacts_saved=3),
    kernels=12, added=40, start_s=40.0,
)  # fmt: skip
WARM = start(rank(num_aot_artifacts_loaded=1, num_compiled_artifacts_loaded=3), start_s=10.0)

# A CPU's, whose warm start compiles again.
CPU_AOT = {"total": 1, "autograd_cache_miss": 1, "autograd_cache_saved": 1, "ok": 1}
CPU_COLD = start(rank(CPU_AOT, num_aot_compiles=1, num_aot_artifacts_saved=1), kernels=16, added=50)
CPU_WARM = start(rank(CPU_AOT, num_aot_compiles=1, num_aot_artifacts_saved=1), kernels=0)

FILE = StartupFile.model_validate(
    {
        "expectations": {
            "gpu": {
                "id": "gpu",
                "kind": "cuda",
                "vllm": ">=0.32,<0.33",
                "models": ["tiny"],
                "source": "vLLM's tests",
                "cold": {"num_compiled_artifacts_saved": 3, "aot_autograd.total": "<= 4"},
                "warm": {"num_compiled_artifacts_loaded": 3},
            }
        },
        "exceptions": {
            "cpu-load": {
                "id": "cpu-load",
                "kind": "cpu",
                "warm": {
                    "num_aot_compiles": 1,
                    "num_aot_artifacts_saved": 1,
                    "aot_autograd.autograd_cache_miss": 1,
                    "aot_autograd.autograd_cache_saved": 1,
                },
                "loads_nothing": True,
                "reason": "It fails to load.",
                "source": "vLLM",
                "until": "2027-06-30",
            }
        },
    }
)


def rules(kind: str = "cuda", today: date = TODAY, vllm: str = "0.32.0", model: str = "tiny") -> StartRules:
    return rules_for(FILE, vllm=vllm, torch="2.13.0+cpu", kind=kind, model=model, today=today)


def judge(cold: StartFound, warm: StartFound, which: StartRules) -> tuple[str, str]:
    """What a check makes of the facts: what is wrong, and why right ones would show nothing."""
    facts = start_facts(cold, warm, which)
    return facts_differ(facts), facts_weakness(facts, start_facts(warm, cold, which))


def named(facts: tuple[Fact, ...]) -> dict[str, Fact]:
    assert len({fact.name for fact in facts}) == len(facts)
    return {fact.name: fact for fact in facts}


@pytest.mark.parametrize("which", [StartRules(), rules()])
def test_a_warm_start_that_loads_what_was_saved_is_right(which: StartRules) -> None:
    assert judge(COLD, WARM, which) == ("", "")


def test_the_data_is_judged_exactly_or_as_a_comparison() -> None:
    facts = named(start_facts(COLD, WARM, rules()))
    assert facts["cold: num_compiled_artifacts_saved"].expected == ("3",)
    assert (facts["cold: aot_autograd.total"].found, facts["cold: aot_autograd.total"].judged) == ("3", False)
    held = facts["cold: aot_autograd.total <= 4"]
    assert (held.found, held.expected) == ("yes", ("yes",))
    assert "vLLM's tests" in held.source
    more = start(
        rank({"total": 5, "autograd_cache_miss": 3}, num_aot_compiles=1, num_compiled_artifacts_saved=4)
    )
    assert (
        "aot_autograd.total <= 4 is no" in judge(more, WARM, rules())[0]
        or "saved is 4, not 3" in (judge(more, WARM, rules())[0])
    )


@pytest.mark.parametrize(
    "counts",
    [
        {"num_aot_compiles": 1},
        {"num_aot_artifacts_saved": 1},
        {"num_compiled_artifacts_saved": 4},
        {"num_inductor_compiles": 1},
        {"num_cache_entries_updated": 2},
    ],
)
@pytest.mark.parametrize("which", [StartRules(), rules(), rules("cpu", date(2030, 1, 1))])
def test_a_warm_start_that_saves_is_wrong_whatever_the_data_says(
    counts: dict[str, int], which: StartRules
) -> None:
    warm = start(rank(num_aot_artifacts_loaded=1, num_compiled_artifacts_loaded=3, **counts))
    assert next(iter(counts)) in judge(COLD, warm, which)[0]


def test_so_is_one_that_builds_kernels_or_misses_torchs_cache_or_loads_nothing() -> None:
    loads = rank(num_aot_artifacts_loaded=1, num_compiled_artifacts_loaded=3)
    assert "kernels_built is 1, not 0" in judge(COLD, start(loads, kernels=1), StartRules())[0]
    missed = rank({"autograd_cache_miss": 1}, num_aot_artifacts_loaded=1)
    assert "autograd_cache_miss is 1, not 0" in judge(COLD, start(missed), StartRules())[0]
    assert "loaded something is no" in judge(COLD, start(rank()), StartRules())[0]


def test_a_cold_start_finds_nothing_and_saves_something() -> None:
    stale = start(rank(num_aot_compiles=1, num_aot_artifacts_saved=1, num_compiled_artifacts_loaded=1))
    assert "cold: num_compiled_artifacts_loaded is 1, not 0" in judge(stale, WARM, StartRules())[0]
    assert "cold: saved something is no" in judge(start(rank()), WARM, StartRules())[0]


def test_as_many_graphs_as_layers_are_too_many() -> None:
    every = start(
        rank({"autograd_cache_miss": 9}, num_aot_artifacts_saved=1, num_compiled_artifacts_saved=9), kernels=9
    )
    assert "cold: unique_graphs <= layers / 2 is no, not yes" in judge(every, WARM, StartRules())[0]


def test_an_exception_lets_its_counters_pass_by_name_until_its_end() -> None:
    assert judge(CPU_COLD, CPU_WARM, rules("cpu")) == ("", "")
    facts = named(start_facts(CPU_COLD, CPU_WARM, rules("cpu")))
    assert facts["warm: num_aot_compiles"].expected == ("0", "1")
    assert "exception cpu-load until 2027-06-30" in facts["warm: num_aot_compiles"].source
    assert facts["exception cpu-load"].found.startswith("until 2027-06-30")
    # Mended, it passes, too.
    assert judge(CPU_COLD, start(rank(num_aot_artifacts_loaded=1)), rules("cpu")) == ("", "")
    last, after = rules("cpu", date(2027, 6, 30)), rules("cpu", date(2027, 7, 1))
    assert judge(CPU_COLD, CPU_WARM, last)[0] == ""
    assert "warm: num_aot_compiles is 1, not 0" in judge(CPU_COLD, CPU_WARM, after)[0]
    ended = named(start_facts(CPU_COLD, CPU_WARM, after))
    assert "the exception cpu-load ended on 2027-06-30" in ended["warm: num_aot_compiles"].source


def test_an_exception_lets_nothing_else_pass() -> None:
    again = start(rank(CPU_AOT, num_aot_compiles=1, num_aot_artifacts_saved=1), kernels=16)
    assert "warm: kernels_built is 16, not 0" in judge(CPU_COLD, again, rules("cpu"))[0]
    twice = start(rank(CPU_AOT, num_aot_compiles=2, num_aot_artifacts_saved=1))
    assert "warm: num_aot_compiles is 2, not 0 or 1" in judge(CPU_COLD, twice, rules("cpu"))[0]
    # It is of another platform.
    assert "num_aot_compiles is 1, not 0" in judge(CPU_COLD, CPU_WARM, rules("cuda"))[0]


def test_a_table_that_reads_the_same_either_way_shows_nothing() -> None:
    # Two cold starts, say, whose counters an exception lets pass, and no kernels.
    same = start(rank(CPU_AOT, num_aot_compiles=1, num_aot_artifacts_saved=1))
    assert judge(same, same, rules("cpu")) == (
        "",
        "the control has the same facts, so that they tell nothing",
    )


def test_data_holds_for_its_releases_and_models_alone() -> None:
    assert rules(vllm="0.32.1rc1").expectations
    assert not rules(vllm="0.33.0").expectations
    assert not rules(model="other").expectations
    assert not rules("cpu").expectations


def test_ranks_that_differ_are_both_told_and_wrong() -> None:
    two = start(rank(num_aot_artifacts_loaded=1), rank(num_aot_compiles=1))
    fact = named(start_facts(COLD, two, StartRules()))["warm: num_aot_compiles"]
    assert (fact.found, fact.wrong) == ("0, 1", True)


def test_a_counter_that_the_data_names_and_no_release_has_is_wrong() -> None:
    data = FILE.expectations["gpu"].model_copy(update={"cold": {"num_gone": 1}, "warm": {}})
    facts = named(start_facts(COLD, WARM, StartRules({"gpu": data})))
    assert (facts["cold: num_gone"].found, facts["cold: num_gone"].wrong) == ("not counted", True)
    data = data.model_copy(update={"cold": {"num_gone": "<= 3"}})
    facts = named(start_facts(COLD, WARM, StartRules({"gpu": data})))
    assert facts["cold: num_gone <= 3"].wrong


def test_data_that_contradicts_a_rule_cannot_be_met() -> None:
    data = FILE.expectations["gpu"].model_copy(update={"cold": {"num_compiled_artifacts_loaded": 2}})
    for loaded in (0, 2):
        cold = start(rank(num_aot_artifacts_saved=1, num_compiled_artifacts_loaded=loaded))
        facts = named(start_facts(cold, WARM, StartRules({"gpu": data})))
        assert facts["cold: num_compiled_artifacts_loaded"].wrong


@pytest.mark.parametrize(
    "ranks",
    [
        [],
        [{}],
        [{"compilation": {}}],
        [{**rank(), "layers": None}],
        [rank(layers=4), rank(layers=8)],
        [{**rank(), "settings": {"A": True}}, {**rank(), "settings": {"A": False}}],
    ],
)
def test_answers_that_are_no_counters_are_refused(ranks: list[dict[str, Any]]) -> None:
    with pytest.raises(ValueError, match=r"counters of a start|layers|different settings"):
        StartFound.of(ranks, CacheChange(0, 0, 0), 1.0)


def test_settings_that_the_engine_reads_are_reported() -> None:
    settings = {"VLLM_USE_AOT_COMPILE": False, "VLLM_USE_MEGA_AOT_ARTIFACT": True}
    cold = start({**rank(num_compiled_artifacts_saved=3), "settings": settings})
    facts = named(start_facts(cold, WARM, rules()))
    assert facts["cold: VLLM_USE_AOT_COMPILE"].found == "off"
    assert facts["cold: VLLM_USE_MEGA_AOT_ARTIFACT"].found == "on"
    assert not facts["cold: VLLM_USE_AOT_COMPILE"].judged
    assert "warm: VLLM_USE_AOT_COMPILE" not in facts


def test_times_are_told_and_not_judged() -> None:
    facts = named(time_facts(COLD, WARM))
    assert [fact.found for fact in facts.values()] == ["40.0 s", "10.0 s", "0.25"]
    assert not any(fact.judged for fact in facts.values())


_counts = st.fixed_dictionaries({key: st.integers(0, 2) for key in KEYS})
_starts = st.builds(
    lambda counts, miss, kernels: start(rank({"autograd_cache_miss": miss}, **counts), kernels=kernels),
    _counts,
    st.integers(0, 2),
    st.integers(0, 2),
)


@given(cold=_starts, warm=_starts, kind=st.sampled_from(["cpu", "cuda"]))
def test_no_pass_of_a_warm_start_that_saved_or_of_one_that_is_as_the_cold_one(
    cold: StartFound, warm: StartFound, kind: str
) -> None:
    which = rules(kind)
    if judge(cold, warm, which) != ("", ""):
        return
    assert warm.cache.kernels == 0
    assert sum(warm.counters["num_compiled_artifacts_saved"]) == 0
    assert (cold.counters, cold.cache) != (warm.counters, warm.cache)
    assert judge(warm, cold, which)[0], "exchanged, the table is wrong"
    if kind == "cuda":
        assert warm.saves == 0


def test_graphs_that_inductor_found_again_are_not_unique() -> None:
    """Without AOT compilation each layer has an artifact of its own, and Inductor compiles like ones once."""
    inductor = {"fxgraph_cache_miss": 4, "fxgraph_cache_hit": 5}
    one = {**rank({"autograd_cache_miss": 9}, num_compiled_artifacts_saved=9), "inductor": inductor}
    assert start(one).ranks("unique_graphs") == (4,)
    assert start(one, {**one, "inductor": {"fxgraph_cache_bypass": 2}}).ranks("unique_graphs") == (4, 2)
    warm = {**rank(), "inductor": {"fxgraph_cache_hit": 9}}
    assert start(warm).ranks("unique_graphs") == (0,)
    assert start(rank({"autograd_cache_miss": 9})).ranks("unique_graphs") == (9,)


def test_an_exception_may_have_an_upper_bound() -> None:
    entry = {"id": "b", "kind": "cuda", "source": "measured", "reason": "Known.", "until": "2027-06-30"}
    file = StartupFile.model_validate({"exceptions": {"b": {**entry, "warm": {"kernels_built": "<= 30"}}}})
    known = rules_for(file, vllm="0.25.1", torch="2.11.0", kind="cuda", model="tiny", today=TODAY)
    loads = rank(num_compiled_artifacts_loaded=3)
    for kernels, right in ((0, True), (30, True), (31, False)):
        facts = named(start_facts(COLD, start(loads, kernels=kernels), known))
        fact = facts["warm: kernels_built 0, or <= 30"]
        assert (fact.found in fact.expected) is right
        assert "exception b until 2027-06-30" in fact.source
        assert "warm: kernels_built" not in facts or not facts["warm: kernels_built"].judged


def test_what_was_built_and_tuned_anew_is_named() -> None:
    change = CacheChange(9, 2, 3, ("bmm_kernel (3)",), tuple(f"k{n}: XBLOCK 8 to 64" for n in range(15)))
    warm = StartFound.of([rank(num_compiled_artifacts_loaded=3)], change, 1.0)
    facts = named(start_facts(COLD, warm, StartRules()))
    assert facts["warm: names of the kernels built"].found == "bmm_kernel (3)"
    told = facts["warm: kernels tuned to another configuration"]
    assert told.found.startswith("k0: XBLOCK 8 to 64; k1")
    assert told.found.endswith("; and 3 more")
    assert not told.judged
