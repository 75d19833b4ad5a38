"""The process of one real vLLM engine: ``python -m bi_harness.engine.worker CONFIG IN_FD OUT_FD PARENT``.

It reads commands from one pipe and writes answers to another; its stdout and stderr, and those of all that
vLLM starts, go to a log file. It ends when it is told to, when the pipe closes, or when its parent is gone.

Worker side: standard library, numpy, torch and vLLM alone (see the package's docstring).
"""

from __future__ import annotations

import atexit
import json
import os
import sys
import time
import traceback
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any, NoReturn

import numpy as np

from bi_harness.engine import class_infos, protocol, step_limits
from bi_harness.engine.effective import Refused, gather_workers, refuse_other, refuse_platform, settings
from bi_harness.engine.facts import devices, hub_commit, provenance
from bi_harness.engine.messages import Order
from bi_harness.engine.offline import OfflineEngine
from bi_harness.engine.online import OnlineEngine
from bi_harness.engine.orphan import die_when, die_with_parent, ended
from bi_harness.engine.step_probe import STEP_LOG_VARIABLE, StepLog
from bi_harness.invariance.faults.registry import PLANT_VARIABLE
from bi_harness.workload.requests import Limits, Member, Request

Engine = OfflineEngine | OnlineEngine

_bursts: list[int] = []
"""How large those were that this process has served."""

_processed: set[int] = set()
"""The engines that report processed logprobs at the moment."""


def main(argv: list[str]) -> NoReturn:
    """Run until told to stop, and end the process."""
    started = time.monotonic()
    config_path, in_fd, out_fd = argv[0], int(argv[1]), int(argv[2])
    for fd in (in_fd, out_fd):
        # vLLM's children must not hold the pipes open, or the harness would wait for an engine that died.
        os.set_inheritable(fd, False)
    die_with_parent(int(argv[3]))
    _leave(_run(config_path, in_fd, out_fd, started))


def forked(order: Order) -> NoReturn:
    """The same in a process that was forked with vLLM imported. Its parent is not who asked for it, so it
    watches both: its files are the two pipes and a pidfd of that."""
    in_fd, out_fd, client = order.files
    die_when(lambda: os.getppid() != order.parent or ended(client))
    class_infos.in_forks()
    _leave(_run(order.argv[0], in_fd, out_fd, order.asked, preloaded=True))


def _leave(code: int) -> NoReturn:
    """End this process as multiprocessing ends its own: what has something to put away has told ``atexit``,
    and to tear down all that was imported would take seconds."""
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _run(config_path: str, in_fd: int, out_fd: int, started: float, *, preloaded: bool = False) -> int:
    with open(config_path, encoding="utf-8") as file:
        config = json.load(file)
    with os.fdopen(in_fd, "rb") as commands, os.fdopen(out_fd, "wb") as answers:
        return _serve(config, commands, answers, started, preloaded)


def _serve(
    config: dict[str, Any], commands: IO[bytes], answers: IO[bytes], started: float, preloaded: bool
) -> int:
    def say(message: dict[str, Any]) -> None:
        answers.write(protocol.encode_line(message))
        answers.flush()

    try:
        engine, effective = _start(config)
    except BaseException as error:
        traceback.print_exc()
        say({"event": "failed", "error": _one_line(error)})
        return 1
    say(
        {
            "event": "ready",
            "effective": effective,
            "provenance": provenance(),
            "start_s": time.monotonic() - started,
            **({"preloaded": True} if preloaded else {}),
        }
    )
    steps = StepLog(os.environ[STEP_LOG_VARIABLE])
    steps.read()
    for line in commands:
        command = protocol.decode_line(line)
        if command["do"] == "stop":
            break
        try:
            if command["do"] == "startup":
                say({"event": "startup", "ranks": _startup(engine)})
            elif command["do"] == "modules":
                say({"event": "modules", "found": _modules(engine, command)})
            elif command["do"] == "forget":
                say({"event": "forgotten", **_forget(engine)})
            elif command["do"] == "watch":
                say({"event": "watched", "ranks": _watch(engine, command)})
            else:
                say(_generate(engine, command, steps, say))
        except Exception as error:
            # An engine that failed once is in an unknown state: report, and end.
            traceback.print_exc()
            say({"event": "failed", "error": _one_line(error)})
            return 1
    engine.shut_down()
    return 0


def _start(config: dict[str, Any]) -> tuple[Engine, dict[str, Any]]:
    """Make the engine and read back what it is.

    Raises:
        Refused: when it is not on the platform, or not in the invariance state, that was asked for.
    """
    import vllm
    from vllm.platforms import current_platform

    refuse_platform(current_platform.device_type, config, vllm=vllm.__version__, python=sys.executable)
    checkpoint = _checkpoint(config)
    if config.get("draft") is not None:
        from bi_harness.workload.checkpoint import ensure

        ensure(config["draft"], Path(config["llm"]["speculative_config"]["model"]), _notes(config))
    made: list[str] = []
    if config.get("adapters"):
        from bi_harness.workload import adapters

        made = adapters.make(config["adapters"], Path(os.environ[STEP_LOG_VARIABLE]).parent)
    engine = _make(config, made)
    llm = config["llm"]
    effective = {
        **_effective(engine, config),
        "checkpoint": checkpoint or hub_commit(llm["model"], llm.get("revision")),
    }
    refuse_other(effective, config, os.environ.get(PLANT_VARIABLE) or None)
    return engine, effective


def _make(config: dict[str, Any], adapters: list[str]) -> Engine:
    arguments = {"worker_extension_cls": "bi_harness.engine.worker_extension.Readback", **config["llm"]}
    if arguments.get("data_parallel_size", 1) > 1:
        # vLLM's offline interface does not run data parallel.
        return OnlineEngine(arguments, adapters, Path(os.environ[STEP_LOG_VARIABLE]))
    return OfflineEngine(arguments, adapters)


def _checkpoint(config: dict[str, Any]) -> str | None:
    """The digest of the weights, made on the spot where the configuration says so; ``None`` for a hub's."""
    from bi_harness.workload.checkpoint import ensure
    from bi_harness.workload.digests import digest_in_run

    folder = Path(config["llm"]["model"])
    if config["checkpoint"] is not None:
        return ensure(config["checkpoint"], folder, _notes(config))["digest"]
    return digest_in_run(folder, _notes(config)) if folder.is_dir() else None


def _notes(config: dict[str, Any]) -> Path | None:
    return Path(config["notes"]) if config.get("notes") else None


def _effective(engine: Engine, config: dict[str, Any]) -> dict[str, Any]:
    import torch
    import vllm

    told = settings(engine.vllm_config)
    workers = gather_workers(
        engine.collective_rpc("bi_harness_effective"),
        told["tensor_parallel_size"] * told["data_parallel_size"],
    )
    return {
        "vllm": vllm.__version__,
        "torch": torch.__version__,
        "platform": config["platform"],
        **told,
        **workers,
        "devices": devices(),
    }


def _startup(engine: Engine) -> list[dict[str, Any]]:
    """What each worker's process counted since its start.

    Raises:
        Refused: data parallel, vLLM passes on the answers of one rank alone.
    """
    if isinstance(engine, OnlineEngine):
        raise Refused("a data parallel engine does not tell what the start of each rank counted")
    return engine.collective_rpc("bi_harness_startup")


def _modules(engine: Engine, command: dict[str, Any]) -> dict[str, Any]:
    """A step of the audit of the engine's modules.

    Raises:
        Refused: there are several workers, which each have a part of them.
    """
    if isinstance(engine, OnlineEngine):
        raise Refused("the modules of a data parallel engine are not audited")
    ranks = engine.collective_rpc("bi_harness_modules", command["ask"], command["with"])
    if len(ranks) != 1:
        raise Refused(f"{len(ranks)} workers have parts of the model, and modules are audited whole")
    found: dict[str, Any] = ranks[0]
    return found


def _forget(engine: Engine) -> dict[str, Any]:
    """Empty the KV cache.

    Raises:
        Refused: data parallel, each rank has a cache of its own.
    """
    if isinstance(engine, OnlineEngine):
        raise Refused("the caches of a data parallel engine are not emptied")
    engine.forget()
    return {}


def _watch(engine: Engine, command: dict[str, Any]) -> list[dict[str, Any]]:
    """Have each rank watch a request that is yet to come, or tell what it saw; see ``watch.watcher.Order``.

    Raises:
        Refused: data parallel, vLLM passes on the answers of one rank alone.
    """
    if isinstance(engine, OnlineEngine):
        raise Refused("the modules of a data parallel engine are not watched")
    order = command.get("order")
    if order is not None:
        # Counted from now on: how many requests there were before is nobody else's business.
        order = {**order, "request": str(engine.submitted + int(order["request"]))}
    return engine.collective_rpc("bi_harness_watch", order)


def _generate(engine: Engine, command: dict[str, Any], steps: StepLog, say: Any) -> dict[str, Any]:
    """Run the bursts one after the other, each to its end, and answer with all observations."""
    requests = [Request.from_json(r) for r in command["requests"]]
    bursts = [[Member(*member) for member in burst] for burst in command["bursts"]]
    limits = Limits(**(command.get("limits") or {}))
    outputs: list[Any] = []
    summaries: list[dict[str, int]] = []
    started = time.monotonic()
    try:
        for number, burst in enumerate(bursts, start=1):
            _hold(engine, limits, [requests[m.request] for m in burst])
            _observe(engine, processed=any(requests[m.request].processed for m in burst))
            first = not _bursts
            _bursts.append(len(burst))
            before = _drafted(engine)
            found, aborted = engine.run_burst(requests, burst)
            outputs += found
            counted = {name: after - before[name] for name, after in _drafted(engine).items()}
            summary = steps.read()
            _all_ranks_served(engine, burst, steps.ranks)
            summaries.append({**asdict(summary), **counted, "aborted": aborted, "first_bursts": int(first)})
            say({"event": "progress", "done": number, "of": len(bursts)})
    finally:
        _hold(engine, Limits(), [])
        _observe(engine, processed=False)
    generate_s = time.monotonic() - started
    return {
        "event": "result",
        "observations": _pack(outputs, [requests[m.request] for burst in bursts for m in burst]),
        "steps": summaries,
        "generate_s": generate_s,
    }


def _all_ranks_served(engine: Engine, burst: list[Member], served: set[str]) -> None:
    """Every data parallel rank that was given a request of the burst must have scheduled it.

    Raises:
        Refused: one did not.
    """
    if isinstance(engine, OnlineEngine) and (idle := engine.ranks_of(burst) - served):
        raise Refused(f"data parallel rank {', '.join(sorted(idle))} was given requests and scheduled none")


def _drafted(engine: Engine) -> dict[str, int]:
    """Tokens that were drafted up to now, accepted and rejected; both 0 without speculative decoding."""
    if engine.vllm_config.speculative_config is None:
        return {"accepted_tokens": 0, "rejected_tokens": 0}
    counts = {"drafted": 0, "accepted": 0}
    for metric in engine.metrics():
        for name in counts:
            if metric.name == f"vllm:spec_decode_num_{name.replace('drafted', 'draft')}_tokens":
                counts[name] += int(metric.value)
    return {"accepted_tokens": counts["accepted"], "rejected_tokens": counts["drafted"] - counts["accepted"]}


def _hold(engine: Engine, limits: Limits, burst: list[Request]) -> None:
    """Hold the scheduler to the limits; none ends those before."""
    free = None
    if limits.kv_growth is not None and burst:
        size = int(engine.vllm_config.cache_config.block_size)
        prompts = sum(-(-(len(r.prompt) + 1) // size) for r in burst)
        whole = [-(-(len(r.prompt) + r.max_tokens) // size) for r in burst]
        # The largest alone must fit, or the scheduler would wait for ever.
        free = max(prompts + int((sum(whole) - prompts) * limits.kv_growth), *whole)
    folder = os.environ[STEP_LOG_VARIABLE]
    step_limits.write(folder, step_tokens=limits.step_tokens, free_blocks=free, planted=limits.planted)


def _observe(engine: Engine, *, processed: bool) -> None:
    """Have the sampler report the logprobs that it samples from, or the model's own.

    It reads its mode at each step, so a check that needs the other one takes no engine of its own.

    Raises:
        Refused: data parallel, or this vLLM's sampler does not have the mode.
    """
    if processed == (id(engine) in _processed):
        return
    mode = "processed_logprobs" if processed else str(engine.vllm_config.model_config.logprobs_mode)
    if isinstance(engine, OnlineEngine):
        raise Refused("a data parallel engine does not switch its logprobs mode")
    found = engine.collective_rpc("bi_harness_logprobs_mode", mode)
    if any(answer != mode for answer in found):
        raise Refused(f"the logprobs mode was to be {mode}, and the workers have {found}")
    (_processed.add if processed else _processed.discard)(id(engine))


def _pack(outputs: list[Any], requests: list[Request]) -> dict[str, Any]:
    """Observations as arrays, padded at the end: tokens ``[R, T]`` int32 (-1), lengths ``[R]`` int32,
    ranked token ids ``[R, T, K + 1]`` int32 (-1) and their logprobs ``[R, T, K + 1]`` float32 (0).

    Of processed logprobs, tokens that a mask took out are left out, too: which of them vLLM lists is
        arbitrary.

    Every sequence of a request is a row. Column 0 is the token itself; columns 1 to K are the top k in rank
    order.
    """
    rows = sum(r.n for r in requests)
    longest = max(r.observed for r in requests)
    width = max(r.top_k_logprobs for r in requests) + 1
    tokens = np.full((rows, longest), -1, np.int32)
    lengths = np.zeros(rows, np.int32)
    ids = np.full((rows, longest, width), -1, np.int32)
    logprobs = np.zeros((rows, longest, width), np.float32)
    row = -1
    for output, request in zip(outputs, requests, strict=True):
        if output is None:
            row += request.n
            continue  # aborted: a neighbour that is not looked at
        if list(output.prompt_token_ids) != list(request.prompt):
            raise Refused("vLLM answered with another prompt than the one that was sent")
        sequences = _sequences(output, request)
        if len(sequences) != request.n:
            raise Refused(f"vLLM answered with {len(sequences)} sequences in place of {request.n}")
        for sequence in sequences:
            row += 1
            lengths[row] = len(sequence)
            for step, (token, entries) in enumerate(sequence):
                tokens[row, step] = token
                ids[row, step, 0], logprobs[row, step, 0] = token, entries[token].logprob
                ranked = sorted(entries.items(), key=lambda item: (item[1].rank, item[0]))
                if request.processed:
                    ranked = [item for item in ranked if item[1].logprob != -np.inf]
                for column, (other, entry) in enumerate(ranked[: request.top_k_logprobs], start=1):
                    ids[row, step, column], logprobs[row, step, column] = other, entry.logprob
    return {
        "tokens": protocol.encode_array(tokens),
        "lengths": protocol.encode_array(lengths),
        "ids": protocol.encode_array(ids),
        "logprobs": protocol.encode_array(logprobs),
    }


def _sequences(output: Any, request: Request) -> list[list[tuple[int, Any]]]:
    """What is observed of a request: token and logprobs by token, step by step, of each sequence."""
    if request.score:
        return [list(zip(request.prompt, output.prompt_logprobs, strict=True))[-request.score :]]
    return [
        list(zip(completion.token_ids, completion.logprobs, strict=True))
        for completion in sorted(output.outputs, key=lambda o: o.index)
    ]


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).strip() or 'no message'}"[:2000]


if __name__ == "__main__":
    main(sys.argv[1:])
