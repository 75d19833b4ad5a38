"""vLLM's own choice of an NVFP4 linear kernel, asked for in every case of a table.

The cases are made and judged here; ``kernel_table`` asks vLLM, under the engine's interpreter.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.version import Version

from bi_harness.certificate.records import Fact
from bi_harness.engine import process
from bi_harness.engine.client import last_error_line, log_tail
from bi_harness.engine.kernel_table import REFUSED, REFUSED_LISTING
from bi_harness.engine.site import with_site
from bi_harness.errors import EngineDied, EngineError, EngineTimeout
from bi_harness.spec.selection import Override, SelectionSpec

WEIGHT_ONLY = "weights alone quantized"


def cases(spec: SelectionSpec, release: Version, *, invariant: bool) -> list[dict[str, Any]]:
    """What is asked in that release.

    Args:
        invariant: whether ``VLLM_BATCH_INVARIANT`` is set; the names are the same either way.

    Returns:
        For ``kernel_table``: ``name``, ``host``, ``env``, ``kernel_config``, ``a16``, ``supported``,
        ``unknown``.
    """
    switch = {"VLLM_BATCH_INVARIANT": "1" if invariant else "0"}
    found = []
    for host, supported in spec.hosts.items():
        base = {"host": host, "supported": list(supported), "a16": False, "unknown": False}
        for name, env, flags in _settings(spec, release):
            found.append(
                {**base, "name": f"{host}, {name}", "env": {**env, **switch}, "kernel_config": flags}
            )
        found.append(
            {**base, "name": f"{host}, {WEIGHT_ONLY}", "env": switch, "kernel_config": {}, "a16": True}
        )
        found += [
            {
                **base,
                "name": f"{host}, unknown {override.name}",
                "env": {**override.env, "VLLM_BATCH_INVARIANT": "0"},
                "kernel_config": dict(override.kernel_config),
                "unknown": True,
            }
            for override in _known(spec.unknown, release)
        ]
    return found


def facts(spec: SelectionSpec, release: Version, chosen: Mapping[str, str]) -> tuple[Fact, ...]:
    """What was chosen, with what is right under batch invariance; nothing judged where no table is.

    Args:
        chosen: by the names of ``cases``.

    Raises:
        KeyError: a case was not answered.
    """
    table = spec.table(release)
    refuses = spec.refuses_weight_only(release)
    told = []
    for case in cases(spec, release, invariant=True):
        name = case["name"]
        expected: tuple[str, ...] = ()
        if table is not None:
            if case["unknown"]:
                expected = (REFUSED_LISTING,)
            elif case["a16"]:
                expected = (REFUSED,) if refuses else ()
            else:
                expected = (table.right[case["host"]],)
        source = table.source if table is not None else ""
        told.append(Fact(name=name, found=chosen[name], expected=expected, source=source))
    return tuple(told)


@dataclass(frozen=True, slots=True)
class Answers:
    """What vLLM answered.

    Attributes:
        vllm: its release.
        planted_fault: in the process that answered; ``None`` for none.
        chosen: the kernel, or why there is none, by name of the case.
        seconds: that it took.
    """

    vllm: Version
    planted_fault: str | None
    chosen: dict[str, str]
    seconds: float


def ask(
    python: str,
    asked: Sequence[Mapping[str, Any]],
    *,
    env: Mapping[str, str],
    folder: Path,
    log: Path,
    timeout_s: float,
) -> Answers:
    """Ask vLLM about each case.

    Args:
        python: the interpreter that has vLLM.
        env: the whole environment of the process.
        folder: for its files; made when missing.
        log: takes all that it prints.

    Raises:
        EngineError: it died, took longer or gave no answer; the message has the log's last error.
    """
    began = time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    given, answers = folder / "cases.json", folder / "chosen.json"
    given.write_text(json.dumps([dict(case) for case in asked], indent=2), encoding="utf-8")
    child = process.start(
        [python, "-m", "bi_harness.engine.kernel_table", str(given), str(answers)],
        env=with_site(env, folder / "site"),
        log=log,
    )
    try:
        code = child.wait(timeout_s)
    except subprocess.TimeoutExpired:
        raise EngineTimeout(f"vLLM's choice of kernels was not there after {timeout_s:.0f} s") from None
    finally:
        process.stop(child, grace_s=0)
    if code != 0:
        said = last_error_line(log_tail(log)) or "its log says nothing"
        raise EngineDied(f"asking vLLM for its kernels ended with {process.describe_exit(code)}: {said}")
    try:
        told = json.loads(answers.read_text(encoding="utf-8"))
        chosen = {str(name): str(kernel) for name, kernel in told["chosen"].items()}
        found = Answers(Version(told["vllm"]), told["planted_fault"], chosen, time.monotonic() - began)
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise EngineError(f"vLLM's answer on its kernels makes no sense: {error}") from error
    if missing := {case["name"] for case in asked} - chosen.keys():
        raise EngineError(f"vLLM did not answer on {min(missing)}")
    return found


def _settings(spec: SelectionSpec, release: Version) -> Iterator[tuple[str, dict[str, str], dict[str, Any]]]:
    variables = _known(spec.variables, release)
    rows: list[tuple[str, dict[str, str]]] = [("", {}), *((v.name, dict(v.env)) for v in variables)]
    together = {key: value for variable in variables for key, value in variable.env.items()}
    # Values of one variable replace each other: together they may be a row that is there already.
    if together not in [env for _, env in rows]:
        rows.append(("all variables", together))
    columns = [("", {}), *((f.name, dict(f.kernel_config)) for f in _known(spec.flags, release))]
    for variable, env in rows:
        for flag, settings in columns:
            name = " and ".join(part for part in (variable, flag) if part)
            yield name or "nothing else set", env, settings


def _known(overrides: Sequence[Override], release: Version) -> list[Override]:
    return [override for override in overrides if override.known_to(release)]
