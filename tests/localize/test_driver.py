"""From a failed check to where it begins, on engines that are made up; real ones are in tests/e2e."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest

from bi_harness.compare.observations import Observations
from bi_harness.engine.client import Burst
from bi_harness.engine.config import EngineConfig
from bi_harness.errors import EngineDied
from bi_harness.localize.driver import localize
from bi_harness.localize.look import summed_up
from bi_harness.localize.options import VARIANTS, eager, stand_in, worth_trying
from bi_harness.localize.reproduce import Case, Up
from bi_harness.localize.rerun import Clock
from bi_harness.workload.checkplan import CheckPlan, together
from bi_harness.workload.requests import Member, Request
from tests.localize.made import run

SUBJECTS = tuple(Request(tuple(range(100 * i, 100 * i + 16)), 6, 0.0, None, 2) for i in range(8))
CASE = Case("cpu/tiny", "bs1_vs_bsN", CheckPlan(SUBJECTS, (together("eights", SUBJECTS, 8),)), 2, 0, False)


@dataclass
class Engine:
    """In company of ``least`` requests and more, a request's third step has another logprob; a module of the
    model that is made up, ``broken``, is why."""

    least: int = 3
    at: int = 2
    broken: Mapping[tuple[str, int], int] = field(default_factory=lambda: {("layers.0.proj", 1): 5})
    """Counted from the prompt's end."""
    dies_after: int | None = None
    flaky_when_watched: bool = False
    sampled: bool = False
    """Whether it is another token in place of another logprob."""
    first_only: bool = False
    cached: bool = False
    """Whether it is a stale block: gone where an earlier run of the same prompts left the right values."""
    ranks: int = 1
    reading: int = 0
    """Runs that read the prefix cache."""
    forgotten: int = 0
    bursts: list[int] = field(default_factory=list)
    orders: list[Mapping[str, Any]] = field(default_factory=list)
    _order: Mapping[str, Any] | None = None
    _company: int = 0
    _prompt: int = 0
    _filled: bool = False

    def generate(
        self,
        requests: Sequence[Request],
        bursts: Sequence[Sequence[int | Member]],
        *,
        timeout_s: float,
        progress: Callable[[int, int], None] = lambda done, of: None,
        limits: Any = None,
    ) -> Burst:
        self.bursts.append(len(requests))
        if self.dies_after is not None and len(self.bursts) > self.dies_after:
            raise EngineDied("the treatment engine died (SIGKILL): its log says nothing")
        steps = max(r.max_tokens for r in requests)
        logprobs = np.zeros((len(requests), steps, 3), np.float32)
        tokens = np.zeros((len(requests), steps), np.int32)
        size = {m.request: len(b) for b in bursts for m in b if isinstance(m, Member)}
        for i, request in enumerate(requests):
            wrong = size[i] >= self.least and not (self.flaky_when_watched and self._order is not None)
            wrong = wrong and not (self.first_only and len(self.bursts) > 1)
            wrong = wrong and not (self.cached and self._filled)
            if wrong and request.max_tokens > self.at:
                if self.sampled:
                    tokens[i, self.at] = 1
                else:
                    logprobs[i, self.at, 1] = 1
        reads = any(r.cache for r in requests)
        self.reading += reads
        self._filled = self._filled or reads
        self._company, self._prompt = max(size.values()), len(requests[0].prompt)
        lengths = np.array([r.max_tokens for r in requests], np.int32)
        observations = Observations(tokens, lengths, np.zeros((len(requests), steps, 3), np.int32), logprobs)
        return Burst(observations, (), 0.5)

    def forget(self, *, timeout_s: float) -> None:
        self.forgotten += 1
        self._filled = False

    def watch(self, order: Mapping[str, Any] | None, *, timeout_s: float) -> tuple[dict[str, Any], ...]:
        self._order = order
        if order is not None:
            self.orders.append(order)
            return ({},) * self.ranks
        length = self._prompt
        steps = [list(range(length)), *[[length + i] for i in range(3)]]
        broken = self.broken if self._company >= self.least else {}
        broken = {(name, length + p): by for (name, p), by in broken.items()}
        seen = run(steps, broken)
        if (suspect := self.orders[-1].get("suspect")) is not None:
            wanted = self.orders[-1]["positions"]
            seen["records"] = [
                r for r in seen["records"] if r["name"] == suspect and set(r["positions"]) & set(wanted)
            ]
            if self.orders[-1]["kind"] == "trace":
                for one in seen["records"]:
                    one["ran"] = {"operators": ["aten.mm(x)"] * self._company, "kernels": {"gemm": 2}}
        return tuple({**seen, "tp_rank": rank} for rank in range(self.ranks))


CONFIG = EngineConfig(
    arm="treatment",
    python="python",
    platform="cpu",
    capability=None,
    invariance=True,
    llm={"enforce_eager": False},
    checkpoint=None,
    adapters=None,
    draft=None,
    env={},
    room_for_two=True,
)


class Starts:
    """Gives one engine for the eager rerun, and others by the name of what was changed."""

    def __init__(self, engine: Engine, compiled: Callable[[EngineConfig], Engine] | None = None) -> None:
        self.engine, self.compiled = engine, compiled
        self.configs: list[EngineConfig] = []
        self.effective: dict[str, Any] = {}

    @contextmanager
    def __call__(self, change: Callable[[EngineConfig], EngineConfig]) -> Iterator[Up]:
        config = change(CONFIG)
        self.configs.append(config)
        engine = self.engine
        if self.compiled is not None and not config.llm["enforce_eager"]:
            engine = self.compiled(config)
        yield Up(engine, engine, {"cudagraph_mode": "FULL_AND_PIECEWISE", **self.effective})


def localized(engine: Engine, case: Case = CASE, **more: Any) -> Any:
    return localize(case, Starts(engine, **more), budget_s=60, timeout_s=10)


def test_the_module_is_named_with_all_that_is_known_of_it() -> None:
    engine = Engine()
    told = localized(engine)
    assert (told.outcome, told.module, told.class_name) == ("module", "layers.0.proj", "Proj")
    # It breaks at the second token that is fed back, whose logprobs are those of step 2.
    assert (told.request, told.arm, told.step, told.eager) == (2, "eights", 2, True)
    assert told.planned.neighbours == 7
    assert told.smallest.neighbours == 2
    assert told.smallest.steps == 3
    assert [m.name for m in told.modules if m.state == "culprit"] == ["layers.0.proj"]
    assert told.outputs[0].differing_rows == 1
    assert told.ran_batch == ("aten.mm(x) (x 3)", "gemm x 2")
    assert told.ran_alone == ("aten.mm(x)", "gemm x 2")
    assert (told.cost.starts, told.cost.rss_before, told.cost.rss_after) == (1, 1 << 20, 2 << 20)
    assert told.cost.tries <= 64


def test_the_subject_is_watched_by_its_place_in_the_burst() -> None:
    engine = Engine()
    localized(engine)
    assert [order["kind"] for order in engine.orders] == ["digests"] * 2 + ["values"] * 2 + ["trace"] * 2
    assert {order["request"] for order in engine.orders[::2]} == {"0"}


def test_what_no_module_shows_is_told_so() -> None:
    told = localized(Engine(broken={}))
    assert (told.outcome, told.module) == ("elsewhere", "")
    assert told.where.startswith("no module: after the last one")
    assert {m.state for m in told.modules} == {"equal"}


def test_what_hooks_make_go_away_is_not_localized() -> None:
    told = localized(Engine(flaky_when_watched=True))
    assert (told.outcome, told.module) == ("failed", "")
    assert "comes and goes" in told.reason


def test_what_does_not_differ_again_is_told_so() -> None:
    told = localized(Engine(least=99))
    assert (told.outcome, told.eager, told.module) == ("not_reproduced", False, "")
    assert told.cost.starts == 1


def test_an_arm_that_does_not_differ_again_leaves_the_others() -> None:
    pairs, eights = together("pairs", SUBJECTS, 2), together("eights", SUBJECTS, 8)
    told = localized(Engine(), replace(CASE, plan=CheckPlan(SUBJECTS, (pairs, eights))))
    assert (told.outcome, told.module, told.arm, told.request) == ("module", "layers.0.proj", "eights", 0)


def test_an_engine_that_dies_is_told_and_nothing_is_raised() -> None:
    for after in range(12):
        told = localized(Engine(dies_after=after))
        assert told.outcome in ("failed", "module")
        assert "died" in told.reason


def test_the_earliest_rank_is_the_one_that_is_told() -> None:
    assert localized(Engine(ranks=2)).rank == 0


COMPILED = replace(CASE, compiled=True)


def test_a_compiled_failure_that_is_not_eager_is_bisected() -> None:
    def compiled(config: EngineConfig) -> Engine:
        backend = config.llm.get("compilation_config", {}).get("backend")
        return Engine(least=99 if backend == "eager" else 3)

    told = localized(Engine(least=99), COMPILED, compiled=compiled)
    assert (told.outcome, told.module, told.eager) == ("compiled", "", False)
    assert [o.name for o in told.options] == [v.name for v in VARIANTS]
    assert [o.name for o in told.options if o.differs is False] == ["Dynamo without Inductor"]
    assert "it goes away with another option: Dynamo without Inductor" in told.reason
    assert told.smallest.neighbours == 2
    assert told.cost.starts == 1 + len(VARIANTS)


def test_an_eager_engine_stands_for_a_compiled_one_that_differs_in_the_same_pairs() -> None:
    told = localized(Engine(), COMPILED, compiled=lambda config: Engine())
    assert (told.outcome, told.module, told.eager) == ("module", "layers.0.proj", True)
    assert "stands for the one that failed" in told.reason
    assert (told.smallest.neighbours, told.planned.neighbours, told.cost.starts) == (2, 7, 2)
    assert told.outputs
    assert not told.options


@pytest.mark.parametrize(("eager_least", "compiled_least"), [(3, 4), (2, 3), (2, 2), (3, 8)])
def test_an_eager_engine_with_a_defect_of_its_own_names_no_module(
    eager_least: int, compiled_least: int
) -> None:
    """It differs wherever the compiled one does, and elsewhere too; or nothing can tell the two apart."""
    told = localized(
        Engine(least=eager_least), COMPILED, compiled=lambda config: Engine(least=compiled_least)
    )
    assert (told.outcome, told.module, told.class_name, told.eager) == ("unproven", "", "", True)
    assert "beginning in layers.0.proj (Proj), but that is not shown" in told.where
    assert told.smallest.neighbours == compiled_least - 1
    assert "culprit" not in {m.state for m in told.modules}
    assert (told.inputs, told.outputs, told.ran_alone, told.ran_batch) == ((), (), (), ())
    assert [o.differs for o in told.options] == [True] * len(VARIANTS)


def test_an_eager_engine_that_needs_more_company_does_not_differ() -> None:
    told = localized(Engine(least=4), COMPILED, compiled=lambda config: Engine(least=3))
    assert (told.outcome, told.eager) == ("compiled", False)


def test_where_another_token_is_sampled_from_equal_logprobs_no_module_is_named() -> None:
    told = localized(Engine(), COMPILED, compiled=lambda config: Engine(sampled=True))
    assert (told.outcome, told.module, told.cost.starts) == ("elsewhere", "", 1)
    assert "no module of the model" in told.where
    assert "another token is sampled" in told.where


def test_a_compiled_failure_in_logprobs_is_no_eager_one_in_tokens() -> None:
    told = localized(Engine(sampled=True), COMPILED, compiled=lambda config: Engine())
    assert (told.outcome, told.module) == ("unproven", "")


FIRST = replace(CASE, plan=replace(CASE.plan, arms_first=True))


def test_the_first_requests_are_looked_at_again_where_they_differ_again() -> None:
    told = localized(Engine(), FIRST)
    assert (told.outcome, told.module, told.smallest.neighbours) == ("module", "layers.0.proj", 2)
    assert told.outputs
    assert told.ran_batch
    assert "first requests" not in told.reason


def test_what_only_the_first_requests_do_is_told_of_them() -> None:
    told = localized(Engine(first_only=True), FIRST)
    assert (told.outcome, told.module, told.smallest.neighbours) == ("module", "layers.0.proj", 7)
    assert "only an engine's first requests differ" in told.reason
    compiled = replace(FIRST, compiled=True)
    told = localized(Engine(first_only=True), compiled, compiled=lambda config: Engine(first_only=True))
    assert (told.outcome, told.module) == ("unproven", "")
    told = localized(Engine(least=99), compiled, compiled=lambda config: Engine(first_only=True))
    assert (told.outcome, [o.differs for o in told.options]) == ("compiled", [True] * len(VARIANTS))


def test_what_does_not_differ_compiled_needs_no_eager_engine() -> None:
    told = localized(Engine(), COMPILED, compiled=lambda config: Engine(least=99))
    assert (told.outcome, told.eager, told.options, told.cost.starts) == ("not_reproduced", None, (), 1)
    assert "another engine, with torch.compile or CUDA graphs, do not differ" in told.reason


def test_an_option_that_does_not_start_is_told() -> None:
    def compiled(config: EngineConfig) -> Engine:
        return Engine(dies_after=0) if "custom_ops" in config.llm.get("compilation_config", {}) else Engine()

    told = localized(Engine(least=99), COMPILED, compiled=compiled)
    by_name = {o.name: o for o in told.options}
    assert by_name["custom operators in all places"].differs is None
    assert "died" in by_name["custom operators in all places"].note


def test_nothing_new_is_begun_when_the_time_is_up() -> None:
    told = localize(COMPILED, Starts(Engine(least=99), lambda config: Engine()), budget_s=0, timeout_s=10)
    assert (told.outcome, told.cost.starts) == ("failed", 1)
    assert "time was up" in told.reason
    told = localize(CASE, Starts(Engine()), budget_s=0, timeout_s=10)
    assert (told.outcome, told.smallest.neighbours, told.cost.tries) == ("module", 7, 0)


def test_a_start_takes_nothing_of_the_limit() -> None:
    clock = Clock(0.05)
    with clock.stopped():
        time.sleep(0.1)
    assert not clock.late()
    assert clock.spent >= 0.1
    time.sleep(0.06)
    assert clock.late()


def test_graphs_are_tried_where_there_are_some() -> None:
    assert worth_trying({"cudagraph_mode": "NONE"}) == VARIANTS[2:]
    assert worth_trying({"cudagraph_mode": "FULL"}) == VARIANTS[1:]
    # A CPU's engine has no passes of vLLM's own.
    traced = {"cudagraph_mode": "NONE", "compilation_mode": "DYNAMO_TRACE_ONCE"}
    assert worth_trying(traced) == VARIANTS[2:4]


@pytest.mark.parametrize("graphs", ["FULL", "PIECEWISE", "full_and_piecewise"])
def test_engine_without_torch_compile_has_only_its_cuda_graphs_to_lose(graphs: str) -> None:
    ops = {"rms_norm": ["native"]}
    effective = {"compilation_mode": "NONE", "cudagraph_mode": graphs, "ir_op_priority": ops}
    assert worth_trying(effective) == (VARIANTS[1],)


@pytest.mark.parametrize("effective", [{"cudagraph_mode": "NONE"}, {"cudagraph_mode": ""}, {}])
def test_engine_with_neither_has_nothing_to_lose(effective: dict[str, Any]) -> None:
    assert worth_trying({"compilation_mode": "NONE", **effective}) == ()


def breakable(graphs: str = "FULL_AND_PIECEWISE") -> dict[str, Any]:
    """What an engine reports that has breakable CUDA graphs and no torch.compile."""
    return {"compilation_mode": "NONE", "cudagraph_mode": graphs, "breakable_cudagraphs": True}


@pytest.mark.parametrize("goes_away", [True, False])
def test_failure_with_cuda_graphs_alone_is_tried_without_them(goes_away: bool) -> None:
    def with_graphs(config: EngineConfig) -> Engine:
        off = config.llm.get("compilation_config", {}).get("cudagraph_mode") == "NONE"
        return Engine(least=99 if off and goes_away else 3)

    starts = Starts(Engine(least=99), with_graphs)
    starts.effective = breakable()
    told = localize(COMPILED, starts, budget_s=60, timeout_s=10)
    assert told.outcome == "compiled"
    assert told.where.endswith("differs with torch.compile or CUDA graphs does not differ on an eager engine")
    assert [(o.name, o.differs) for o in told.options] == [
        ("as it failed", True),
        ("without CUDA graphs", not goes_away),
    ]
    without = "it goes away with another option: without CUDA graphs"
    assert told.reason.endswith(without if goes_away else "it differs with every option that was tried")


def test_failure_without_anything_to_lose_says_so() -> None:
    starts = Starts(Engine(least=99), lambda config: Engine())
    starts.effective = breakable("NONE")
    told = localize(COMPILED, starts, budget_s=60, timeout_s=10)
    assert (told.outcome, len(told.options)) == ("compiled", 1)
    assert told.reason.endswith("which option it depends on was not found")


def test_no_sentence_claims_that_an_engine_with_cuda_graphs_alone_is_compiled() -> None:
    outcomes = [
        (Engine(), Engine()),
        (Engine(least=2), Engine()),
        (Engine(), Engine(sampled=True)),
        (Engine(sampled=True), Engine()),
        (Engine(least=99), Engine()),
        (Engine(), Engine(least=99)),
    ]
    for plain, with_graphs in outcomes:
        starts = Starts(plain, lambda config, engine=with_graphs: engine)
        starts.effective = breakable()
        told = localize(COMPILED, starts, budget_s=60, timeout_s=10)
        assert "compiled" not in f"{told.where} {told.reason}"


def test_a_variant_adds_to_the_compilation_config_that_is_there() -> None:
    config = replace(CONFIG, platform="cuda", llm={"compilation_config": {"mode": 3}})
    assert VARIANTS[2].change(config).llm["compilation_config"] == {"mode": 3, "backend": "eager"}
    short = replace(config, llm={"compilation_config": 3})
    assert VARIANTS[2].change(short).llm["compilation_config"] == {"mode": 3, "backend": "eager"}
    # vLLM's CPU platform puts its own backend in the place of one that comes with mode 3.
    assert VARIANTS[2].change(CONFIG).llm["compilation_config"] == {"mode": 2, "backend": "eager"}


def test_vllms_own_operators_are_those_of_its_ir_too() -> None:
    ops = {"ir_op_priority": {"rms_norm": ["native"]}, "cudagraph_mode": "NONE"}
    (own,) = [v for v in worth_trying(ops) if v.name == VARIANTS[3].name]
    asked = own.change(replace(CONFIG, platform="cuda")).llm
    assert asked["compilation_config"] == {"custom_ops": ["all"]}
    assert asked["ir_op_priority"] == {"rms_norm": ["vllm_c", "native"]}
    assert own.change(CONFIG) == VARIANTS[3].change(CONFIG)  # a CPU has no kernels of that name


def test_the_stand_in_for_a_compiled_engine_has_its_operators() -> None:
    ops = {"custom_ops": ["+gelu", "none"], "ir_op_priority": {"rms_norm": ["native"]}}
    made = stand_in(ops)(replace(CONFIG, llm={"compilation_config": {"mode": 3}}))
    assert made.llm == {
        "enforce_eager": True,
        "skip_tokenizer_init": True,
        "compilation_config": {"mode": 3, "custom_ops": ["+gelu", "none"]},
        "ir_op_priority": {"rms_norm": ["native"]},
    }
    # vLLM takes the priority in one place alone; releases before 0.25 have none.
    given = {"kernel_config": {"ir_op_priority": {"rms_norm": ["vllm_c"]}}}
    assert "ir_op_priority" not in stand_in(ops)(replace(CONFIG, llm=given)).llm
    assert stand_in({})(CONFIG) == eager(CONFIG)


def test_the_eager_engine_for_a_compiled_cell_is_the_stand_in() -> None:
    starts = Starts(Engine(), compiled=lambda config: Engine())
    starts.effective = {"custom_ops": ["none"]}
    localize(COMPILED, starts, budget_s=60, timeout_s=10)
    asked = [c.llm.get("compilation_config") for c in starts.configs if c.llm["enforce_eager"]]
    assert asked == [{"custom_ops": ["none"]}]


def test_the_eager_engine_is_one_process_of_the_library() -> None:
    config = eager(replace(CONFIG, interface="server"))
    assert (config.interface, config.llm["enforce_eager"]) == ("library", True)
    assert config.env["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"
    assert (
        eager(replace(CONFIG, llm={"tensor_parallel_size": 2})).env["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"
    )
    assert "VLLM_ENABLE_V1_MULTIPROCESSING" not in eager(replace(CONFIG, llm={"data_parallel_size": 2})).env


@pytest.mark.parametrize("count", [0, 1, 500])
def test_lines_that_follow_each_other_become_one(count: int) -> None:
    assert len(summed_up(("a",) * count)) == min(1, count)
    assert len(summed_up(tuple(map(str, range(count))))) <= 65


def test_what_earlier_tries_left_in_the_cache_hides_no_difference() -> None:
    subjects = tuple(replace(r, cache="") for r in SUBJECTS)
    cached = tuple(replace(r, cache="one") for r in SUBJECTS)
    plan = CheckPlan(subjects, (together("eights", cached, 8),))
    engine = Engine(cached=True)
    told = localized(engine, replace(CASE, plan=plan))
    assert (told.outcome, told.module, told.smallest.neighbours) == ("module", "layers.0.proj", 2)
    assert engine.forgotten == engine.reading > 10  # with hooks, too
