"""The worker's loop: arrivals and aborts by engine step, on an engine that only counts; what it asks for, and
what becomes of the answers."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bi_harness.engine import protocol, step_limits, worker
from bi_harness.engine.effective import Refused
from bi_harness.engine.offline import OfflineEngine
from bi_harness.engine.protocol import StepSummary
from bi_harness.engine.step_probe import STEP_LOG_VARIABLE
from bi_harness.workload.requests import Limits, Member, Request


class Engine:
    """Gives every request one token a step; remembers what it was told, and when."""

    def __init__(self) -> None:
        self.left: dict[str, int] = {}
        self.asked: list[tuple[dict[str, Any], Any, Any]] = []
        self.seen: list[Any] = []
        self.vllm_config = SimpleNamespace(
            cache_config=SimpleNamespace(block_size=16), speculative_config=None
        )
        self.told: list[tuple[int, str, str]] = []
        self.steps = 0

    def add_request(self, name: str, prompt: dict[str, Any], params: Any, lora_request: Any = None) -> None:
        assert name not in self.left
        self.asked.append((prompt, params, lora_request))
        self.left[name] = params.max_tokens
        self.told.append((self.steps, "add", name))

    def abort_request(self, names: list[str]) -> None:
        for name in names:
            self.told.append((self.steps, "abort", name))
            self.left.pop(name, None)

    def has_unfinished_requests(self) -> bool:
        return bool(self.left)

    def step(self) -> list[Any]:
        self.steps += 1
        for name in self.left:
            self.left[name] -= 1
        done = [name for name, left in self.left.items() if not left]
        for name in done:
            del self.left[name]
        return [SimpleNamespace(request_id=name, finished=True) for name in done]


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Engine:
    fake = ModuleType("vllm")
    fake.SamplingParams = SimpleNamespace  # type: ignore[attr-defined]
    params = ModuleType("vllm.sampling_params")
    params.RequestOutputKind = SimpleNamespace(FINAL_ONLY=2)  # type: ignore[attr-defined]
    lora = ModuleType("vllm.lora.request")
    lora.LoRARequest = lambda *fields: fields  # type: ignore[attr-defined]
    for module in (fake, params, ModuleType("vllm.lora"), lora):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(worker, "_bursts", [])
    return Engine()


def offline(engine: Engine, adapters: Sequence[str] = ()) -> OfflineEngine:
    """The driver around an engine that only counts; one for each, as names are never used twice."""
    if engine not in DRIVERS:
        driver = object.__new__(OfflineEngine)
        driver._llm = SimpleNamespace(llm_engine=engine)
        driver.submitted = 0
        DRIVERS[engine] = driver
    DRIVERS[engine]._adapters = adapters
    return DRIVERS[engine]


DRIVERS: dict[Engine, OfflineEngine] = {}
ADAPTERS: list[str] = []


def run(engine: Engine, *members: Member, lengths: tuple[int, ...] = (4, 4, 4)) -> tuple[list[Any], int]:
    requests = [Request((1, 2), length, 0.0, None, 1) for length in lengths]
    return offline(engine).run_burst(requests, list(members))


def test_a_burst_is_submitted_whole_and_answers_come_in_its_order(engine: Engine) -> None:
    outputs, aborted = run(engine, Member(2), Member(0), Member(1), lengths=(3, 1, 2))
    assert [what for _, what, _ in engine.told] == ["add"] * 3
    names = [name for _, _, name in engine.told]
    assert [o.request_id for o in outputs] == names
    assert aborted == 0


def test_arrivals_are_counted_in_steps(engine: Engine) -> None:
    run(engine, Member(0), Member(1, arrival=2), Member(2, arrival=3))
    assert [step for step, _, _ in engine.told] == [0, 2, 3]


def test_a_gap_in_which_nothing_runs_is_bridged(engine: Engine) -> None:
    outputs, _ = run(engine, Member(0), Member(1, arrival=9), lengths=(1, 1, 1))
    assert all(outputs)
    assert engine.steps == 2


def test_an_aborted_request_gives_nothing_and_is_counted(engine: Engine) -> None:
    outputs, aborted = run(engine, Member(0), Member(1, arrival=1, abort=3))
    assert (outputs[1], aborted) == (None, 1)
    assert outputs[0] is not None
    assert [(step, what) for step, what, _ in engine.told] == [(0, "add"), (1, "add"), (3, "abort")]


def test_an_abort_after_the_end_is_none(engine: Engine) -> None:
    outputs, aborted = run(engine, Member(0, abort=5), Member(1), lengths=(2, 9, 1))
    assert all(outputs)
    assert aborted == 0


def test_names_are_never_used_twice(engine: Engine) -> None:
    for _ in range(3):
        run(engine, Member(0), Member(1))
    names = [name for _, _, name in engine.told]
    assert len(names) == len(set(names)) == 6


GREEDY = Request((1, 2), 1, 0.0, None, 1)


def asked(engine: Engine, *requests: Request) -> list[tuple[dict[str, Any], Any, Any]]:
    """What vLLM is asked for: prompt, sampling parameters and adapter of each."""
    members = [Member(index) for index in range(len(requests))]
    offline(engine, ADAPTERS).run_burst(list(requests), members)
    return engine.asked


def test_a_request_reads_the_prefix_cache_under_its_name_alone(engine: Engine) -> None:
    none, a, b, empty = asked(engine, *(replace(GREEDY, cache=name) for name in (None, "a", "b", "")))
    assert none[0] == {"prompt_token_ids": [1, 2]}
    assert [prompt["cache_salt"] for prompt, *_ in (a, b, empty)] == ["a", "b", ""]
    # Said either way: vLLM's own choice depends on whether prompt logprobs are asked for.
    assert [params.skip_reading_prefix_cache for _, params, _ in (none, a, b, empty)] == [
        True,
        False,
        False,
        False,
    ]


def test_adapters_are_counted_from_one_and_the_model_itself_has_none(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules[__name__], "ADAPTERS", ["/first", "/second"])
    found = [lora for *_, lora in asked(engine, *(replace(GREEDY, adapter=n) for n in (2, 0, 1)))]
    assert found == [("adapter-2", 2, "/second"), None, ("adapter-1", 1, "/first")]


@pytest.mark.parametrize("adapter", [1, 3])
def test_an_adapter_that_was_not_made_is_an_error(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, adapter: int
) -> None:
    monkeypatch.setattr(sys.modules[__name__], "ADAPTERS", ["/1", "/2"][: adapter - 1])
    with pytest.raises(IndexError):
        asked(engine, replace(GREEDY, adapter=adapter))


def test_every_sampling_parameter_is_handed_on(engine: Engine) -> None:
    request = Request(
        prompt=(3,),
        max_tokens=4,
        temperature=0.7,
        seed=9,
        top_k_logprobs=5,
        top_p=0.9,
        top_k=40,
        min_p=0.02,
        presence_penalty=0.5,
        frequency_penalty=0.4,
        repetition_penalty=1.1,
        n=3,
    )
    ((_, params, _),) = asked(engine, request)
    for name in (
        *("max_tokens", "temperature", "seed", "top_p", "top_k", "min_p", "n"),
        *("presence_penalty", "frequency_penalty", "repetition_penalty"),
    ):
        assert getattr(params, name) == getattr(request, name)
    assert (params.logprobs, params.prompt_logprobs) == (5, None)
    assert (params.ignore_eos, params.detokenize) == (True, False)


def test_the_prompts_logprobs_are_asked_for_where_it_is_scored(engine: Engine) -> None:
    ((_, params, _),) = asked(engine, replace(GREEDY, prompt=(1, 2, 3), score=2, top_k_logprobs=4))
    assert (params.logprobs, params.prompt_logprobs) == (4, 4)


def entries(*pairs: tuple[int, float, int]) -> dict[int, Any]:
    """Token, logprob and rank, as vLLM reports them."""
    return {token: SimpleNamespace(logprob=logprob, rank=rank) for token, logprob, rank in pairs}


def completion(index: int, *tokens: int) -> Any:
    """A sequence that is sure of its tokens, the next ones ranked second."""
    steps = [entries((token, -0.25, 1), (token + 1, -1.5, 2)) for token in tokens]
    return SimpleNamespace(index=index, token_ids=list(tokens), logprobs=steps)


def answer(request: Request, *completions: Any, **changes: Any) -> Any:
    given_ = {"prompt_token_ids": list(request.prompt), "prompt_logprobs": None, **changes}
    return SimpleNamespace(outputs=list(completions), **given_)


def packed(outputs: list[Any], requests: list[Request]) -> dict[str, np.ndarray]:
    return {name: protocol.decode_array(a) for name, a in worker._pack(outputs, requests).items()}


PAIR = Request((5, 6), 2, 0.8, 7, 1, n=2)


def test_every_sequence_is_a_row_in_the_order_of_its_index() -> None:
    one = replace(PAIR, n=1)
    found = packed(
        [
            answer(PAIR, completion(1, 30, 31), completion(0, 20, 21)),
            answer(one, completion(0, 40, 41)),
        ],
        [PAIR, one],
    )
    assert found["tokens"].tolist() == [[20, 21], [30, 31], [40, 41]]
    assert found["lengths"].tolist() == [2, 2, 2]
    assert found["ids"][:, 1].tolist() == [[21, 21], [31, 31], [41, 41]]
    assert found["logprobs"][1].tolist() == [[-0.25, -0.25], [-0.25, -0.25]]


def test_an_aborted_request_leaves_empty_rows_for_all_its_sequences() -> None:
    last = replace(PAIR, n=1, max_tokens=1)
    found = packed(
        [
            None,
            answer(PAIR, completion(0, 20, 21), completion(1, 30, 31)),
            None,
            answer(last, completion(0, 4)),
        ],
        [replace(PAIR, n=1), PAIR, replace(PAIR, n=3), last],
    )
    assert found["lengths"].tolist() == [0, 2, 2, 0, 0, 0, 1]
    assert found["tokens"].tolist() == [[-1, -1], [20, 21], [30, 31], *[[-1, -1]] * 3, [4, -1]]
    assert (found["ids"][3:6] == -1).all()
    assert not found["logprobs"][3:6].any()
    assert found["ids"][6, 1].tolist() == [-1, -1]


@pytest.mark.parametrize("count", [0, 1, 3])
def test_another_number_of_sequences_is_refused(count: int) -> None:
    outputs = [answer(PAIR, *(completion(i, 1, 2) for i in range(count)))]
    with pytest.raises(worker.Refused, match=f"answered with {count} sequences in place of 2"):
        worker._pack(outputs, [PAIR])


@pytest.mark.parametrize("prompt", [[], [5], [5, 7], [5, 6, 6]])
def test_an_answer_to_another_prompt_is_refused(prompt: list[int]) -> None:
    output = answer(PAIR, completion(0, 1, 2), completion(1, 1, 2), prompt_token_ids=prompt)
    with pytest.raises(worker.Refused, match="another prompt"):
        worker._pack([output], [PAIR])


def test_an_answer_is_needed_for_every_request() -> None:
    with pytest.raises(ValueError):
        worker._pack([None], [PAIR, PAIR])


def test_a_step_without_logprobs_is_an_error_and_not_left_out() -> None:
    broken = completion(0, 1, 2)
    broken.logprobs.pop()
    with pytest.raises(ValueError):
        worker._pack([answer(PAIR, broken, completion(1, 1, 2))], [PAIR])


def test_columns_are_the_token_and_then_the_top_k_by_rank() -> None:
    narrow, wide = replace(PAIR, n=1, max_tokens=1), replace(PAIR, n=1, max_tokens=1, top_k_logprobs=3)
    # The sampled token is outside of the top k, and two tokens share a rank.
    step = entries((9, -7.0, 50), (3, -2.0, 2), (2, -2.0, 2), (8, -0.5, 1))
    outputs = [
        answer(request, SimpleNamespace(index=0, token_ids=[9], logprobs=[step]))
        for request in (narrow, wide)
    ]
    found = packed(outputs, [narrow, wide])
    assert found["ids"][:, 0].tolist() == [[9, 8, -1, -1], [9, 8, 2, 3]]
    assert found["logprobs"][:, 0].tolist() == [[-7.0, -0.5, 0.0, 0.0], [-7.0, -0.5, -2.0, -2.0]]


def test_of_a_scored_prompt_the_last_tokens_are_observed() -> None:
    request = Request((4, 5, 6, 7), 1, 0.0, None, 1, score=2)
    logprobs = [None, *(entries((token, -float(token), 2), (1, -0.5, 1)) for token in (5, 6, 7))]
    found = packed([answer(request, completion(0, 99), prompt_logprobs=logprobs)], [request])
    assert found["tokens"].tolist() == [[6, 7]]
    assert found["lengths"].tolist() == [2]
    assert found["ids"].tolist() == [[[6, 1], [7, 1]]]
    assert found["logprobs"].tolist() == [[[-6.0, -0.5], [-7.0, -0.5]]]


@pytest.mark.parametrize("kept", [0, 2, 3])
def test_a_prompt_that_was_scored_in_part_is_an_error(kept: int) -> None:
    """As when its beginning came out of the prefix cache."""
    request = Request((4, 5, 6, 7), 1, 0.0, None, 1, score=2)
    logprobs = [entries((token, -1.0, 1)) for token in request.prompt[:kept]]
    with pytest.raises(ValueError):
        worker._pack([answer(request, completion(0, 99), prompt_logprobs=logprobs)], [request])


def test_a_prompt_that_was_not_scored_is_an_error() -> None:
    request = Request((4, 5, 6, 7), 1, 0.0, None, 1, score=2)
    with pytest.raises(TypeError):
        worker._pack([answer(request, completion(0, 99))], [request])


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(1, 3), st.booleans()), min_size=1, max_size=5))
def test_rows_are_as_many_as_sequences_whoever_was_aborted(kinds: list[tuple[int, int, bool]]) -> None:
    requests, outputs, wanted = [], [], []
    for number, (n, steps, aborted) in enumerate(kinds):
        request = Request((number,), steps, 0.8, number, 1, n=n)
        made = [completion(i, *[100 * number + i] * steps) for i in range(n)]
        requests.append(request)
        outputs.append(None if aborted else answer(request, *made[::-1]))
        wanted += [[] if aborted else made[i].token_ids for i in range(n)]
    found = packed(outputs, requests)
    rows = zip(found["tokens"].tolist(), found["lengths"].tolist(), strict=True)
    assert [row[:length] for row, length in rows] == wanted


class Steps:
    """Stands for the step log: another number of steps at every reading."""

    def __init__(self) -> None:
        self.reads = 0
        self.ranks = {"dp0"}

    def read(self) -> StepSummary:
        self.reads += 1
        return StepSummary(self.reads, 1, 1, 0, 0)


class Answering(Engine):
    """Answers every request with its sequences, and notes the limits that it runs under."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.file = folder / step_limits.FILE
        self.of: dict[str, Request] = {}
        self.fails = False

    def add_request(self, name: str, prompt: dict[str, Any], params: Any, lora_request: Any = None) -> None:
        super().add_request(name, prompt, params, lora_request)
        self.of[name] = Request(
            tuple(prompt["prompt_token_ids"]), params.max_tokens, 0.0, None, 1, n=params.n
        )

    def step(self) -> list[Any]:
        self.seen.append(json.loads(self.file.read_text()) if self.file.exists() else None)
        if self.fails:
            raise RuntimeError("the engine is broken")
        done = super().step()
        for output in done:
            request = self.of[output.request_id]
            made = (completion(i, *[request.prompt[0] + i] * request.max_tokens) for i in range(request.n))
            output.__dict__.update(answer(request, *made).__dict__)
        return done


@pytest.fixture
def answering(engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Answering:
    monkeypatch.setenv(STEP_LOG_VARIABLE, str(tmp_path / "steps"))
    return Answering(tmp_path / "steps")


def generated(
    engine: Engine, requests: list[Request], bursts: list[list[Member]], limits: dict[str, Any] | None = None
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    said: list[dict[str, Any]] = []
    command = {
        "do": "generate",
        "requests": [r.to_json() for r in requests],
        "bursts": [[m.to_json() for m in burst] for burst in bursts],
        **({"limits": limits} if limits is not None else {}),
    }
    # As it comes over the pipe.
    command = protocol.decode_line(protocol.encode_line(command))
    return worker._generate(offline(engine), command, Steps(), said.append), said  # type: ignore[arg-type]


def some(*lengths: int, n: int = 1) -> list[Request]:
    return [Request((10 * i,), length, 0.8, i, 1, n=n) for i, length in enumerate(lengths)]


def test_an_answer_has_all_bursts_in_the_order_of_their_members(answering: Answering) -> None:
    bursts = [[Member(2), Member(0)], [Member(1, 1, None)]]
    result, said = generated(answering, some(1, 2, 1, n=2), bursts)
    assert result["event"] == "result"
    tokens = protocol.decode_array(result["observations"]["tokens"])
    assert tokens[:, 0].tolist() == [20, 21, 0, 1, 10, 11]
    assert [s["steps"] for s in result["steps"]] == [1, 2]
    assert [StepSummary(**s).aborted for s in result["steps"]] == [0, 0]
    assert said == [{"event": "progress", "done": done, "of": 2} for done in (1, 2)]


def test_the_first_burst_of_the_engine_alone_is_the_first(answering: Answering) -> None:
    for wanted in ([1, 0], [0, 0]):
        result, _ = generated(answering, some(1, 1), [[Member(0)], [Member(1)]])
        assert [s["first_bursts"] for s in result["steps"]] == wanted


def test_aborted_members_are_counted_in_their_burst(answering: Answering) -> None:
    bursts = [[Member(0)], [Member(1), Member(2, abort=1)]]
    result, _ = generated(answering, some(1, 2, 9), bursts)
    assert [s["aborted"] for s in result["steps"]] == [0, 1]
    assert protocol.decode_array(result["observations"]["lengths"]).tolist() == [1, 2, 0]


def test_limits_hold_while_the_bursts_run_and_end_with_them(answering: Answering) -> None:
    generated(answering, some(1, 1), [[Member(0)], [Member(1)]], {"step_tokens": 61, "kv_growth": None})
    assert answering.seen == [{"step_tokens": 61, "free_blocks": None, "planted": None}] * 2
    assert not answering.file.exists()
    generated(answering, some(1), [[Member(0)]])
    assert answering.seen[-1] is None


def test_blocks_are_counted_for_each_burst(answering: Answering) -> None:
    # Of 16 tokens a block: 1 for each prompt, and in the end 1, 2 and 4.
    bursts = [[Member(0), Member(1)], [Member(2)]]
    generated(answering, some(1, 20, 60), bursts, {"kv_growth": 0.0})
    assert [seen["free_blocks"] for seen in answering.seen] == [2] * 20 + [4] * 60


def test_limits_end_also_when_the_engine_fails(answering: Answering) -> None:
    answering.fails = True
    with pytest.raises(RuntimeError, match="broken"):
        generated(answering, some(1), [[Member(0)]], {"step_tokens": 61})
    assert answering.seen == [{"step_tokens": 61, "free_blocks": None, "planted": None}]
    assert not answering.file.exists()


def test_an_unknown_limit_is_refused(answering: Answering) -> None:
    with pytest.raises(TypeError, match="max_requests"):
        generated(answering, some(1), [[Member(0)]], {"max_requests": 3})


def blocks(growth: float, burst: list[Request], size: int) -> int:
    """The blocks that ``_hold`` leaves free."""
    engine = Engine()
    engine.vllm_config.cache_config.block_size = size
    wrote: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(STEP_LOG_VARIABLE, "/nowhere")
        patch.setattr(
            step_limits, "write", lambda folder, step_tokens, free_blocks, planted: wrote.append(free_blocks)
        )
        worker._hold(offline(engine), Limits(kv_growth=growth), burst)
    (found,) = wrote
    return found


BURSTS = st.lists(
    st.builds(
        lambda length, steps: Request((1,) * length, steps, 0.0, None, 1),
        st.integers(1, 99),
        st.integers(1, 99),
    ),
    min_size=1,
    max_size=9,
)


@given(BURSTS, st.integers(1, 64), st.floats(0, 1))
def test_the_free_blocks_hold_every_prompt_and_the_largest_request_and_at_most_all(
    burst: list[Request], size: int, growth: float
) -> None:
    prompts = sum(math.ceil((len(r.prompt) + 1) / size) for r in burst)
    whole = [math.ceil((len(r.prompt) + r.max_tokens) / size) for r in burst]
    found = blocks(growth, burst, size)
    assert max(prompts, *whole) <= found <= sum(whole)
    assert blocks(0.0, burst, size) <= found <= blocks(1.0, burst, size) == sum(whole)


def test_a_growth_is_a_share_of_the_blocks_that_decoding_takes() -> None:
    burst = [Request((1,) * 15, 33, 0.0, None, 1)] * 4  # 1 block each at first, 3 in the end
    assert [blocks(growth, burst, 16) for growth in (0.0, 0.25, 0.5, 0.99, 1.0)] == [4, 6, 8, 11, 12]


def test_the_largest_request_alone_always_fits() -> None:
    burst = [Request((1,), 1, 0.0, None, 1), Request((1,) * 15, 145, 0.0, None, 1)]
    assert blocks(0.0, burst, 16) == 10


def test_a_burst_with_processed_requests_switches_the_sampler_and_back(
    answering: Answering, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str]] = []

    def rpc(_: object, name: str, mode: str) -> list[str]:
        asked.append((name, mode))
        return [mode]

    monkeypatch.setattr(OfflineEngine, "collective_rpc", rpc)
    monkeypatch.setattr(worker, "_processed", set())
    answering.vllm_config.model_config = SimpleNamespace(logprobs_mode="raw_logprobs")
    requests = [replace(request, processed=True) for request in some(1, 1)]
    generated(answering, [*requests, *some(1)], [[Member(0)], [Member(1), Member(2)]])
    modes = [("bi_harness_logprobs_mode", mode) for mode in ("processed_logprobs", "raw_logprobs")]
    assert asked == modes
    generated(answering, some(1), [[Member(0)]])
    assert asked == modes


def test_a_sampler_that_does_not_switch_is_refused(
    answering: Answering, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OfflineEngine, "collective_rpc", lambda *given: ["raw_logprobs"])
    monkeypatch.setattr(worker, "_processed", set())
    answering.vllm_config.model_config = SimpleNamespace(logprobs_mode="raw_logprobs")
    requests = [replace(request, processed=True) for request in some(1)]
    with pytest.raises(Refused, match="the logprobs mode was to be processed_logprobs"):
        generated(answering, requests, [[Member(0)]])


def test_tokens_that_a_mask_took_out_are_left_out_of_processed_logprobs(engine: Engine) -> None:
    request = replace(some(1)[0], top_k_logprobs=2, processed=True)
    step = {5: entry(-0.5, 1), 6: entry(float("-inf"), 2), 7: entry(float("-inf"), 3)}
    output = SimpleNamespace(
        prompt_token_ids=list(request.prompt),
        outputs=[SimpleNamespace(index=0, token_ids=[5], logprobs=[step])],
    )
    packed = worker._pack([output], [request])
    ids, logprobs = (protocol.decode_array(packed[name]) for name in ("ids", "logprobs"))
    assert ids.tolist() == [[[5, 5, -1]]]
    assert logprobs.tolist() == [[[-0.5, -0.5, 0.0]]]


def entry(logprob: float, rank: int) -> SimpleNamespace:
    return SimpleNamespace(logprob=logprob, rank=rank)
