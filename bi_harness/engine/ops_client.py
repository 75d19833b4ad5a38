"""Drives the process that measures single operators (``ops_probe``), with a time limit on everything."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bi_harness.certificate.records import OpDifference, OpRange, OpResult
from bi_harness.engine import process
from bi_harness.engine.client import last_error_line, log_tail
from bi_harness.engine.site import with_site
from bi_harness.errors import EngineDied, EngineError, EngineStartError, EngineTimeout

_BLOCK = 1 << 16

GRACE_S = 5.0
"""For a process that was told to end, before it is killed."""


@dataclass(frozen=True, slots=True)
class OpsSetup:
    """What a process that measures operators is started with.

    Attributes:
        python: the interpreter that has vLLM.
        device: ``cpu`` or ``cuda``.
        config: of the model, as transformers has it.
        dtype: the model's.
        backend: of attention.
        max_model_len: in tokens.
        env: the whole environment of the process.
        invariance: whether the invariance mode must be on, as read back.
        capability: compute capability that every GPU must have; ``None`` on a CPU.
        planted: the fault that must be planted; ``None`` for none.
        ranks: tensor parallel ranks of the engines that it stands for.
    """

    python: str
    device: str
    config: Mapping[str, Any]
    dtype: str
    backend: str | None
    max_model_len: int
    env: Mapping[str, str]
    invariance: bool
    capability: str | None = None
    planted: str | None = None
    ranks: int = 1


@dataclass(frozen=True, slots=True)
class OpRecord:
    """What the process told of one operator.

    Attributes:
        result: for the certificate.
        error: why it could not be measured; empty where it was, or is missing.
        planted: the same operator with a planted difference; ``None`` where that was not asked, or a
            difference was found without.
        planted_what: which difference.
    """

    result: OpResult
    error: str = ""
    planted: OpResult | None = None
    planted_what: str = ""


def parse(record: Mapping[str, Any]) -> OpRecord:
    """A record of ``ops_probe``.

    Raises:
        EngineError: it makes no sense.
    """
    try:
        head = {name: record[name] for name in ("op", "dtype", "unit", "judged", "promised")}
        if "missing" in record:
            return OpRecord(OpResult(**head, missing=record["missing"]))
        if "error" in record:
            return OpRecord(OpResult(**head), error=str(record["error"]) or "no message")
        head |= {name: record[name] for name in ("where", "shape", "bound")}
        planted = record.get("planted")
        return OpRecord(
            OpResult(**head, **_measured(record)),
            planted=OpResult(**head, **_measured(planted)) if planted is not None else None,
            planted_what=planted["what"] if planted is not None else "",
        )
    except (KeyError, TypeError, ValueError) as error:
        raise EngineError(f"what was measured of an operator makes no sense: {error}") from error


def _measured(told: Mapping[str, Any]) -> dict[str, Any]:
    first = told["first"]
    return {
        **{name: told[name] for name in ("rows", "differing", "max_ulp", "repeated", "unequal", "distance")},
        "first": OpDifference(rows=first["rows"], place=first["place"], beside=first["filler"])
        if first is not None
        else None,
        "ranges": tuple(OpRange(first=a, last=b, holds=holds) for a, b, holds in told["ranges"]),
    }


class OpsClient:
    """One process that measures operators.

    Use as a context manager, or call ``close`` in the end: it returns only when the process is gone.

    Args:
        setup: what to start.
        folder: for its files; made when missing.
        log: takes all that it prints.
    """

    def __init__(self, setup: OpsSetup, folder: Path, log: Path) -> None:
        self.log = log
        self._setup, self._folder = setup, folder
        self._process: subprocess.Popen[bytes] | None = None
        self._commands = self._answers = -1
        self._buffer = bytearray()

    def __enter__(self) -> OpsClient:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def start(self, timeout_s: float) -> tuple[dict[str, Any], dict[str, Any]]:
        """Start it and wait until it answers. Returns what it runs, and what is installed around it.

        Raises:
            EngineStartError: it fails, or is not what was asked for.
            EngineTimeout: it takes longer.
        """
        setup = self._setup
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / "ops.json"
        told = {
            "folder": str(self._folder / "model"),
            "device": setup.device,
            "config": dict(setup.config),
            "dtype": setup.dtype,
            "backend": setup.backend,
            "max_model_len": setup.max_model_len,
            "ranks": setup.ranks,
        }
        path.write_text(json.dumps(told, indent=2), encoding="utf-8")
        command_read, self._commands = os.pipe()
        self._answers, answer_write = os.pipe()
        try:
            self._process = process.start(
                [
                    *(setup.python, "-m", "bi_harness.engine.ops_probe"),
                    *(str(path), str(command_read), str(answer_write), str(os.getpid())),
                ],
                env=with_site(setup.env, self._folder / "site"),
                log=self.log,
                pass_fds=(command_read, answer_write),
            )
        finally:
            os.close(command_read)
            os.close(answer_write)
        try:
            message = self._read(time.monotonic() + timeout_s, "was not ready")
        except EngineDied as error:
            raise EngineStartError(str(error)) from error
        if message["event"] != "ready":
            raise EngineStartError(f"measuring operators was refused: {message.get('why')}")
        self._refuse_other(message["effective"])
        return message["effective"], message["provenance"]

    def measure(
        self, op: str, effort: Mapping[str, Any], *, planted: bool, deadline: float
    ) -> tuple[OpRecord, ...]:
        """What is measured of an operator, a record for each dtype.

        Args:
            effort: fields of ``ops_probe.Effort``.
            planted: measure a planted difference where none is found.
            deadline: by ``time.monotonic``.

        Raises:
            EngineError: the process died, took longer or told nonsense.
        """
        self._say({"do": "measure", "op": op, "effort": dict(effort), "planted": planted})
        found: list[OpRecord] = []
        while True:
            message = self._read(deadline, f"had no answer on {op}")
            if message["event"] == "done":
                return tuple(found)
            found.append(parse(message["record"]))

    def drawn(
        self,
        op: str,
        dtype: str,
        shape: Mapping[str, int],
        rows: int,
        seed: int,
        *,
        planted: bool,
        deadline: float,
    ) -> OpRecord:
        """The same for a drawn shape and one batch size.

        Raises:
            EngineError: as ``measure``.
        """
        self._say(
            {
                "do": "drawn",
                "op": op,
                "dtype": dtype,
                "shape": dict(shape),
                "rows": rows,
                "seed": seed,
                "planted": planted,
            }
        )
        return parse(self._read(deadline, f"had no answer on {op} of {dict(shape)}")["record"])

    def close(self) -> None:
        """End the process and see it gone."""
        for name in ("_commands", "_answers"):
            if (fd := getattr(self, name)) >= 0:
                setattr(self, name, -1)
                os.close(fd)
        if self._process is not None:
            child, self._process = self._process, None
            process.stop(child, grace_s=GRACE_S)

    def _refuse_other(self, effective: Mapping[str, Any]) -> None:
        setup = self._setup
        if effective["platform"] != setup.device:
            raise EngineStartError(
                f"vLLM of {setup.python} runs on {effective['platform']!r}, not on {setup.device!r}"
            )
        if effective["invariance"] != setup.invariance:
            raise EngineStartError(
                f"invariance was to be {'on' if setup.invariance else 'off'} and is not: the plugin or vLLM "
                "did not take the setting"
            )
        if effective.get("planted_fault") != setup.planted:
            raise EngineStartError(
                f"{setup.planted or 'no fault'} was to be planted, and {effective.get('planted_fault')} is"
            )
        if strangers := [d for d in effective["devices"] if d["capability"] != setup.capability]:
            raise EngineStartError(
                f"{strangers[0]['name']} has compute capability {strangers[0]['capability']}, "
                f"not {setup.capability}"
            )
        if not effective["enforce_eager"]:
            raise EngineStartError("vLLM's configuration is not an eager engine's")

    def _say(self, message: Mapping[str, Any]) -> None:
        try:
            os.write(self._commands, (json.dumps(message) + "\n").encode())
        except OSError:
            raise self._died() from None

    def _read(self, deadline: float, late: str) -> dict[str, Any]:
        with selectors.DefaultSelector() as selector:
            selector.register(self._answers, selectors.EVENT_READ)
            while (end := self._buffer.find(b"\n")) < 0:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise EngineTimeout(f"the process that measures operators {late} in its time")
                block = os.read(self._answers, _BLOCK)
                if not block:
                    raise self._died()
                self._buffer += block
        line, self._buffer = bytes(self._buffer[:end]), self._buffer[end + 1 :]
        try:
            message: dict[str, Any] = json.loads(line)
        except ValueError as error:
            raise EngineError(f"the process that measures operators answers nonsense: {error}") from error
        return message

    def _died(self) -> EngineDied:
        code = None
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                code = self._process.wait(5)
        said = last_error_line(log_tail(self.log)) or "its log says nothing"
        return EngineDied(f"measuring operators ended with {process.describe_exit(code)}: {said}")
