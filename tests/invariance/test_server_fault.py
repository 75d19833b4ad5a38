"""The planted fault of the process that takes requests, on a stand-in for vLLM's class."""

from __future__ import annotations

import asyncio
import math
import struct
import sys
from collections.abc import AsyncIterator
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from bi_harness.invariance.faults.registry import FAULTS
from bi_harness.invariance.faults.server import stream_logprobs

VALUE = -0.5


class Serving:
    def _create_completion_logprobs(self) -> Any:
        return SimpleNamespace(
            tokens=["token_id:1", "token_id:2"],
            token_logprobs=[VALUE, None],
            top_logprobs=[{"token_id:1": VALUE, "token_id:3": -1.0}, None],
        )

    async def completion_stream_generator(self) -> AsyncIterator[Any]:
        for _ in range(2):
            await asyncio.sleep(0)
            yield self._create_completion_logprobs()


@pytest.fixture
def serving(monkeypatch: pytest.MonkeyPatch) -> type[Serving]:
    class Patched(Serving):
        pass

    path = ""
    for part in ("vllm", "entrypoints", "openai", "completion", "serving"):
        path = f"{path}.{part}".lstrip(".")
        monkeypatch.setitem(sys.modules, path, ModuleType(path))
    sys.modules[path].OpenAIServingCompletion = Patched  # type: ignore[attr-defined]
    stream_logprobs()
    return Patched


def test_streamed_logprobs_move_by_one_ulp_and_whole_answers_do_not(serving: type[Serving]) -> None:
    async def both() -> tuple[list[Any], list[Any]]:
        server = serving()
        whole = [server._create_completion_logprobs()]
        chunks = []
        async for chunk in server.completion_stream_generator():
            chunks.append(chunk)
            # Others are answered while a stream is read.
            whole.append(server._create_completion_logprobs())
        return whole, chunks

    whole, chunks = asyncio.run(both())
    assert [w.token_logprobs for w in whole] == [[VALUE, None]] * 3
    (bits,) = struct.unpack("<I", struct.pack("<f", VALUE))
    (moved,) = struct.unpack("<f", struct.pack("<I", bits + 1))
    assert not math.isclose(moved, VALUE, rel_tol=0, abs_tol=0)
    assert [c.token_logprobs for c in chunks] == [[moved, None]] * 2
    assert chunks[0].top_logprobs == [{"token_id:1": moved, "token_id:3": -1.0}, None]


def test_it_is_the_online_suites() -> None:
    fault = FAULTS["stream-logprobs"]
    assert (fault.suite, fault.where, fault.module) == ("online", "server:stream_logprobs", None)
