"""Runs of a stand-in suite that are cut off, and what they left."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from bi_harness.certificate.essence import essence
from bi_harness.certificate.statement import Statement
from tests.runner.standin import Standin, wait_for

GOOD = "good(check, workload)"


def once(standin: Standin, what: str, then: str = GOOD) -> str:
    """The body of a check that does ``what`` the first time it runs, and ``then`` from then on."""
    flag = str(standin.root / "was-here")
    indented = "\n".join(f"    {line}" for line in what.splitlines())
    return f"if not os.path.exists({flag!r}):\n    open({flag!r}, 'w').close()\n{indented}\n{then}"


def folder(standin: Standin) -> Path:
    """Of the one run."""
    (run,) = standin.root.glob("out/cpu/*")
    return run


def journal(standin: Standin) -> list[dict[str, Any]]:
    """Its events, whole lines alone."""
    text = (folder(standin) / "events.jsonl").read_text()
    return [json.loads(line) for line in text.split("\n")[:-1]]


def begun(standin: Standin, check: str) -> bool:
    """Whether the check has begun, and its unit is where the suite's text says."""
    return any(
        f'"check":"{check}"' in line
        for path in standin.root.glob("out/cpu/*/events.jsonl")
        for line in path.read_text().splitlines()
        if "check_started" in line
    )


def started(standin: Standin, check: str, *arguments: str, **environ: str) -> subprocess.Popen[str]:
    """A run in which that check has begun."""
    process = standin.cli("run", *arguments, **environ)

    def there() -> bool:
        assert process.poll() is None, process.communicate()[1]
        return begun(standin, check)

    wait_for(there, 60, f"the check {check} begins")
    return process


def resume(standin: Standin, *arguments: str, **environ: str) -> tuple[int, str]:
    """Exit code and stderr."""
    code, _, err = standin.finish("run", "--resume", str(folder(standin)), *arguments, **environ)
    return code, err


def statement(run: Path) -> Statement:
    return Statement.model_validate_json((run / "certificate.json").read_text())


def times_begun(standin: Standin) -> dict[str, int]:
    """How often each check began."""
    found: dict[str, int] = {}
    for event in journal(standin):
        if event["type"] == "check_started":
            found[event["check"]] = found.get(event["check"], 0) + 1
    return found


def undisturbed(standin: Standin) -> dict[str, Any]:
    """The essence of a whole run of the same suite, written elsewhere."""
    out = standin.root / "undisturbed"
    code, _, err = standin.finish("run", BI_HARNESS_OUT=str(out))
    assert code in (0, 1, 6), err
    (run,) = out.glob("cpu/*")
    return essence(statement(run))
