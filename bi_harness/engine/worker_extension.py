"""Methods that vLLM mixes into its worker class (``worker_extension_cls``), to read back what really runs.

Worker side: torch and vLLM alone. Every figure is read from live objects; what a release does not have is
left out rather than guessed.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

from bi_harness.engine import startup_counters, step_probe
from bi_harness.engine.step_probe import STEP_LOG_VARIABLE


class Readback:
    """Mixed into vLLM's worker; the names are prefixed because vLLM refuses a clash."""

    def bi_harness_effective(self) -> dict[str, Any]:
        """What this worker runs: its place, the invariance mode and planted fault of its process, attention
        backends by layer count, module classes, dtypes, threads. It is left in ``worker-*.json``, too: data
        parallel, vLLM passes on the answers of one rank alone."""
        import torch
        from vllm import envs

        from bi_harness.invariance import cpu
        from bi_harness.invariance.faults import registry

        runner = self.model_runner  # type: ignore[attr-defined]
        config = self.vllm_config  # type: ignore[attr-defined]
        model = runner.get_model() if hasattr(runner, "get_model") else runner.model
        layers = config.compilation_config.static_forward_context
        backends: Counter[str] = Counter()
        for layer in layers.values():
            backend = getattr(layer, "attn_backend", None)
            if backend is None and hasattr(layer, "get_attn_backend"):
                backend = layer.get_attn_backend()
            if backend is not None:
                backends[str(backend.get_name())] += 1
        dtypes = Counter(str(p.dtype).removeprefix("torch.") for p in model.parameters())
        compilation = config.compilation_config
        native = bool(getattr(envs, "VLLM_BATCH_INVARIANT", False))
        fault = registry.planted()
        answer = {
            "dp_rank": step_probe.data_parallel_rank(config),
            "tp_rank": self.rank % config.parallel_config.tensor_parallel_size,  # type: ignore[attr-defined]
            "invariance_by": [*cpu.active(), *(["VLLM_BATCH_INVARIANT=1"] if native else [])],
            **({"planted_fault": fault} if fault else {}),
            "attention_backends": dict(sorted(backends.items())),
            **_nvfp4(model),
            "model_class": type(model).__name__,
            "parameter_dtypes": dict(sorted(dtypes.items())),
            "compilation_mode": _name(compilation.mode),
            "cudagraph_mode": _name(compilation.cudagraph_mode),
            "breakable_cudagraphs": bool(getattr(envs, "VLLM_USE_BREAKABLE_CUDAGRAPH", False)),
            "custom_ops": sorted(compilation.custom_ops),
            **_ir_operators(config),
            "torch_threads": torch.get_num_threads(),
            "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        }
        folder = Path(os.environ[STEP_LOG_VARIABLE])
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"worker-{answer['dp_rank']}-{answer['tp_rank']}.json"
        path.write_text(json.dumps(answer), encoding="utf-8")
        return answer

    def bi_harness_logprobs_mode(self, mode: str) -> str:
        """Set which logprobs this worker's sampler reports from the next step on.

        Returns:
            The mode that the sampler has now.

        Raises:
            AttributeError: this vLLM's sampler is not made as expected.
        """
        sampler = self.model_runner.sampler  # type: ignore[attr-defined]
        _ = sampler.logprobs_mode
        sampler.logprobs_mode = mode
        if (masking := getattr(sampler, "topk_topp_sampler", None)) is not None:  # V1's model runner
            masking.logprobs_mode = mode
        return str(sampler.logprobs_mode)

    def bi_harness_startup(self) -> dict[str, Any]:
        """What this worker's process counted up to now, see ``startup_counters.read``."""
        return startup_counters.read(self.vllm_config)  # type: ignore[attr-defined]

    def bi_harness_modules(self, ask: str, given: dict[str, Any]) -> dict[str, Any]:
        """A step of the audit of this worker's modules, see ``engine.modules.audit``."""
        from bi_harness.engine.modules.audit import Audit

        runner = self.model_runner  # type: ignore[attr-defined]
        audit: Audit | None = getattr(self, "bi_harness_audit", None)
        if audit is None:
            model = runner.get_model() if hasattr(runner, "get_model") else runner.model
            audit = Audit(model, runner, self.vllm_config)  # type: ignore[attr-defined]
        self.bi_harness_audit = audit if ask != "end" else None
        return audit.answer(ask, given)

    def bi_harness_watch(self, order: dict[str, Any] | None) -> dict[str, Any]:
        """Begin to watch a request go through this worker's modules, see ``watch.watcher.Order``; ``None``
        ends it, and gives what was seen."""
        from bi_harness.engine.watch.watcher import Order, Watcher

        watcher = vars(self).pop("_bi_harness_watcher", None)
        seen: dict[str, Any] = watcher.finish() if watcher is not None else {}
        if order is not None:
            given = Order(**{**order, "positions": tuple(order.get("positions", ()))})
            self._bi_harness_watcher = Watcher(self.model_runner, given)  # type: ignore[attr-defined]
        rank = self.rank % self.vllm_config.parallel_config.tensor_parallel_size  # type: ignore[attr-defined]
        return {**seen, "tp_rank": rank}

    def bi_harness_clear_cache(self) -> None:
        """Zeros in this worker's KV cache, as vLLM allocates it."""
        import torch

        with torch.inference_mode():
            for cache in _tensors(self.model_runner.kv_caches):  # type: ignore[attr-defined]
                cache.zero_()

    def bi_harness_server(self) -> dict[str, Any]:
        """All that a server cannot be asked for over HTTP, for its client on the same host: what
        ``bi_harness_effective`` tells, vLLM's configuration as this worker has it, devices and versions. Left
        in ``server-*.json``; the answer itself holds nothing."""
        import torch
        import vllm
        from vllm.platforms import current_platform

        from bi_harness.engine import facts
        from bi_harness.engine.effective import settings

        config = self.vllm_config  # type: ignore[attr-defined]
        worker = self.bi_harness_effective()
        model = config.model_config
        told = {
            "worker": worker,
            "settings": settings(config),
            "platform": current_platform.device_type,
            "vllm": vllm.__version__,
            "torch": torch.__version__,
            "devices": facts.devices(),
            "provenance": facts.provenance(),
            # A folder has a digest, which was taken before the start.
            "hub_commit": None
            if Path(model.model).is_dir()
            else facts.hub_commit(model.model, model.revision),
        }
        path = Path(os.environ[STEP_LOG_VARIABLE]) / f"server-{worker['dp_rank']}-{worker['tp_rank']}.json"
        path.write_text(json.dumps(told), encoding="utf-8")
        return {}


def _ir_operators(config: Any) -> dict[str, Any]:
    """Of each of vLLM's IR operators (0.25 on) the implementations, of which the first that can be is taken:
    on CUDA C++ kernels eager, and native ones where Inductor makes code of them."""
    priority = getattr(getattr(config, "kernel_config", None), "ir_op_priority", None)
    if priority is None:
        return {}
    names = sorted(field.name for field in fields(priority))
    return {"ir_op_priority": {name: list(getattr(priority, name) or ()) for name in names}}


def _nvfp4(model: Any) -> dict[str, Any]:
    """The NVFP4 kernels by layer count, of linear layers and of experts; nothing without such layers."""
    linear: Counter[str] = Counter()
    experts: Counter[str] = Counter()
    for module in model.modules():
        holders = [getattr(module, name, None) for name in ("scheme", "quant_method")]
        holders += [getattr(holders[1], "scheme", None)]
        for holder in holders:
            if "nvfp4" in type(kernel := getattr(holder, "kernel", None)).__name__.lower():
                linear[type(kernel).__name__] += 1
                break
        if (backend := getattr(holders[1], "nvfp4_backend", None)) is not None:
            experts[_name(backend)] += 1
    found = {"nvfp4_linear": linear, "nvfp4_experts": experts}
    return {name: dict(sorted(count.items())) for name, count in found.items() if count}


def _tensors(value: Any) -> Iterator[Any]:
    """All in a list, whose items may be lists themselves (layers that keep several states)."""
    for item in value:
        if isinstance(item, list | tuple):
            yield from _tensors(item)
        else:
            yield item


def _name(value: Any) -> str:
    return str(getattr(value, "name", value))
