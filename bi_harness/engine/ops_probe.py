"""Measures single operators of the installed vLLM, in a process of its own, under the engine's interpreter.

From the harness: ``python -m bi_harness.engine.ops_probe SETUP.json COMMANDS ANSWERS PARENT``, with JSON
lines over two pipes. By hand, on any host that has vLLM::

    VLLM_BATCH_INVARIANT=1 python -m bi_harness.engine.ops_probe --device cuda --json

which measures every operator at the shape of Qwen3-1.7B (``--config`` for another ``config.json``) and
prints a line for each; without ``--json`` a line for people.

Worker side: standard library, torch and vLLM alone.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bi_harness.engine.facts import devices, provenance
from bi_harness.engine.ops.base import DTYPES, Made, Missing, Op, Setting
from bi_harness.engine.ops.measure import Measured, measure
from bi_harness.engine.ops.planted import WHAT, Planted
from bi_harness.engine.ops.setting import dims, invariance_by, open_vllm
from bi_harness.engine.ops.sizes import Batch, batches, ranges, row_counts
from bi_harness.engine.ops.table import OPS, op

QWEN3_1_7B = {
    "model_type": "qwen3",
    "vocab_size": 151936,
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "hidden_act": "silu",
    "max_position_embeddings": 40960,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000,
    "tie_word_embeddings": True,
}
MOST_BYTES = 1 << 28
"""Of one tensor of a batch, on a CPU."""
GPU_PART = 40
"""One tensor of a batch may have one part in so many of a GPU's memory."""
SPARE_BYTES = 1 << 30
"""So much unused memory of a GPU may be kept from one operator to the next."""
MESSAGE_LIMIT = 2000


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is tried of each operator.

    Attributes:
        subjects: rows that are compared with themselves alone.
        least: rows compared at each batch size, at least.
        most_rows: the largest batch.
        sample: batch sizes besides the powers of two and their neighbours.
        every: each so-many-th batch size has neighbours of zeros and of large values, too.
        told_rows: the largest batch of what is told and not judged.
        all_dtypes: whether operators are measured in other dtypes than those that the model's engines have.
        seed: of all that is drawn.
    """

    subjects: int = 256
    least: int = 64
    most_rows: int = 4096
    sample: int = 8
    every: int = 4
    told_rows: int = 4096
    all_dtypes: bool = True
    seed: int = 0


class Probe:
    """The operators of this process's vLLM.

    Args:
        device: torch's name of it.
        config: of the model, as transformers has it.
        dtype: the model's.
        vllm_config: see ``open_vllm``.
        ranks: of tensor parallel engines.
    """

    def __init__(
        self, device: str, config: Mapping[str, Any], dtype: str, vllm_config: Any, ranks: int = 1
    ) -> None:
        self.device, self.dims, self.dtype = device, dims(config), dtype
        self._vllm_config, self._ranks = vllm_config, ranks
        self._most_bytes = _most_bytes(device)

    def of(self, name: str, effort: Effort, *, planted_too: bool) -> Iterator[dict[str, Any]]:
        """What is measured of an operator, a record for each dtype.

        Args:
            planted_too: where no difference is found, measure a planted one.
        """
        wanted = op(name)
        for dtype in self._dtypes(wanted, effort):
            yield self._measured(wanted, dtype, {}, effort, planted_too=planted_too)

    def drawn(
        self, name: str, dtype: str, shape: Mapping[str, int], rows: int, seed: int, *, planted: bool
    ) -> dict[str, Any]:
        """The same for a drawn shape and one batch size; with a planted difference where that is asked."""
        effort = Effort(subjects=min(32, max(rows, 2)), least=32, most_rows=rows, seed=seed)
        return self._measured(op(name), dtype, shape, effort, planted_too=planted, only=rows)

    def _dtypes(self, wanted: Op, effort: Effort) -> tuple[str, ...]:
        if "model" in wanted.dtypes:
            return (self.dtype,)
        if effort.all_dtypes or self.dtype not in wanted.dtypes:
            return wanted.dtypes
        return tuple(dict.fromkeys((self.dtype, *wanted.also)))

    def _measured(
        self,
        wanted: Op,
        dtype: str,
        shape: Mapping[str, int],
        effort: Effort,
        *,
        planted_too: bool,
        only: int | None = None,
    ) -> dict[str, Any]:
        began = time.monotonic()
        record: dict[str, Any] = {
            "op": wanted.name,
            "family": wanted.family,
            "dtype": dtype,
            "unit": wanted.unit,
            "judged": wanted.judged(self.device, dtype, self.dtype),
            "promised": self.device in wanted.promised,
        }
        setting = Setting(
            device=self.device,
            seed=effort.seed,
            dims={**self.dims, **shape},
            dtype=dtype,
            vllm_config=self._vllm_config,
            most_bytes=self._most_bytes,
            ranks=self._ranks,
        )
        try:
            _give_back(self.device)
            with _current(self._vllm_config), _inference():
                made = wanted.make(setting)
                record |= self._run(wanted, made, setting, effort, planted_too=planted_too, only=only)
        except Missing as missing:
            record["missing"] = str(missing)[:MESSAGE_LIMIT]
        except Exception as error:
            traceback.print_exc()
            record["error"] = f"{type(error).__name__}: {error}"[:MESSAGE_LIMIT]
        record["seconds"] = round(time.monotonic() - began, 3)
        return record

    def _run(
        self, wanted: Op, made: Made, setting: Setting, effort: Effort, *, planted_too: bool, only: int | None
    ) -> dict[str, Any]:
        judged = wanted.judged(self.device, setting.dtype, self.dtype)
        asked = effort.most_rows if judged or only is not None else min(effort.told_rows, effort.most_rows)
        most = max(2, min(wanted.most_rows, asked, setting.most_bytes // made.row_bytes))
        subjects = min(effort.subjects * wanted.times, most)
        least = effort.least * wanted.times
        counts = row_counts(most, effort.sample, effort.seed) if only is None else (min(only, most),)
        every = effort.every if only is None else 1
        tried = batches(counts, subjects=subjects, least=least, seed=effort.seed, every=every)
        found = measure(made, tried, subjects=subjects, device=self.device, seed=effort.seed)
        record = {"where": made.where, "shape": made.shape, "bound": made.bound, **told(found)}
        if planted_too and not found.differing:
            record["planted"] = self._planted(made, subjects, most, effort)
        return record

    def _planted(self, made: Made, subjects: int, most: int, effort: Effort) -> dict[str, Any]:
        counts = tuple(n for n in (2, 16, 17, 64) if n <= most)
        tried: tuple[Batch, ...] = batches(counts, subjects=min(subjects, 32), least=32, seed=effort.seed)
        found = measure(
            Planted(made), tried, subjects=min(subjects, 32), device=self.device, seed=effort.seed
        )
        return {"what": WHAT, **told(found)}


def told(found: Measured) -> dict[str, Any]:
    """What was measured, for JSON."""
    return {
        "rows": found.compared,
        "differing": found.differing,
        "first": {"rows": found.first.rows, "place": found.first.place, "filler": found.first.filler}
        if found.first
        else None,
        "max_ulp": found.max_ulp,
        "repeated": found.repeated,
        "unequal": found.unequal,
        # JSON has no infinity.
        "distance": min(found.error, 1e30),
        "sizes": [[size.rows, size.compared, size.differing] for size in found.sizes],
        "ranges": [list(part) for part in ranges([(s.rows, not s.differing) for s in found.sizes])],
    }


def _give_back(device: str) -> None:
    """Memory that torch keeps of the operators before, to the processes beside this one."""
    if device == "cpu":
        return
    import torch

    if torch.cuda.memory_reserved() - torch.cuda.memory_allocated() > SPARE_BYTES:
        torch.cuda.empty_cache()


def _most_bytes(device: str) -> int:
    if device == "cpu":
        return MOST_BYTES
    import torch

    return int(torch.cuda.get_device_properties(device).total_memory) // GPU_PART


@contextlib.contextmanager
def _current(vllm_config: Any) -> Iterator[None]:
    from vllm.config import set_current_vllm_config

    with set_current_vllm_config(vllm_config):
        yield


@contextlib.contextmanager
def _inference() -> Iterator[None]:
    import torch

    with torch.inference_mode():
        yield


def effective(device: str, dtype: str, vllm_config: Any) -> dict[str, Any]:
    """What this process runs, read back."""
    import torch
    import vllm
    from vllm.platforms import current_platform

    from bi_harness.invariance.faults import registry

    by = invariance_by()
    backend = getattr(getattr(vllm_config, "attention_config", None), "backend", None)
    return {
        "vllm": vllm.__version__,
        "torch": torch.__version__,
        "platform": current_platform.device_type,
        "device": device,
        "devices": devices(),
        "invariance": bool(by),
        "invariance_by": by,
        "enforce_eager": bool(vllm_config.model_config.enforce_eager),
        "custom_ops": list(vllm_config.compilation_config.custom_ops),
        "attention_backend": getattr(backend, "name", backend),
        "dtype": dtype,
        "threads": torch.get_num_threads(),
        **({"planted_fault": fault} if (fault := registry.planted()) else {}),
    }


def serve(setup: Mapping[str, Any], commands: int, answers: int) -> int:
    """Answer the harness until it hangs up."""
    with os.fdopen(commands, encoding="utf-8") as asked, os.fdopen(answers, "w", encoding="utf-8") as out:

        def say(message: Mapping[str, Any]) -> None:
            if "record" in message:
                sys.stderr.write(_line(message["record"]) + "\n")  # for the log
            out.write(json.dumps(message) + "\n")
            out.flush()

        try:
            probe, told_ = _open(setup)
        except Exception as error:
            traceback.print_exc()
            say({"event": "refused", "why": f"{type(error).__name__}: {error}"[:MESSAGE_LIMIT]})
            return 1
        say({"event": "ready", "effective": told_, "provenance": provenance()})
        for line in asked:
            command = json.loads(line)
            if command["do"] == "measure":
                effort = Effort(**command["effort"])
                for record in probe.of(command["op"], effort, planted_too=command["planted"]):
                    say({"event": "record", "record": record})
                say({"event": "done"})
            else:
                record = probe.drawn(
                    command["op"],
                    command["dtype"],
                    command["shape"],
                    command["rows"],
                    command["seed"],
                    planted=command["planted"],
                )
                say({"event": "record", "record": record})
    return 0


def _open(setup: Mapping[str, Any]) -> tuple[Probe, dict[str, Any]]:
    folder = Path(setup["folder"])
    vllm_config = open_vllm(
        folder,
        config=setup["config"],
        dtype=setup["dtype"],
        backend=setup["backend"],
        max_model_len=setup["max_model_len"],
    )
    probe = Probe(setup["device"], setup["config"], setup["dtype"], vllm_config, setup["ranks"])
    return probe, effective(setup["device"], setup["dtype"], vllm_config)


def by_hand(argv: list[str]) -> int:
    """The command of a person."""
    parser = argparse.ArgumentParser(prog="python -m bi_harness.engine.ops_probe")
    parser.add_argument("--device", choices=["cpu", "cuda"], required=True)
    parser.add_argument("--config", type=Path, help="a model's config.json; Qwen3-1.7B's shape by default")
    parser.add_argument("--dtype", default="bfloat16", choices=DTYPES)
    parser.add_argument("--backend", help="of attention; vLLM's choice by default")
    parser.add_argument("--ranks", type=int, default=1, help="tensor parallel ranks, for all_reduce")
    parser.add_argument("--op", action="append", help="only this operator (repeatable)")
    parser.add_argument("--family", action="append", help="only this family (repeatable)")
    parser.add_argument("--subjects", type=int, default=256)
    parser.add_argument("--most-rows", type=int, default=4096)
    parser.add_argument("--sample", type=int, default=8)
    parser.add_argument("--model-dtype-alone", action="store_true", help="no other dtypes than the model's")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--planted", action="store_true", help="where nothing differs, plant a difference")
    parser.add_argument("--json", action="store_true", help="a JSON line for each operator and dtype")
    given = parser.parse_args(argv)
    # As for engines: without FlashInfer installed its sampler fails.
    os.environ.setdefault("VLLM_USE_FLASHINFER_SAMPLER", "0")
    config = json.loads(given.config.read_text(encoding="utf-8")) if given.config else QWEN3_1_7B
    effort = Effort(
        subjects=given.subjects,
        most_rows=given.most_rows,
        sample=given.sample,
        all_dtypes=not given.model_dtype_alone,
        seed=given.seed,
    )
    with tempfile.TemporaryDirectory(prefix="bi-harness-ops-") as folder:
        setup = {"folder": folder, "config": config, "device": given.device, "dtype": given.dtype}
        setup["ranks"] = given.ranks
        probe, told_ = _open(
            {**setup, "backend": given.backend, "max_model_len": min(4096, dims(config)["positions"])}
        )
        _print(json.dumps({"effective": told_}) if given.json else str(told_))
        for wanted in OPS:
            if (given.op and wanted.name not in given.op) or (
                given.family and wanted.family not in given.family
            ):
                continue
            for record in probe.of(wanted.name, effort, planted_too=given.planted):
                _print(json.dumps(record) if given.json else _line(record))
    return 0


def _print(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _line(record: Mapping[str, Any]) -> str:
    head = f"{record['op']:32} {record['dtype']:9} {record['seconds']:7.2f} s  "
    if "missing" in record or "error" in record:
        return head + ("skip: " + record["missing"] if "missing" in record else "error: " + record["error"])
    parts = [f"{a}-{b} {'holds' if holds else 'VARIES'}" for a, b, holds in record["ranges"]]
    shown = ", ".join(parts[:6]) + (", ..." if len(parts) > 6 else "")
    return head + (
        f"{record['differing']}/{record['rows']} differ, max {record['max_ulp']} ULP, "
        f"off float64 by {record['distance']:.2f} of the bound, again {record['unequal']} differ; "
        f"{'judged' if record['judged'] else 'told'}; {record['where']} [{record['shape']}]; {shown}"
    )


def main(argv: list[str]) -> int:
    """See the module."""
    if argv and not argv[0].startswith("-"):
        from bi_harness.engine.orphan import die_with_parent

        die_with_parent(int(argv[3]))
        return serve(json.loads(Path(argv[0]).read_text(encoding="utf-8")), int(argv[1]), int(argv[2]))
    return by_hand(argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
