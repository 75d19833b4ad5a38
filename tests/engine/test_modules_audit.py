"""The audit of modules, on a small model that is made up to be right or wrong; no vLLM."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from bi_harness.certificate.modules import HOLDS, found  # noqa: E402
from bi_harness.certificate.records import ModuleResult  # noqa: E402
from bi_harness.engine.modules.audit import Audit  # noqa: E402
from bi_harness.engine.modules.capture import Unfit, form_of  # noqa: E402
from bi_harness.engine.modules.inventory import kinds  # noqa: E402

EFFORT = {
    "subjects": 12,
    "least": 12,
    "most_rows": 65,
    "sample": 2,
    "every": 2,
    "others_subjects": 6,
    "others_rows": 33,
    "seed": 0,
    "planted": False,
}
Change = Callable[[Any, Any], Any]


class Norm(torch.nn.Module):  # type: ignore[misc]
    """Works in place, as vLLM's kernels do."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(8), requires_grad=False)

    def forward(self, x: Any, residual: Any = None) -> Any:
        if residual is None:
            return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + 1e-6) * self.weight
        residual += x
        x.copy_(residual * torch.rsqrt((residual * residual).mean(-1, keepdim=True) + 1e-6) * self.weight)
        return x, residual


class Scale(torch.nn.Module):  # type: ignore[misc]
    """Row by row, and what ``change`` makes of it: called with the module and its result."""

    def __init__(self, change: Change = lambda self, out: out) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.full((8,), 1.5), requires_grad=False)
        self.register_buffer("seen", torch.zeros(1))
        self.change = change
        self.calls = 0

    def forward(self, x: Any) -> Any:
        self.calls += 1
        return self.change(self, x * self.weight), None


class Keeps(torch.nn.Module):  # type: ignore[misc]
    """Adds up what it saw of a request, as attention does: not of its rows alone."""

    def __init__(self) -> None:
        super().__init__()
        self.kv_cache: list[Any] = []

    def forward(self, x: Any) -> Any:
        return x + 1


class Head(torch.nn.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(8, 4), requires_grad=False)


class Logits(torch.nn.Module):  # type: ignore[misc]
    def forward(self, head: Any, x: Any) -> Any:
        # One row at a time: torch's own product is not what is tested here.
        return torch.stack([(row[:, None] * head.weight).sum(0) for row in x])


class Layer(torch.nn.Module):  # type: ignore[misc]
    def __init__(self, change: Change) -> None:
        super().__init__()
        self.norm, self.scale, self.attn = Norm(), Scale(change), Keeps()

    def forward(self, x: Any, residual: Any) -> Any:
        if residual is None:
            x, residual = self.norm(x), x
        else:
            x, residual = self.norm(x, residual)
        return self.scale(self.attn(x))[0], residual


class Model(torch.nn.Module):  # type: ignore[misc]
    def __init__(self, change: Change = lambda self, out: out, **parts: Any) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList(
            Layer(change if i == 1 else lambda self, out: out) for i in range(3)
        )
        self.head, self.logits = Head(), Logits()
        for name, part in parts.items():
            setattr(self, name, part)
        self.parts = parts

    def forward(self, x: Any) -> Any:
        residual = None
        for layer in self.layers:
            x, residual = layer(x.clone(), residual)
        for name in self.parts:
            getattr(self, name)(x.clone())
        return self.logits(self.head, x)


class Runner:
    """Runs steps as vLLM's model runner does: requests side by side, each with some tokens."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.input_batch = SimpleNamespace(req_ids=[])

    def execute_model(self, output: Any) -> Any:
        self.input_batch.req_ids = list(output.num_scheduled_tokens)
        rows = [
            torch.randn(16, 8, generator=torch.Generator().manual_seed(sum(output.prompts[request])))[
                start : start + count
            ]
            for request, count in output.num_scheduled_tokens.items()
            for start in [output.starts[request]]
        ]
        return self.model(torch.cat(rows))


def step(runner: Runner, *prompts: tuple[int, ...]) -> None:
    """A prefill of some requests, and one decode step."""
    names = {f"r{i}": prompt for i, prompt in enumerate(prompts)}
    none = SimpleNamespace(req_ids=[], num_computed_tokens=[])
    runner.execute_model(
        SimpleNamespace(
            prompts=names,
            starts=dict.fromkeys(names, 0),
            num_scheduled_tokens={name: len(prompt) for name, prompt in names.items()},
            scheduled_new_reqs=[
                SimpleNamespace(req_id=name, prompt_token_ids=list(prompt), num_computed_tokens=0)
                for name, prompt in names.items()
            ],
            scheduled_cached_reqs=none,
        )
    )
    starts = {name: len(prompt) for name, prompt in names.items()}
    runner.execute_model(
        SimpleNamespace(
            prompts=names,
            starts=starts,
            num_scheduled_tokens=dict.fromkeys(names, 1),
            scheduled_new_reqs=[],
            scheduled_cached_reqs=SimpleNamespace(
                req_ids=list(starts), num_computed_tokens=list(starts.values())
            ),
        )
    )


PROMPTS = tuple(tuple(range(i, i + 3 + i)) for i in range(4))


@pytest.fixture(autouse=True)
def _without_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextlib.contextmanager
    def nothing(*_: Any) -> Iterator[None]:
        yield

    monkeypatch.setattr(Audit, "_configured", nothing)
    monkeypatch.setattr(Audit, "_around", nothing)


def audit(model: Model, *, planted: bool = False, **effort: Any) -> dict[str, dict[str, Any]]:
    """The records by type, form and name of what a whole audit gives."""
    runner = Runner(model)
    config = SimpleNamespace(
        compilation_config=SimpleNamespace(static_forward_context={}),
        scheduler_config=SimpleNamespace(max_num_batched_tokens=4096),
    )
    asked = Audit(model, runner, config)
    asked.answer("begin", {"rows": 12})
    asked.answer("arm", {"name": "alone"})
    for prompt in PROMPTS:
        step(runner, prompt)
    asked.answer("arm", {"name": "together"})
    step(runner, *PROMPTS)
    calls = asked.answer("captured", {})["calls"]
    records = [
        asked.answer("measure", {**EFFORT, **effort, "planted": planted, "index": i})["record"]
        for i in range(len(calls))
    ]
    records += asked.answer("rest", {"planted": planted})["records"]
    asked.answer("end", {})
    assert "execute_model" not in vars(runner)
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in model.modules())
    return {" ".join(filter(None, (r["type"], r.get("form", "")))): r for r in records}


def result(record: dict[str, Any]) -> ModuleResult:
    return ModuleResult(**{k: v for k, v in record.items() if k != "planted"})


def said(record: dict[str, Any]) -> str:
    return found(result(record))


def test_a_healthy_model_holds_in_every_module_and_form() -> None:
    records = audit(Model())
    assert {name: said(r) for name, r in records.items()} == {
        "Norm float32[8]": HOLDS,
        "Norm float32[8], float32[8]": HOLDS,
        "Scale float32[8]": HOLDS,
        "Logits float32[8], Head (head)": HOLDS,
        "Keeps": HOLDS,
        "Layer": HOLDS,
        "Head": "audited through logits",
    }
    scale = result(records["Scale float32[8]"])
    assert (scale.instances, scale.audited, scale.parameters) == (3, 3, 1)
    assert (scale.ranges[0].first, scale.ranges[-1].last, scale.dtype) == (1, 65, "float32")
    assert scale.rows > 100
    # The first norm of a model has no residual: the others are called in another way.
    assert result(records["Norm float32[8], float32[8]"]).instances == 2


def test_an_in_place_norm_is_fed_the_same_rows_again_and_again_and_the_model_stays_what_it_was() -> None:
    model = Model()
    before = {name: p.clone() for name, p in model.named_parameters()}
    state = torch.get_rng_state()
    assert said(audit(model)["Norm float32[8], float32[8]"]) == HOLDS
    assert all(torch.equal(before[name], p) for name, p in model.named_parameters())
    assert torch.equal(state, torch.get_rng_state())


def moved(rows: int) -> Change:
    """In batches of so many rows or more, the last row is a ULP away."""

    def change(self: Any, out: Any) -> Any:
        if out.shape[0] >= rows:
            out = out.clone()
            out.view(torch.int32)[-1] += 1
        return out

    return change


def test_one_instance_that_moves_is_found_and_named_with_the_batch_size() -> None:
    record = audit(Model(moved(17)))["Scale float32[8]"]
    assert record["failing"] == ["layers.1.scale"]
    assert (record["first"]["rows"], record["max_ulp"]) == (17, 1)
    # Of each row that differs, all eight values do.
    assert record["values"] == 8 * record["differing"] > 0
    assert said(record).startswith("differs from M = 17")
    # Not as far as other instances are tried, but to the end.
    assert [p["holds"] for p in record["ranges"]] == [True, False]
    assert record["ranges"][-1]["last"] == 65


def test_a_switch_beyond_every_real_batch_is_found() -> None:
    # The requests' largest step has 18 rows.
    record = audit(Model(extra=Scale(moved(64))), others_rows=65)["Scale float32[8]"]
    assert record["failing"] == ["extra"]
    assert record["first"]["rows"] == 64


def test_what_holds_a_part_that_moves_comes_after_it() -> None:
    records = audit(Model(moved(2)))
    names = list(records)
    assert names.index("Scale float32[8]") < names.index("Layer")
    assert said(records["Keeps"]) == HOLDS
    assert records["Layer"]["failing"] == ["layers.1"]
    assert records["Layer"]["how"] == "sequences"


def noise(self: Any, out: Any) -> Any:
    return out + random.SystemRandom().random()


def counted(self: Any, out: Any) -> Any:
    return out + self.calls


def writes(self: Any, out: Any) -> Any:
    self.seen += 1
    return out


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (noise, "not repeatable: "),
        (counted, "not repeatable: "),
        (writes, "calls change its seen, in extra of 4"),
    ],
)
def test_what_is_no_function_of_its_rows_is_a_failure_of_its_own(change: Change, says: str) -> None:
    record = audit(Model(extra=Scale(change)))["Scale float32[8]"]
    assert said(record).startswith(says)
    assert record["failing"] == ["extra"]


class Gives(torch.nn.Module):  # type: ignore[misc]
    """Gives what it is told to."""

    def __init__(self, what: Callable[[Any], Any]) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(2), requires_grad=False)
        self.what = what

    def forward(self, x: Any) -> Any:
        return self.what(x)


def raises(x: Any) -> Any:
    if x.shape[0] == 33:
        raise RuntimeError("33 is too many")
    return x


@pytest.mark.parametrize(
    ("what", "says"),
    [
        (lambda x: None, "it does not give a row for each row: it gives NoneType"),
        (lambda x: "text", "it does not give a row for each row: it gives str"),
        (lambda x: x.sum(), "it does not give a row for each row: it gives Tensor"),
        (lambda x: (), "it does not give a row for each row: it gives nothing"),
        (lambda x: x[:20], "it does not give "),
        (raises, "it raised RuntimeError: 33 is too many"),
    ],
)
def test_what_cannot_be_fed_is_not_audited_and_says_why(what: Callable[[Any], Any], says: str) -> None:
    record = audit(Model(extra=Gives(what)))["Gives float32[8]"]
    assert record["missing"].startswith(says)
    assert said(record).startswith("not audited: ")
    assert "rows" not in record


@pytest.mark.parametrize(
    "what", [lambda x: (x, None), lambda x: [x, torch.ones(2)], lambda x: (torch.ones(3), x)]
)
def test_a_tuple_is_looked_through_for_rows(what: Callable[[Any], Any]) -> None:
    assert said(audit(Model(extra=Gives(what)))["Gives float32[8]"]) == HOLDS


def test_a_result_that_the_next_call_writes_over_is_kept_as_it_was() -> None:
    memory = torch.zeros(4096, 8)

    def reused(x: Any) -> Any:
        memory[: x.shape[0]] = x * 2
        return memory[: x.shape[0]]

    assert said(audit(Model(extra=Gives(reused)))["Gives float32[8]"]) == HOLDS


def test_a_module_that_nothing_calls_is_told() -> None:
    model = Model()
    model.spare = Gives(lambda x: x)
    record = audit(model)["Gives"]
    assert record["missing"].startswith("no call of it was seen")
    assert record["parameters"] == 1


def test_neighbours_of_large_values_are_tried() -> None:
    def largest(self: Any, out: Any) -> Any:
        # One scale for the whole batch.
        scale = out.abs().max()
        return (out / scale) * scale

    record = audit(Model(extra=Scale(largest)))["Scale float32[8]"]
    assert record["failing"] == ["extra"]


def test_a_planted_difference_is_seen_where_there_is_no_other() -> None:
    records = audit(Model(moved(2)), planted=True)
    assert "planted" not in records["Scale float32[8]"]
    norm = records["Norm float32[8]"]["planted"]
    assert norm["differing"] > 0
    assert norm["first"]["rows"] == 17
    assert records["Keeps"]["planted"]["differing"] > 0


def test_a_step_that_there_is_not_is_refused() -> None:
    model = Model()
    config = SimpleNamespace(compilation_config=SimpleNamespace(static_forward_context={}))
    with pytest.raises(ValueError, match="no step of an audit"):
        Audit(model, Runner(model), config).answer("guess", {})


def test_a_runner_that_does_not_tell_its_order_leaves_what_keeps_something_unaudited() -> None:
    model = Model()
    runner = Runner(model)
    config = SimpleNamespace(compilation_config=SimpleNamespace(static_forward_context={}))
    asked = Audit(model, runner, config)
    asked.answer("begin", {"rows": 4})
    asked.answer("arm", {"name": "alone"})
    runner.input_batch = SimpleNamespace(req_ids=[])
    original = model.forward
    runner.execute_model(
        SimpleNamespace(
            prompts={"a": (1, 2)},
            starts={"a": 0},
            num_scheduled_tokens={"a": 2},
            scheduled_new_reqs=[SimpleNamespace(req_id="a", prompt_token_ids=[1, 2], num_computed_tokens=0)],
            scheduled_cached_reqs=SimpleNamespace(req_ids=[], num_computed_tokens=[]),
        )
    )
    assert model.forward == original
    runner.input_batch.req_ids = ["b"]
    model(torch.randn(2, 8))
    asked.answer("captured", {})
    kept = [r for r in asked.answer("rest", {"planted": False})["records"] if r["type"] == "Keeps"]
    assert "does not tell the order" in kept[0]["missing"]


def test_kinds_are_told_apart_by_class_weights_and_quantization() -> None:
    model = Model(extra=Scale(), other=Scale())
    model.other.quant_method = SimpleNamespace()
    model.extra.weight = torch.nn.Parameter(torch.ones(4))
    found = {name: kind for name, _, kind in kinds(model, {})}
    assert found["layers.0.scale"] == found["layers.2.scale"]
    assert len({found["layers.0.scale"], found["extra"], found["other"]}) == 3
    assert found["layers.0.scale"].weights == ("weight 8 float32", "seen 1 float32")
    assert found["layers.0"].sequence
    assert not found["layers.0.norm"].sequence


def test_a_layer_that_vllm_finds_by_name_keeps_something_only_where_it_has_a_cache() -> None:
    model = Model(experts=Scale(), state=Scale())
    model.state.get_kv_cache_spec = lambda: None
    found = {n: k for n, _, k in kinds(model, {"experts": model.experts, "state": model.state})}
    assert (found["experts"].sequence, found["state"].sequence) == (False, True)


def test_the_form_of_a_call_has_its_rows_and_what_is_the_same() -> None:
    x = torch.zeros(3, 8, dtype=torch.bfloat16)
    form, count, rows = form_of({0: torch.arange(3), 1: x, "bias": torch.zeros(5), "flag": True, "no": None})
    assert (count, len(rows)) == (3, 2)
    assert str(form) == "int64[], bfloat16[8], float32 tensor 5, flag=True"


@pytest.mark.parametrize(
    "given",
    [{}, {0: 1}, {0: torch.tensor(1.0)}, {0: torch.zeros(0, 3)}, {0: torch.zeros(2), 1: [torch.zeros(2)]}],
)
def test_a_call_without_rows_or_with_tensors_inside_is_unfit(given: dict[Any, Any]) -> None:
    with pytest.raises(Unfit):
        form_of(given)
