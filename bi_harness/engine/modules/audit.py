"""The audit of a loaded model's modules, from its first look to the last figure. Worker side.

Asked step by step (``Audit.answer``), so that whoever drives it can tell how far it is: ``begin``; ``arm``
before requests run alone, and before they run together; ``captured``; ``measure`` for each call; ``rest``;
``end``.
"""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Iterator, Mapping
from typing import Any

from bi_harness.engine.modules.capture import Call, Capture, Unfit
from bi_harness.engine.modules.inventory import Kind, kinds
from bi_harness.engine.modules.replay import Replayed
from bi_harness.engine.modules.sequences import Compared, Sequences
from bi_harness.engine.ops.measure import Measured, bits, measure
from bi_harness.engine.ops.planted import WHAT, Planted
from bi_harness.engine.ops.sizes import batches, ranges, row_counts

MOST_BYTES = 1 << 28
"""Of a module's input or output in a batch; several are held at a time."""
TWICE = 8
"""Rows that are computed alone again, before and after the batches."""
MOST_FORMS = 12
"""Ways in which modules of one kind are called that are audited."""
BATCH = "a real batch"


class Audit:
    """Of one model.

    Args:
        model: loaded.
        runner: vLLM's model runner.
        vllm_config: of the engine.
    """

    def __init__(self, model: Any, runner: Any, vllm_config: Any) -> None:
        self._config = vllm_config
        self._layers = dict(vllm_config.compilation_config.static_forward_context)
        self._modules = {name: (module, kind) for name, module, kind in kinds(model, self._layers)}
        self._capture = Capture(self._modules, 0)
        self._sequences = Sequences(
            {name: module for name, (module, kind) in self._modules.items() if kind.sequence}, runner
        )
        self._done: set[str] = set()
        self._calls: list[Call] = []

    def answer(self, ask: str, given: Mapping[str, Any]) -> dict[str, Any]:
        """One step.

        Raises:
            ValueError: there is no such step.
        """
        if ask == "begin":
            self._capture = Capture(self._modules, int(given["rows"]))
            self._capture.open()
            self._sequences.open()
            return {"modules": len(self._modules)}
        if ask == "arm":
            self._sequences.arm = str(given["name"])
            return {}
        if ask == "captured":
            self.close()
            self._calls = _inner_first(self._capture.calls.values())
            return {"calls": [call.name for call in self._calls]}
        if ask == "measure":
            return {"record": self._measured(self._calls[int(given["index"])], given)}
        if ask == "rest":
            return {"records": [*self._of_sequences(planted=bool(given["planted"])), *self._others()]}
        if ask == "end":
            self.close()
            return {}
        raise ValueError(f"{ask} is no step of an audit")

    def close(self) -> None:
        """Take all hooks off."""
        self._capture.close()
        self._sequences.close()

    def _measured(self, call: Call, effort: Mapping[str, Any]) -> dict[str, Any]:
        record = {**_head(call.name, call.kind), "form": self._form(call), "instances": len(call.instances)}
        forms = [other for other in self._calls if other.kind == call.kind]
        if forms.index(call) >= MOST_FORMS:
            return {**record, "missing": f"modules of its kind are called in more than {MOST_FORMS} ways"}
        total = _Total()
        try:
            with _undisturbed(), self._configured():
                for name, module in call.instances.items():
                    whole = name == call.name
                    found = self._instance(module, name, call, effort, whole=whole)
                    if found[1].differing and not whole:
                        # Up to the largest batch, so that what is told of it is all that there is.
                        found = self._instance(module, name, call, effort, whole=True)
                    total.add(name, *found)
                if effort["planted"] and not total.differing:
                    record["planted"] = self._planted(call, effort)
        except Exception as error:
            traceback.print_exc()
            why = str(error) if isinstance(error, Unfit) else f"it raised {type(error).__name__}: {error}"
            return {**record, "missing": why[:500]}
        self._done |= set(call.instances)
        return {**record, **total.told()}

    def _form(self, call: Call) -> str:
        """With the names of the modules that it is given: it is them that compute."""
        names = {id(module): name for name, (module, _) in self._modules.items()}
        passed = [f" ({names[id(m)]})" for m in call.passed() if id(m) in names]
        return f"{call.form}{''.join(passed)}"

    def _instance(
        self, module: Any, name: str, call: Call, effort: Mapping[str, Any], *, whole: bool
    ) -> tuple[str, Measured, tuple[int, int], str]:
        made = Replayed(module, name, call, self._around)
        before = _fingerprint(module)
        subjects = effort["subjects"] if whole else effort["others_subjects"]
        most = self._most(made, effort["most_rows"] if whole else effort["others_rows"])
        subjects = min(subjects, most)
        device = str(call.rows()[0].device)
        twice = _Alone(made, min(TWICE, subjects))
        unlike = twice.again()
        counts = row_counts(most, effort["sample"] if whole else 0, effort["seed"])
        tried = batches(
            counts,
            subjects=subjects,
            least=min(effort["least"], subjects),
            seed=effort["seed"],
            every=effort["every"],
        )
        found = measure(made, tried, subjects=subjects, device=device, seed=effort["seed"])
        unlike = max(unlike, twice.again())
        return made.dtype, found, (twice.count, unlike), _other(before, _fingerprint(module))

    def _planted(self, call: Call, effort: Mapping[str, Any]) -> dict[str, Any]:
        made = Replayed(call.instances[call.name], call.name, call, self._around)
        counts = tuple(n for n in (2, 16, 17, 64) if n <= self._most(made, effort["most_rows"]))
        tried = batches(counts, subjects=32, least=32, seed=effort["seed"])
        device = str(call.rows()[0].device)
        found = measure(Planted(made), tried, subjects=32, device=device, seed=effort["seed"])
        total = _Total()
        total.add(call.name, made.dtype, found, (0, 0), "")
        return {"what": WHAT, **total.told()}

    def _most(self, made: Replayed, asked: int) -> int:
        engine = int(self._config.scheduler_config.max_num_batched_tokens)
        return max(2, min(asked, engine, MOST_BYTES // max(1, made.row_bytes)))

    def _of_sequences(self, *, planted: bool) -> Iterator[dict[str, Any]]:
        groups: dict[Kind, list[str]] = {}
        for name, (_, kind) in self._modules.items():
            if kind.sequence and name in self._capture.called:
                groups.setdefault(kind, []).append(name)
        # What is inside comes first: what holds it differs, too.
        for kind, names in sorted(groups.items(), key=lambda item: -_depth(item[1][0])):
            yield self._sequence(kind, names, planted=planted)

    def _sequence(self, kind: Kind, names: list[str], *, planted: bool) -> dict[str, Any]:
        record = {**_head(names[0], kind), "how": "sequences", "instances": len(names)}
        if trouble := [self._sequences.trouble[name] for name in names if name in self._sequences.trouble]:
            return {**record, "missing": trouble[0]}
        total, failing = Compared(), []
        for name in names:
            found = self._sequences.compared(name)
            total.add(found)
            if found.differing:
                failing.append(name)
        if not total.rows:
            return {
                **record,
                "missing": "none of its rows was there with the same input alone and in company",
            }
        self._done |= set(names)
        if planted and not total.differing:
            changed = Compared()
            changed.add(self._sequences.compared(names[0], planted=True))
            record["planted"] = {"what": "one bit of one value of a batch's first row", **_told(changed)}
        return {**record, "audited": len(names), "failing": failing, **_told(total)}

    def _others(self) -> Iterator[dict[str, Any]]:
        """What was neither fed rows nor seen in a sequence: what it was audited through, or why not."""
        passed = {
            id(module): call.name
            for call in self._calls
            for module in call.passed()
            if call.name in self._done
        }
        seen = {name for call in self._calls for name in call.instances}
        seen |= {name for name in self._capture.called if self._modules[name][1].sequence}
        groups: dict[tuple[Kind, str, str], list[str]] = {}
        for name, (module, kind) in self._modules.items():
            if name in seen:
                continue
            through = passed.get(id(module), "") or self._holder(name)
            missing = "" if through else self._why(name, module)
            if missing or kind.parameters:
                groups.setdefault((kind, _any_layer(through), missing), []).append(name)
        for (kind, through, missing), names in groups.items():
            if missing or through:
                yield {
                    **_head(names[0], kind),
                    "instances": len(names),
                    **({"through": through} if through else {"missing": missing}),
                }

    def _holder(self, name: str) -> str:
        """The nearest module around it that was audited, and so computed with it."""
        while "." in name:
            name = name.rpartition(".")[0]
            if name in self._done:
                return name
        return ""

    def _why(self, name: str, module: Any) -> str:
        if name in self._capture.trouble:
            return self._capture.trouble[name]
        import torch

        if type(module).forward is torch.nn.Module.forward and not list(module.parameters(recurse=False)):
            return ""  # a list of modules: it computes nothing
        return "no call of it was seen: nothing calls it, or vLLM calls its forward() past the hooks"

    @contextlib.contextmanager
    def _configured(self) -> Iterator[None]:
        import torch
        from vllm.config import set_current_vllm_config

        with set_current_vllm_config(self._config), torch.inference_mode():
            yield

    @contextlib.contextmanager
    def _around(self, module: Any, rows: int) -> Iterator[None]:
        from vllm.forward_context import get_forward_context, set_forward_context

        with set_forward_context(None, self._config, num_tokens=rows):
            context = get_forward_context()
            every = getattr(context, "all_moe_layers", None)
            if every:
                # Some releases find a mixture of experts by counting those that the step has called before.
                parts = {id(part) for part in module.modules()}
                mine = [name for name in every if id(self._layers.get(name)) in parts]
                context.moe_layer_index = every.index(mine[0]) if mine else 0
            yield


class _Alone:
    """Rows alone, once and then again: what a module gives a row must be the same each time."""

    def __init__(self, made: Replayed, count: int) -> None:
        self._made, self.count = made, count
        self._rows = made.subjects(count, None)
        self._once = self._bits()

    def again(self) -> int:
        """How many of them are not what they were the first time."""
        import torch

        again = self._bits()
        return sum(
            any(not torch.equal(a, b) for a, b in zip(one, other, strict=True))
            for one, other in zip(self._once, again, strict=True)
        )

    def _bits(self) -> list[list[Any]]:
        found = []
        for i in range(self.count):
            rows = tuple(row[i : i + 1].clone() for row in self._rows)
            found.append([bits(part) for part in self._made.call(rows)])
        return found


class _Total:
    """What all instances of a kind gave."""

    def __init__(self) -> None:
        self.differing = 0
        self._found: list[tuple[str, Measured, tuple[int, int], str]] = []
        self._dtype = ""

    def add(self, name: str, dtype: str, found: Measured, alone: tuple[int, int], changed: str) -> None:
        """Take one instance's."""
        self._dtype = self._dtype or dtype
        self.differing += found.differing
        self._found.append((name, found, alone, changed))

    def told(self) -> dict[str, Any]:
        """For JSON."""
        sizes: dict[int, bool] = {}
        for _, found, _, _ in self._found:
            if self.differing and not found.differing:
                continue  # sizes that the others were not tried at would read as if they held there
            for size in found.sizes:
                sizes[size.rows] = sizes.get(size.rows, True) and not size.differing
        firsts = [found.first for _, found, _, _ in self._found if found.first is not None]
        first = min(firsts, key=lambda f: f.rows, default=None)
        wrong = [
            name
            for name, found, (_, unlike), changed in self._found
            if found.differing or found.unequal or unlike or changed
        ]
        return {
            "dtype": self._dtype,
            "audited": len(self._found),
            "failing": wrong,
            "rows": sum(found.compared for _, found, _, _ in self._found),
            "differing": self.differing,
            "values": sum(found.values for _, found, _, _ in self._found),
            "max_ulp": max(found.max_ulp for _, found, _, _ in self._found),
            "repeated": sum(found.repeated for _, found, _, _ in self._found),
            "unequal": sum(found.unequal for _, found, _, _ in self._found),
            "alone": sum(count for _, _, (count, _), _ in self._found),
            "unrepeatable": sum(unlike for _, _, (_, unlike), _ in self._found),
            "changed": next((changed for *_, changed in self._found if changed), ""),
            "first": {"rows": first.rows, "place": first.place, "beside": first.filler} if first else None,
            "ranges": _ranges(sizes),
        }


def _told(found: Compared) -> dict[str, Any]:
    first = found.first
    return {
        "rows": found.rows,
        "differing": found.differing,
        "first": {"rows": first[0], "place": first[1], "beside": BATCH} if first is not None else None,
        "ranges": _ranges({size: not differing for size, (_, differing) in found.sizes.items()}),
    }


def _ranges(sizes: Mapping[int, bool]) -> list[dict[str, Any]]:
    return [
        {"first": first, "last": last, "holds": holds} for first, last, holds in ranges(sorted(sizes.items()))
    ]


def _head(name: str, kind: Kind) -> dict[str, Any]:
    return {
        "type": kind.cls,
        "name": name,
        "weights": list(kind.weights),
        "quant": kind.quant,
        "parameters": kind.parameters,
    }


def _inner_first(calls: Any) -> list[Call]:
    """What is inside of others before them: of several that differ, the first is the one that does it."""
    return sorted(calls, key=lambda call: -_depth(call.name))


def _depth(name: str) -> int:
    return name.count(".")


def _any_layer(name: str) -> str:
    return ".".join("*" if part.isdigit() else part for part in name.split("."))


def _fingerprint(module: Any) -> dict[str, int]:
    """Of all its weights and buffers, parts included: a sum of their bits each."""
    import torch

    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    return {
        name: int(bits(tensor.detach()).sum(dtype=torch.int64))
        for name, tensor in tensors.items()
        if tensor.numel()
    }


def _other(before: Mapping[str, int], after: Mapping[str, int]) -> str:
    """The first of them that is another now; empty when none is."""
    return next((name for name in {**before, **after} if before.get(name) != after.get(name)), "")


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """The engine's streams of random numbers are afterwards where they were."""
    import torch

    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        yield
