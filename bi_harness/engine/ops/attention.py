"""Attention through vLLM's own layer, metadata builder and backend, over a paged KV cache.

A row is a request: of ``attention_decode`` its last token, whose keys lie in the cache; of
``attention_prefill`` the last tokens of its prompt, one to ``LONGEST`` of them (a whole prompt, or a chunk of
one). Every request's keys and values are in the cache from a step of its own, so a request may stand in a
batch any number of times: it writes there what is there.
"""

from __future__ import annotations

import dataclasses
import inspect
import itertools
from typing import Any

from bi_harness.engine.ops.accuracy import error
from bi_harness.engine.ops.base import BOTH, LARGE, Kind, Made, Missing, Op, Setting, find

LONGEST = 64
"""Query rows of a subject, at most; all of them are compared."""
LENGTHS = (1, 9, 10, 15, 16, 17, 31, 32, 33, 64, 127, 128, 129, 255, 256, 257, 400, 513)
"""Of sequences, taken in turn: on both sides of the sizes of blocks and of tiles."""
QUERIES = (1, 2, 9, 10, 16, 17, 33, 64)
NEIGHBOURS = {"random": 48, "zeros": 6, "large": 6}
"""How many different requests stand beside the subjects; larger batches have them several times."""
LONG_QUERY = 200
"""Query rows of every eighth neighbour in a prefill: a prompt longer than any subject's."""
COMPILES = 128
"""Times that a function may be compiled anew."""

_layers = itertools.count()


class _Attention:
    bound = "2 ULP of the result, and 2 of each weight of the sum"

    def __init__(self, setting: Setting, *, prefill: bool) -> None:
        import torch

        config = setting.vllm_config
        if config is None:
            raise Missing("attention needs a model's configuration")
        layer_class, _ = find(
            "vllm.model_executor.layers.attention:Attention",
            "vllm.attention.layer:Attention",
        )
        d = setting.dims
        self._setting, self._prefill = setting, prefill
        self._heads, self._kv_heads, self._dim = d["heads"], d["kv_heads"], d["head_dim"]
        self._scale = self._dim**-0.5
        self._dtype = getattr(torch, setting.dtype)
        self._name = f"model.layers.{next(_layers)}.self_attn.attn"
        usual = torch.get_default_dtype()
        torch.set_default_dtype(self._dtype)
        try:
            with torch.device(setting.device):
                self._layer = layer_class(
                    self._heads,
                    self._dim,
                    self._scale,
                    num_kv_heads=self._kv_heads,
                    cache_config=config.cache_config,
                    prefix=self._name,
                )
        finally:
            torch.set_default_dtype(usual)
        _allow_compiles()
        if hasattr(self._layer, "process_weights_after_loading"):
            self._layer.process_weights_after_loading(self._dtype)
        self._backend: Any = getattr(self._layer, "attn_backend", None)
        if self._backend is None:
            raise Missing("this vLLM's attention layer does not name its backend")
        platform, _ = find("vllm.platforms:current_platform")
        if hasattr(platform, "update_block_size_for_backend"):
            platform.update_block_size_for_backend(config)
        self._block = int(config.cache_config.block_size or 16)
        self.where = f"{self._backend.get_name()} ({type(self._layer.impl).__name__}.forward)"
        self.shape = f"{self._heads} and {self._kv_heads} heads of {self._dim}"
        self.row_bytes = 8 * self._heads * self._dim * (LONGEST if prefill else 1)
        self._pool: _Pool | None = None
        self._builder: Any = None

    def subjects(self, count: int, generator: Any) -> tuple[Any, ...]:
        import torch

        if self._pool is None:
            self._pool = _Pool(self, count, generator)
            self._fill()
        return (torch.arange(count, device=self._setting.device),)

    def rows(self, count: int, kind: Kind, generator: Any) -> tuple[Any, ...]:
        import torch

        assert self._pool is not None
        start, size = self._pool.neighbours[kind]
        return (start + torch.arange(count, device=self._setting.device) % size,)

    def call(self, rows: tuple[Any, ...]) -> tuple[Any, ...]:
        import torch

        assert self._pool is not None
        which = rows[0].cpu()
        lengths = self._pool.queries[which]
        out = self._step(which, lengths)
        if not self._prefill:
            return (out,)
        ends = lengths.cumsum(0)
        steps = torch.arange(LONGEST)
        # The first rows of each request, and zeros where it has fewer.
        index = ((ends - lengths)[:, None] + steps).clamp(max=len(out) - 1)
        there = (steps < lengths[:, None]).to(self._setting.device)
        picked = out[index.to(self._setting.device)]
        return (torch.where(there[..., None], picked, torch.zeros((), dtype=out.dtype, device=out.device)),)

    def error(self, rows: tuple[Any, ...], results: tuple[Any, ...]) -> float:
        import torch

        assert self._pool is not None
        eps = torch.finfo(self._dtype).eps
        worst = 0.0
        for i, request in enumerate(rows[0].tolist()):
            length, count = int(self._pool.lengths[request]), int(self._pool.queries[request])
            tokens = slice(int(self._pool.starts[request]), int(self._pool.starts[request]) + length)
            key, value = (self._pool.of(part, tokens) for part in ("key", "value"))
            query = self._pool.of("query", tokens)[-count:]
            scores = torch.einsum("qhd,khd->hqk", query, key) * self._scale
            seen = torch.arange(length) <= torch.arange(length - count, length)[:, None]
            weights = scores.masked_fill(~seen, -float("inf")).softmax(dim=-1)
            right = torch.einsum("hqk,khd->qhd", weights, value).reshape(count, -1)
            slack = 2 * eps * torch.einsum("hqk,khd->qhd", weights, value.abs()).reshape(count, -1)
            found = results[0][i].reshape(-1, self._heads * self._dim)[:count]
            worst = max(worst, error(found, right, ulps=2, slack=slack))
        return worst

    def _fill(self) -> None:
        """Make the KV cache, and put every request's keys and values into it, one request a step."""
        import torch

        pool = self._pool
        assert pool is not None
        config = self._setting.vllm_config
        spec = self._layer.get_kv_cache_spec(config)
        cache = self._cache(pool.blocks, spec)
        # Older releases have a list of them, one for each pipeline stage.
        self._layer.kv_cache = [cache] if isinstance(self._layer.kv_cache, list) else cache
        config.cache_config.num_gpu_blocks = pool.blocks
        if getattr(spec, "block_size", self._block) != self._block:
            raise Missing(f"the KV cache has blocks of {spec.block_size}, and {self._block} were asked for")
        builder = self._backend.get_builder_cls()
        self._builder = builder(spec, [self._name], config, cache.device)
        for request in range(len(pool.lengths)):
            which = torch.tensor([request])
            self._step(which, pool.lengths[which])

    def _cache(self, blocks: int, spec: Any) -> Any:
        import torch

        sizes = {"B": blocks, "H": self._kv_heads, "N": self._block, "C": 2 * self._dim}
        if hasattr(self._backend, "get_kv_cache_shape"):
            shape = self._backend.get_kv_cache_shape(blocks, self._block, self._kv_heads, self._dim)
            order = range(len(shape))
            if hasattr(self._backend, "get_kv_cache_stride_order"):
                try:
                    order = self._backend.get_kv_cache_stride_order()
                except (AttributeError, NotImplementedError):
                    order = range(len(shape))
            held = torch.zeros([shape[i] for i in order], dtype=spec.dtype, device=self._setting.device)
            return held.permute(*(list(order).index(i) for i in range(len(shape))))
        # Newer releases name the layout: B blocks, H heads, N tokens, C key and value; L, the layer, is one.
        layout = next(iter(self._backend.supported_kv_cache_layouts() or ()), None)
        physical = layout.name.replace("L", "") if layout is not None else "BNHC"
        held = torch.zeros([sizes[axis] for axis in physical], dtype=spec.dtype, device=self._setting.device)
        return held.permute(*(physical.index(axis) for axis in "BHNC"))

    def _step(self, which: Any, lengths: Any) -> Any:
        """One step: of each request its last ``lengths`` tokens. Returns ``[tokens, heads * head_dim]``."""
        import torch
        from vllm.forward_context import set_forward_context

        pool, device = self._pool, self._setting.device
        assert pool is not None
        ends = lengths.cumsum(0)
        total = int(ends[-1])
        of = torch.repeat_interleave(torch.arange(len(which)), lengths, output_size=total)
        seq = pool.lengths[which]
        place = torch.arange(total) - (ends - lengths)[of] + (seq - lengths)[of]
        tokens = (pool.starts[which][of] + place).to(device)
        slots = (pool.table[which[of], place // self._block].long() * self._block + place % self._block).to(
            device
        )
        starts = torch.cat((torch.zeros(1, dtype=torch.int32), ends.int()))
        computed = (seq - lengths).int()
        common_class, _ = find(
            "vllm.v1.attention.backend:CommonAttentionMetadata",
            "vllm.v1.attention.backends.utils:CommonAttentionMetadata",
        )
        told = {
            "query_start_loc": starts.to(device),
            "query_start_loc_cpu": starts,
            "seq_lens": seq.int().to(device),
            "num_reqs": len(which),
            "num_actual_tokens": total,
            "max_query_len": int(lengths.max()),
            "max_seq_len": int(seq.max()),
            "block_table_tensor": pool.table[which].to(device),
            "slot_mapping": slots,
            "causal": True,
            "positions": place.to(device),
            "seq_lens_cpu_upper_bound": seq.int(),
            # Names of older releases.
            "_seq_lens_cpu": seq.int(),
            "_num_computed_tokens_cpu": computed,
            "seq_lens_cpu": seq.int(),
            "num_computed_tokens_cpu": computed,
        }
        known = {field.name for field in dataclasses.fields(common_class)}
        common = common_class(**{name: value for name, value in told.items() if name in known})
        metadata = self._builder.build(0, common)
        context: dict[str, Any] = {"num_tokens": total}
        if "slot_mapping" in inspect.signature(set_forward_context).parameters:
            context["slot_mapping"] = {self._name: slots}
        query, key, value = (part[tokens].reshape(total, -1) for part in (pool.query, pool.key, pool.value))
        with set_forward_context({self._name: metadata}, self._setting.vllm_config, **context):
            return self._layer(query, key, value)


def _allow_compiles() -> None:
    """FlexAttention is compiled anew for some shapes, and fails past vLLM's limit of 16. Here are more of
    them than in an engine; what is compiled is the same."""
    import torch._dynamo

    torch._dynamo.config.recompile_limit = max(COMPILES, torch._dynamo.config.recompile_limit)


class _Pool:
    """The requests: subjects first, then neighbours of each kind.

    Attributes:
        lengths: of the sequences, ``[R]``; queries: query rows of a step, ``[R]``; on the CPU, as the others
            without a device.
        starts: where each one's tokens begin in ``query``, ``key`` and ``value``, ``[R]``.
        table: blocks of the KV cache, ``[R, most blocks]``, int32.
        blocks: how many there are.
        query, key, value: ``[tokens, heads, head_dim]`` on the device.
        neighbours: first request and number, by kind.
    """

    def __init__(self, made: _Attention, subjects: int, generator: Any) -> None:
        import torch

        setting = made._setting
        kinds = ["random"] * subjects
        self.neighbours: dict[str, tuple[int, int]] = {}
        for kind, count in NEIGHBOURS.items():
            self.neighbours[kind] = (len(kinds), count)
            kinds += [kind] * count
        lengths, queries = [], []
        for i in range(len(kinds)):
            length = LENGTHS[i % len(LENGTHS)] + (7 * (i // len(LENGTHS))) % 64
            query = QUERIES[i % len(QUERIES)] if made._prefill else 1
            if made._prefill and i >= subjects and i % 8 == 0:
                query, length = LONG_QUERY, max(length, LONG_QUERY)
            lengths.append(length)
            queries.append(min(query, length))
        self.lengths, self.queries = torch.tensor(lengths), torch.tensor(queries)
        self.starts = self.lengths.cumsum(0) - self.lengths
        total = int(self.lengths.sum())

        def drawn(heads: int) -> Any:
            return torch.randn(
                total, heads, made._dim, generator=generator, dtype=made._dtype, device=setting.device
            )

        self.query, self.key, self.value = drawn(made._heads), drawn(made._kv_heads), drawn(made._kv_heads)
        for kind, factor in (("zeros", 0.0), ("large", LARGE)):
            first, count = self.neighbours[kind]
            last = first + count - 1
            part = slice(int(self.starts[first]), int(self.starts[last] + self.lengths[last]))
            for values in (self.query, self.key, self.value):
                values[part] = (values[part] * factor).clamp(-6e4, 6e4)
        needed = (self.lengths + made._block - 1) // made._block
        self.table = torch.zeros(len(kinds), int(needed.max()), dtype=torch.int32)
        # Block 0 is nobody's, as in vLLM; the others in a random order, as blocks come to lie in an engine.
        self.blocks = int(needed.sum()) + 1
        order = torch.randperm(self.blocks - 1, generator=torch.Generator().manual_seed(setting.seed)) + 1
        used = 0
        for i, count in enumerate(needed.tolist()):
            self.table[i, :count] = order[used : used + count]
            used += count
        self._groups = made._heads // made._kv_heads

    def of(self, part: str, tokens: slice) -> Any:
        """Values of some tokens in float64 on the CPU, keys and values for every query head."""
        values = getattr(self, part)[tokens].cpu().double()
        return values if part == "query" else values.repeat_interleave(self._groups, dim=1)


def _decode(setting: Setting) -> Made:
    return _Attention(setting, prefill=False)


def _prefill(setting: Setting) -> Made:
    return _Attention(setting, prefill=True)


OPS = (
    Op(
        "attention_decode",
        "attention",
        _decode,
        ("model",),
        promised=BOTH,
        called=BOTH,
        most_rows=1024,
        unit="requests",
    ),
    Op(
        "attention_prefill",
        "attention",
        _prefill,
        ("model",),
        promised=BOTH,
        called=BOTH,
        most_rows=128,
        unit="requests",
    ),
)
