"""Watching modules, on a small model that is like vLLM's in all that makes hooks hard: norms that write into
what they are given, a class that calls ``forward`` past the hooks, a head without a forward."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from bi_harness.engine.watch import rows  # noqa: E402
from bi_harness.engine.watch.layout import is_request  # noqa: E402
from bi_harness.engine.watch.watcher import Order, Watcher  # noqa: E402
from bi_harness.localize.culprit import Found, first_culprit, rows_of  # noqa: E402
from bi_harness.localize.measure import difference  # noqa: E402
from bi_harness.localize.seen import Seen, parse  # noqa: E402

nn = torch.nn
SIZE, VOCAB = 16, 40
Break = Callable[[str, Any], Any]


class Norm(nn.Module):  # type: ignore[misc, name-defined, unused-ignore]
    """As vLLM's fused kernel: the sum goes into ``residual``, the result into ``x``."""

    def __init__(self, name: str, broken: Break) -> None:
        super().__init__()
        self.name, self.broken = name, broken

    def forward(self, x: Any, residual: Any = None) -> Any:
        if residual is None:
            return self.broken(self.name, x / x.abs().sum(-1, keepdim=True))
        residual += x
        x.copy_(self.broken(self.name, residual / residual.abs().sum(-1, keepdim=True)))
        return x, residual


class Linear(nn.Module):  # type: ignore[misc, name-defined, unused-ignore]
    def __init__(self, name: str, width: int, broken: Break) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(width, SIZE))
        self.quant_method = SimpleNamespace(apply=self._apply_weight)
        self.name, self.broken = name, broken

    def _apply_weight(self, layer: Any, x: Any, bias: Any = None) -> Any:
        return self.broken(self.name, torch.stack([layer.weight @ row for row in x]))

    def forward(self, x: Any) -> Any:
        return self.quant_method.apply(self, x), None


class Head(Linear):
    def forward(self, x: Any) -> Any:
        raise RuntimeError("LMHead's weights should be used in the sampler.")


class Layer(nn.Module):  # type: ignore[misc, name-defined, unused-ignore]
    def __init__(self, name: str, broken: Break) -> None:
        super().__init__()
        self.norm = Norm(f"{name}.norm", broken)
        self.proj = Linear(f"{name}.proj", SIZE, broken)
        self.name, self.broken = name, broken

    def forward(self, x: Any, residual: Any) -> Any:
        x, residual = (self.norm(x), x) if residual is None else self.norm(x, residual)
        x, _ = self.proj(x)
        return self.broken(self.name, x), residual


class Inner(nn.Module):  # type: ignore[misc, name-defined, unused-ignore]
    """As a class that vLLM can compile: its ``__call__`` calls ``forward`` itself."""

    def __init__(self, broken: Break) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCAB, SIZE)
        self.layers = nn.ModuleList([Layer(f"model.layers.{i}", broken) for i in range(2)])
        self.norm = Norm("model.norm", broken)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.forward(*args, **kwargs)

    def forward(self, input_ids: Any, positions: Any) -> Any:
        x, residual = self.embed(input_ids) + positions[:, None], None
        for layer in self.layers:
            x, residual = layer(x, residual)
        return self.norm(x, residual)[0]


class Logits(nn.Module):  # type: ignore[misc, name-defined, unused-ignore]
    def forward(self, head: Any, hidden: Any) -> Any:
        return head.quant_method.apply(head, hidden)


class Model(nn.Module):  # type: ignore[misc, name-defined, unused-ignore]
    def __init__(self, broken: Break) -> None:
        super().__init__()
        self.model = Inner(broken)
        self.lm_head = Head("lm_head", VOCAB, broken)
        self.logits_processor = Logits()

    def forward(self, input_ids: Any, positions: Any) -> Any:
        return self.model(input_ids, positions)

    def compute_logits(self, hidden: Any) -> Any:
        return self.logits_processor(self.lm_head, hidden)


class Sampler(nn.Module):  # type: ignore[misc, name-defined, unused-ignore]
    def __init__(self, broken: Break) -> None:
        super().__init__()
        self.broken = broken

    def forward(self, logits: Any, metadata: Any) -> Any:
        return SimpleNamespace(tokens=self.broken("sampler", logits).argmax(-1))


class Runner:
    """As vLLM's model runner, as far as a watcher looks at it."""

    def __init__(self, broken: Break = lambda name, out: out) -> None:
        torch.manual_seed(0)
        self.model = Model(broken)
        self.sampler = Sampler(broken)
        self.input_batch = SimpleNamespace(req_ids=[], num_reqs=0, num_computed_tokens_cpu=np.zeros(64, int))
        self.query_start_loc = SimpleNamespace(np=np.zeros(65, int))

    def step(self, batch: Sequence[tuple[str, Sequence[int], int]], padding: int = 0) -> None:
        """One step of (name, token ids of the chunk, tokens computed before)."""
        own = self.input_batch
        own.req_ids, own.num_reqs = [name for name, _, _ in batch], len(batch)
        own.num_computed_tokens_cpu[: len(batch)] = [done for _, _, done in batch]
        lengths = [len(tokens) for _, tokens, _ in batch]
        self.query_start_loc.np[: len(batch) + 1] = [0, *itertools.accumulate(lengths)]
        ids = [t for _, tokens, _ in batch for t in tokens] + [0] * padding
        places = [done + i for _, tokens, done in batch for i in range(len(tokens))] + [0] * padding
        with torch.inference_mode():
            hidden = self.model(input_ids=torch.tensor(ids), positions=torch.tensor(places))
            last = torch.tensor([n - 1 for n in itertools.accumulate(lengths)])
            self.sampler(self.model.compute_logits(hidden[last]), None)

    def score(self, batch: Sequence[tuple[str, Sequence[int], int]], count: int) -> None:
        """A step whose first request's first ``count`` rows have their logits computed, too."""
        self.step(batch)
        tokens, done = batch[0][1], batch[0][2]
        with torch.inference_mode():
            hidden = self.model.model(torch.tensor(tokens), torch.arange(done, done + len(tokens)))
            self.model.compute_logits(hidden[:count])


class SecondRunner:
    """As vLLM's second model runner: its batch is made for each step, and its sampler is no module."""

    def __init__(self, broken: Break = lambda name, out: out) -> None:
        torch.manual_seed(0)
        self.model = Model(broken)
        self.sampler = lambda logits: logits

    def get_model(self) -> Any:
        return self.model

    def prepare_inputs(self, batch: Sequence[tuple[str, Sequence[int], int]], described: Any) -> Any:
        lengths = [len(tokens) for _, tokens, _ in batch]
        return SimpleNamespace(
            req_ids=[name for name, _, _ in batch],
            num_reqs=len(batch),
            query_start_loc_np=np.array([0, *itertools.accumulate(lengths)], np.int32),
            num_computed_tokens_np=np.array([done for _, _, done in batch], np.int32),
            ids=torch.tensor([t for _, tokens, _ in batch for t in tokens]),
            places=torch.tensor([done + i for _, tokens, done in batch for i in range(len(tokens))]),
        )

    def step(self, batch: Sequence[tuple[str, Sequence[int], int]], padding: int = 0) -> None:
        with torch.inference_mode():
            made = self.prepare_inputs(sorted(batch, key=lambda part: len(part[1])), None)
            hidden = self.model(input_ids=made.ids, positions=made.places)
            self.sampler(self.model.compute_logits(hidden[made.query_start_loc_np[1:] - 1]))


@pytest.mark.parametrize("name", ["model.layers.0.norm", "lm_head"])
def test_a_runner_that_makes_a_batch_for_each_step_is_watched_too(name: str) -> None:
    equal = SecondRunner()
    assert first_culprit(alone(equal), company(equal)).kind == "nothing"
    assert "prepare_inputs" not in vars(equal)
    broken = SecondRunner(broken_at(name, 2))
    culprit = first_culprit(alone(broken), company(broken))
    assert (culprit.kind, culprit.name) == ("module", name)


PROMPT = [3, 1, 4, 1, 5, 9, 2, 6]
OTHERS = [("7-x", [2, 7, 1, 8], 0), ("9-x", [1, 6, 1, 8, 0, 3], 0)]


def alone(runner: Runner | SecondRunner, **order: Any) -> Seen:
    watcher = Watcher(runner, Order("5", **order))
    runner.step([("5-ab", PROMPT, 0)])
    runner.step([("5-ab", [7], 8)])
    return parse({**watcher.finish(), "tp_rank": 0})


def company(runner: Runner | SecondRunner, padding: int = 0, **order: Any) -> Seen:
    watcher = Watcher(runner, Order("5", **order))
    runner.step([OTHERS[0], ("5-ab", PROMPT[:5], 0)], padding)
    runner.step([("5-ab", PROMPT[5:], 5), OTHERS[1], ("7-x", [3], 4)])
    runner.step([("7-x", [3], 5), ("5-ab", [7], 8)])
    return parse({**watcher.finish(), "tp_rank": 0})


def broken_at(name: str, rows_from: int = 3) -> Break:
    def broken(where: str, out: Any) -> Any:
        if where != name or out.shape[0] < rows_from:
            return out
        out = out.clone()
        out.view(torch.int32)[:] += 1
        return out

    return broken


def found(name: str = "", rows_from: int = 9) -> Found:
    runner = Runner(broken_at(name, rows_from))
    return first_culprit(alone(runner), company(runner))


@pytest.mark.parametrize("padding", [0, 3])
def test_a_model_that_computes_rows_by_themselves_is_equal_everywhere(padding: int) -> None:
    runner = Runner()
    one, other = alone(runner), company(runner, padding)
    result = first_culprit(one, other)
    assert result.kind == "nothing"
    calls = {call.name for call in one.calls}
    assert {"model.layers.0.norm", "model.layers.1.proj", "lm_head", "logits_processor", "(model)"} <= calls
    assert {"model", "(sampler)"} <= calls  # past the hooks, and outside of the model
    # Nine tokens in all modules of the forward; the last of each step in the head, its caller, the sampler.
    forward = {call.name for call in one.calls if len(call.positions) == 8}
    assert result.compared == 9 * len(forward) + 2 * 3


@pytest.mark.parametrize(
    "name", ["model.layers.0.norm", "model.layers.0.proj", "model.layers.1.norm", "model.norm"]
)
def test_a_broken_module_is_found_whatever_writes_into_its_inputs(name: str) -> None:
    result = found(name)
    assert (result.kind, result.name, result.position) == ("module", name, 0)


def test_a_head_without_a_forward_is_found() -> None:
    result = found("lm_head", rows_from=2)
    # The prompt's last token is the first whose row is sampled in both.
    assert (result.kind, result.name, result.position) == ("module", "lm_head", 7)


def test_what_lies_outside_of_modules_is_told_of_the_module_around_it() -> None:
    result = found("model.layers.1")
    assert (result.kind, result.name) == ("module", "model.layers.1")


def test_the_sampler_is_no_module_of_the_model() -> None:
    result = found("sampler", rows_from=2)
    assert result.name in ("(sampler)", "")  # its token may be the same; then nothing differs


def test_only_rows_in_the_large_step_differ() -> None:
    # Ten rows are in the second step alone, of which the request has positions 5 to 7.
    result = found("model.layers.1.proj", rows_from=10)
    assert (result.name, result.position) == ("model.layers.1.proj", 5)


def test_the_bits_of_the_suspect_alone_are_kept() -> None:
    name = "model.layers.0.norm"
    runner = Runner(broken_at(name, 9))
    order = {"kind": "values", "suspect": name, "positions": (0, 1)}
    one, other = alone(runner, **order), company(runner, **order)
    assert {call.name for call in (*one.calls, *other.calls)} == {name}
    inputs, outputs = difference(rows_of(one, (name, 0)), rows_of(other, (name, 0)), 0)
    (tensor,) = outputs
    assert (tensor.rows, tensor.differing_rows, tensor.values, tensor.differing_values) == (2, 2, 32, 32)
    assert (tensor.max_ulp, tensor.shape_alone, tensor.shape_batch) == (1, (8, SIZE), (9, SIZE))
    assert [tensor.path for tensor in inputs] == ["0.0"]


def test_the_operators_of_the_suspect_are_told() -> None:
    order = {"kind": "trace", "suspect": "model.layers.1.proj", "positions": (3,)}
    (call,) = alone(Runner(), **order).calls
    assert any("matmul" in line for line in call.ran)
    assert any("float32[16, 16]" in line for line in call.ran)


def test_everything_is_left_as_it_was() -> None:
    runner = Runner()
    before = [dict(vars(module)) for module in runner.model.modules()]
    alone(runner)
    assert [dict(vars(module)) for module in runner.model.modules()] == before


def test_rows_to_be_scored_are_known_by_their_bits() -> None:
    runner = Runner()
    watcher = Watcher(runner, Order("5"))
    runner.score([("5-ab", PROMPT, 0), OTHERS[0]], 7)
    seen = parse({**watcher.finish(), "tp_rank": 0})
    scored = [call for call in seen.calls if call.name == "lm_head"]
    assert [call.positions for call in scored] == [(7,), tuple(range(7))]


def test_a_request_is_known_by_its_number() -> None:
    assert is_request("57", "57", 0)
    assert is_request("57-9f3a2c1d", "57", 0)
    assert is_request("2_57-9f3a2c1d", "57", 2)
    assert not is_request("2_57-9f3a2c1d", "57", 0)
    assert not is_request("157-9f3a", "57", 0)
    assert not is_request("5", "57", 0)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "int64", "uint8", "bool"])
def test_one_bit_makes_another_digest(dtype: str) -> None:
    made = (torch.randn(50, 300) * 50).to(getattr(torch, dtype))
    other = made.clone()
    other[17, 123] = 1 if made[17, 123] == 0 else 0
    differs = rows.digests(made) != rows.digests(other)
    assert differs.nonzero().flatten().tolist() == [17]


def test_digests_do_not_depend_on_the_rows_beside() -> None:
    made = torch.randn(2000, 5000)
    assert torch.equal(rows.digests(made)[1990:], rows.digests(made[1990:]))
    assert torch.equal(rows.digests(made[:, ::2]), rows.digests(made[:, ::2].contiguous()))


def test_values_that_swap_places_make_another_digest() -> None:
    assert rows.digests(torch.tensor([[1.0, 2.0]])) != rows.digests(torch.tensor([[2.0, 1.0]]))
