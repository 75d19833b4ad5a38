"""Which executor is taken, and that Ray is imported for its own alone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bi_harness.exits import ExitCode
from bi_harness.runner.executors import LocalExecutor, executor_named
from tests.runner.standin import ROOT, Standin
from tests.survival.runs import GOOD, folder


def test_this_host_is_the_usual_one() -> None:
    assert isinstance(executor_named("local"), LocalExecutor)
    with pytest.raises(ValueError, match="no executor"):
        executor_named("cloud")


def test_a_local_run_imports_no_ray() -> None:
    program = (
        "import sys, bi_harness.runner.run, bi_harness.cli.run as run; "
        "from bi_harness.runner.executors import executor_named; executor_named('local'); "
        "sys.exit('ray' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, timeout=60).returncode == 0


def test_without_ray_it_says_what_to_install(standin: Standin, tmp_path: Path) -> None:
    standin.write(one=GOOD)
    (standin.root / "site" / "ray").mkdir(parents=True)
    (standin.root / "site" / "ray" / "__init__.py").write_text("raise ImportError('no ray here')\n")
    code, _, err = standin.finish("run", "--executor", "ray")
    assert code == ExitCode.USAGE
    assert "pip install 'bi-harness[ray]'" in err
    assert "no ray here" in err


def test_an_endpoint_is_asked_from_this_host(standin: Standin) -> None:
    standin.write(one=GOOD)
    code, _, err = standin.finish(
        "run", "--executor", "ray", "--endpoint", "http://127.0.0.1:1/v1", "--model", "tiny"
    )
    assert code == ExitCode.USAGE
    assert "leave --executor out" in err


def test_a_local_run_tells_nothing_of_executors(standin: Standin) -> None:
    standin.write(one=GOOD)
    assert standin.finish("run")[0] == ExitCode.CERTIFIED
    lines = (folder(standin) / "events.jsonl").read_text().splitlines()
    start = json.loads(lines[0])
    assert "executor" not in start["asked"]["options"]
    assert "nodes" not in start["device"]
    assert not any('"node"' in line for line in lines)
