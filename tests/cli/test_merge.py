"""``run --shard`` and ``merge``: a run in parts is the whole run; what is no set of its parts is refused."""

from __future__ import annotations

import json
import os
import shutil
import signal
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from securesystemslib.signer import CryptoSigner

from bi_harness.certificate.essence import essence
from bi_harness.certificate.events import Event
from bi_harness.certificate.sign import new_key
from bi_harness.certificate.statement import Statement
from bi_harness.cli import main as cli
from bi_harness.exits import ExitCode
from tests.certificate.journals import end, result
from tests.certificate.policies import CLEAN
from tests.certificate.runs import looked_at, said, write_run
from tests.certificate.shards import split, unit, whole
from tests.runner.fleet import STILL, files, merge, ours, ran, write_fleet
from tests.runner.standin import Standin, marked, wait_for
from tests.survival.runs import once

GOOD = "good(check, workload)"
REPORTS = {"certificate.json", "certificate.html", "certificate.md", "junit.xml", "cells.parquet"}
WAIVERS = """\
version: 1
waivers:
  - cell: "cpu/*/tp1-dp2/*"
    check: one
    reason: Known.
    link: https://example.org/7
    owner: A
    expires: "2999-01-01"
"""
UNITS = ([unit(1), unit(0)], [unit(2)], [unit(3)])


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Standin]:
    made = write_fleet(Standin(tmp_path, uuid.uuid4().hex), one=GOOD)
    yield made
    assert marked(made.mark) == []


def told(run: Path) -> Statement:
    return Statement.model_validate_json((run / "certificate.json").read_text())


# Runs of a stand-in suite.


def test_shards_merge_to_the_very_bytes_of_the_whole_run(fleet: Standin) -> None:
    """One is told by the flag, which wins, one by its variable, one by Buildkite; that has nothing to run."""
    still = {"out": "same", STILL: "1"}
    full = ran(fleet, **still)
    step = {"BUILDKITE_PARALLEL_JOB": "2", "BUILDKITE_PARALLEL_JOB_COUNT": "3"}
    runs = [
        ran(fleet, **step, **still),
        ran(fleet, BI_HARNESS_SHARD="2/3", **step, **still),
        ran(fleet, "--shard", "1/3", BI_HARNESS_SHARD="2/3", **still),
    ]
    assert [ours(run)["shard"]["index"] for run in runs] == [3, 2, 1]
    assert [ours(run)["verdict"] for run in runs] == ["INCONCLUSIVE"] * 3
    assert "there was nothing in it to run" in ours(runs[0])["why"]
    assert ours(runs[0])["totals"]["passed"] == 0
    for run in runs:
        assert looked_at(run).genuine, said(looked_at(run))
        assert fleet.finish("report", str(run))[0] == ExitCode.CERTIFIED, "its part passed"
    merged = merge(fleet, runs)
    assert files(merged, "logs/") == files(full, "logs/")
    assert files(merged, "logs/shards/").keys() == files(full).keys(), "all logs, under the same names"
    assert set(files(merged, "logs/")) == {*REPORTS, "events.jsonl"}
    assert ours(merged)["verdict"] == "CERTIFIED"
    assert [axis["name"] for axis in ours(merged)["axes"]] == ["dp_digest_equal"]


@pytest.mark.long
def test_with_real_clocks_they_agree_in_all_that_two_runs_agree_in(fleet: Standin) -> None:
    runs = [ran(fleet, "--shard", f"{index}/2") for index in (1, 2)]
    merged = merge(fleet, runs)
    assert essence(told(merged)) == essence(told(ran(fleet)))
    assert len({run.name for run in (*runs, merged)}) == 3
    assert merged.parent == fleet.root / "merged" / "cpu"
    assert ours(merged)["run_id"] == merged.name
    assert ours(merged)["provenance"]["command"][1:3] == ["run", "--json"]
    assert "--shard" not in ours(merged)["provenance"]["command"]
    # What differs in the YAML makes it another run.
    suite = fleet.suite / "suite.yaml"
    suite.write_text(suite.read_text().replace("check_s: 5", "check_s: 6"))
    other = ran(fleet, "--shard", "2/2")
    code, _, err = fleet.finish("merge", str(runs[0]), str(other))
    assert code == ExitCode.USAGE
    assert "digest of suites" in err


@pytest.mark.long
def test_a_shard_that_fails(fleet: Standin) -> None:
    write_fleet(fleet, one="(bad if cell.dp == 2 else good)(check, workload)")
    codes, runs = [], []
    for index in (1, 2):
        code, text, _ = fleet.finish("run", "--json", "--shard", f"{index}/2")
        codes.append(code)
        runs.append(Path(json.loads(text)["run"]))
    assert sorted(codes) == [0, ExitCode.NOT_CERTIFIED]
    assert ours(merge(fleet, runs, code=ExitCode.NOT_CERTIFIED))["verdict"] == "NOT_CERTIFIED"
    (fleet.root / "waivers.yaml").write_text(WAIVERS)
    runs = [ran(fleet, "--shard", f"{index}/2", out="waived") for index in (1, 2)]
    shutil.rmtree(fleet.root / "merged")
    # What only the whole can tell: this stand-in has other bits at two ranks, for requests alone, too.
    merged = merge(fleet, runs, code=ExitCode.NOT_CERTIFIED)
    assert "comparisons across parallel sizes differ" in ours(merged)["why"]
    assert ours(merged)["totals"]["waived"] == 1
    assert essence(told(merged)) == essence(told(ran(fleet, code=ExitCode.NOT_CERTIFIED)))


@pytest.mark.long
def test_an_interrupted_shard_and_the_same_resumed(fleet: Standin) -> None:
    hang = once(fleet, "time.sleep(600)")
    indented = "\n".join(f"    {line}" for line in hang.splitlines())
    write_fleet(fleet, one=f"if cell.dp == 1:\n{indented}\nelse:\n    {GOOD}")
    process = fleet.cli("run", "--shard", "1/2")
    wait_for(lambda: (fleet.root / "was-here").exists(), 60, "the shard hangs")
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == ExitCode.INTERRUPTED, err
    (stopped,) = (fleet.root / "out" / "cpu").iterdir()
    runs = [stopped, ran(fleet, "--shard", "2/2")]
    code, out, err = fleet.finish("merge", *map(str, runs), "--out", str(fleet.root / "cut"), "--json")
    assert code == ExitCode.INTERRUPTED
    assert f"shard 1 of 2 ({stopped}) did not come to its end" in err
    cut = Path(json.loads(out)["run"])
    assert ours(cut)["verdict"] == "INCONCLUSIVE"
    assert looked_at(cut).genuine
    code, _, err = fleet.finish("run", "--resume", str(cut))
    assert code == ExitCode.USAGE
    assert "was merged of shards: resume the shard" in err
    code, _, err = fleet.finish("run", "--resume", str(stopped), "--shard", "2/2")
    assert code == ExitCode.USAGE
    assert "shard: another one now" in err
    # What it is, the run knows: Buildkite is not asked.
    step = {"BUILDKITE_PARALLEL_JOB": "7", "BUILDKITE_PARALLEL_JOB_COUNT": "8"}
    code, _, err = fleet.finish("run", "--resume", str(stopped), **step)
    assert code == ExitCode.CERTIFIED, err
    merged = merge(fleet, runs)
    assert ours(merged)["verdict"] == "CERTIFIED"
    assert len(ours(merged)["resumed"]) == 1
    assert looked_at(merged).genuine
    assert essence(told(merged)) == essence(told(ran(fleet)))


def test_plans_of_shards_are_the_whole_plan(fleet: Standin) -> None:
    def plan(*arguments: str, **environ: str) -> dict[str, list[dict[str, object]]]:
        code, out, err = fleet.finish("plan", "--json", *arguments, **environ)
        assert code == 0, err
        found: dict[str, list[dict[str, object]]] = json.loads(out)
        return found

    full = plan()
    assert "shard" not in full
    assert "shard" not in plan("--shard", "1/1")
    step = {"BUILDKITE_PARALLEL_JOB": "2", "BUILDKITE_PARALLEL_JOB_COUNT": "3"}
    shards = [plan("--shard", "1/3"), plan(BI_HARNESS_SHARD="2/3"), plan(**step)]
    assert [shard["shard"] for shard in shards] == [{"index": i, "count": 3} for i in (1, 2, 3)]
    for name in ("cells", "units"):
        together = [str(one["id"]) for shard in shards for one in shard[name]]
        assert sorted(together) == sorted(str(one["id"]) for one in full[name])
    assert [len(shard["units"]) for shard in shards] == [1, 1, 0]
    code, out, _ = fleet.finish("plan", "--shard", "2/3")
    assert (code, "shard 2 of 3" in out) == (0, True)


@pytest.mark.parametrize("command", ["run", "plan"])
def test_what_is_no_shard(fleet: Standin, command: str) -> None:
    code, _, err = fleet.finish(command, "--shard", "4/3")
    assert (code, "there is no shard 4 of 3" in err) == (ExitCode.USAGE, True)
    code, _, err = fleet.finish(command, BUILDKITE_PARALLEL_JOB="x", BUILDKITE_PARALLEL_JOB_COUNT="2")
    assert (code, "BUILDKITE_PARALLEL_JOB=x" in err) == (ExitCode.USAGE, True)
    code, _, err = fleet.finish(command, "--mode", "compile", "--shard", "1/2")
    assert code == ExitCode.NOTHING_TO_RUN, "the whole has nothing to run, as ever"


# Folders made of journals.


def folders(
    root: Path, events: Sequence[Event] = (), signer: CryptoSigner | None = None, name: str = "s"
) -> list[Path]:
    """The folders of three shards."""
    parts = split(events or whole(3, provenance=CLEAN), UNITS)
    runs = [root / f"{name}{number}" for number in (1, 2, 3)]
    for run, part in zip(runs, parts, strict=True):
        write_run(run, part, signer)
    return runs


def merged_to(root: Path, runs: Sequence[Path], *arguments: str, code: int = 0) -> Path:
    out = root / "merged"
    assert cli.main(["merge", *map(str, runs), "--out", str(out), *arguments]) == code
    (run,) = (out / "cpu").iterdir()
    return run


def refused(
    runs: Sequence[Path], capsys: pytest.CaptureFixture[str], *arguments: str, out: Path | None = None
) -> str:
    """``merge`` says why not, with 4, and writes nothing."""
    out = out or runs[0].parent / "merged"
    before = files(out)
    capsys.readouterr()
    assert cli.main(["merge", *map(str, runs), "--out", str(out), *arguments]) == ExitCode.USAGE
    told = capsys.readouterr()
    assert told.out == ""
    assert "Traceback" not in told.err
    assert files(out) == before
    return told.err


def test_a_merged_run_is_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """``verify`` with its folder and without, ``report``, ``diff`` and ``gate`` take it like any other."""
    runs = folders(tmp_path)
    write_run(tmp_path / "whole", whole(3, provenance=CLEAN))
    merged = merged_to(tmp_path, runs[::-1])
    assert files(merged, "logs/") == files(tmp_path / "whole", "logs/")
    found = looked_at(merged)
    assert found.genuine, said(found)
    assert found.journal
    assert "3 shards' journals give this one, byte for byte" in [f.what for f in found.findings]
    assert looked_at(merged / "certificate.json").genuine
    shutil.copy(merged / "certificate.json", tmp_path / "alone.json")
    assert looked_at(tmp_path / "alone.json").genuine
    before = files(merged)
    for name in REPORTS:
        (merged / name).unlink()
    assert cli.main(["report", str(merged)]) == ExitCode.CERTIFIED
    assert files(merged) == before
    assert merged_to(tmp_path, runs) == merged, "once more gives the same"
    assert files(merged) == before
    policy = tmp_path / "release.yaml"
    policy.write_text(
        'vllm: ">=0.30"\nrequires: [{devices: cpu, models: [m1, m2, m3], suites: core, modes: eager}]\n'
    )
    gate = ["gate", "--policy", str(policy), "--now", "2026-01-15T00:00:00Z"]
    assert cli.main([*gate, *map(str, runs)]) != 0
    capsys.readouterr()
    assert cli.main([*gate, "--json", *map(str, runs)]) != 0
    told = json.loads(capsys.readouterr().out)
    assert {r["state"] for r in told["requirements"]} == {"unmet"}
    assert "it is of shard 1 of 3 alone" in str(told)
    assert cli.main([*gate, *map(str, runs[:2]), str(tmp_path / "alone.json")]) == 0
    assert cli.main([*gate, str(tmp_path)]) == 0, "among all that lies about, its shards' journals too"
    assert cli.main(["diff", str(tmp_path / "whole"), str(merged)]) == 0
    capsys.readouterr()


def test_a_shard_alone_says_what_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = folders(tmp_path)[0]
    assert ours(run)["verdict"] == "INCONCLUSIVE"
    assert json.loads((run / "certificate.json").read_text())["predicate"]["result"] == "FAILED"
    for name in ("certificate.md", "certificate.html"):
        text = (run / name).read_text()
        assert "shard 1 of 3 alone certifies nothing" in text
        assert "INCONCLUSIVE" in text
    assert cli.main(["report", str(run)]) == ExitCode.CERTIFIED
    shown = capsys.readouterr().out
    assert "INCONCLUSIVE" in shown
    assert "shard 1 of 3 alone" in shown
    assert cli.main(["diff", "--series", "--json", str(run)]) in (0, 1, 6)
    assert "CERTIFIED" not in capsys.readouterr().out.replace("bi-harness", "").replace("NOT_CERTIFIED", "")


def test_one_whole_run_is_itself(tmp_path: Path) -> None:
    """What a step with a parallelism of 1 leaves for the step that merges."""
    write_run(tmp_path / "run", whole(2))
    merged = merged_to(tmp_path, [tmp_path / "run"])
    assert files(merged) == files(tmp_path / "run")


def test_what_is_no_set_of_shards_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two, three = folders(tmp_path)
    again = folders(tmp_path, name="again")[1]
    assert "missing: shard 2, 3 of 3" in refused([one], capsys)
    said = refused([one, two, again, three], capsys)
    assert "shard 2 of 3 is there 2 times: " in said.replace("\n", " ")
    assert "cannot read the journal" in refused([one, two, tmp_path / "nowhere"], capsys)
    write_run(tmp_path / "whole", whole(3))
    assert "is a whole run and no shard" in refused([one, two, three, tmp_path / "whole"], capsys)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "events.jsonl").touch()
    assert "the journal is empty" in refused([one, two, tmp_path / "empty"], capsys)
    other = folders(tmp_path, whole(3, provenance=CLEAN, device={"id": "h200"}), name="other")
    assert "device: cpu there, h200 here" in refused([one, two, other[2]], capsys)


@pytest.mark.parametrize("what", ["torn", "nonsense", "twice"])
def test_a_damaged_shard_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str], what: str) -> None:
    runs = folders(tmp_path)
    path = runs[1] / "events.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    if what == "torn":
        path.write_bytes(b"".join(lines)[:-5])
    elif what == "nonsense":
        path.write_bytes(b"".join([*lines[:3], b"nonsense\n", *lines[3:]]))
    else:
        path.write_bytes(b"".join([*lines[:-1], lines[-3], lines[-1]]))
    assert str(runs[1]) in refused(runs, capsys).replace("\n", "")


def test_a_folder_that_is_there_already(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = folders(tmp_path)
    merged = merged_to(tmp_path, runs)
    with open(merged / "events.jsonl", "ab") as file:
        file.write(b"\n")
    assert "is there already, and is another run" in refused(runs, capsys)
    assert "cannot make the run's folder" in refused(runs, capsys, out=runs[0] / "events.jsonl")


def test_statuses_and_exit_codes(tmp_path: Path) -> None:
    bad = {"2/alone": result("fail", check="alone", cell=f"{unit(2)}/core")}
    merged = merged_to(tmp_path, folders(tmp_path, whole(3, bad)), code=ExitCode.NOT_CERTIFIED)
    assert ours(merged)["verdict"] == "NOT_CERTIFIED"
    shutil.rmtree(tmp_path / "merged")
    cut = [*whole(3)[:-1], end(True)]
    merged_to(tmp_path, folders(tmp_path, cut, name="cut"), code=ExitCode.INTERRUPTED)
    shutil.rmtree(tmp_path / "merged")
    open_ = {"2/alone": result("inconclusive", check="alone", cell=f"{unit(2)}/core")}
    merged_to(tmp_path, folders(tmp_path, whole(3, open_), name="open"), code=ExitCode.INCONCLUSIVE)


def test_signing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from bi_harness.certificate.sign import load_signing_key

    for name in ("key.pem", "other.pem"):
        new_key(tmp_path / name)
    key, public = str(tmp_path / "key.pem"), str(tmp_path / "key.pem.pub")
    runs = folders(tmp_path, signer=load_signing_key(tmp_path / "key.pem"))
    merged = merged_to(tmp_path, runs, "--public-key", public, "--sign-key", key)
    assert cli.main(["verify", str(merged), "--key", public]) == 0
    assert "nobody signed" not in capsys.readouterr().out
    assert looked_at(merged / "logs" / "shards" / "1-of-3.dsse.json").genuine
    (merged / "logs" / "shards" / "1-of-3.jsonl").write_text("")
    assert cli.main(["verify", str(merged), "--key", public]) == ExitCode.NOT_CERTIFIED
    shutil.rmtree(tmp_path / "merged")
    capsys.readouterr()
    merged_to(tmp_path, runs)
    assert "signatures were NOT checked" in capsys.readouterr().err
    shutil.rmtree(tmp_path / "merged")
    other = str(tmp_path / "other.pem.pub")
    assert "none of the given keys signed it" in refused(runs, capsys, "--public-key", other)
    unsigned = folders(tmp_path, name="unsigned")[1]
    assert "nobody signed it" in refused([runs[0], unsigned, runs[2]], capsys, "--public-key", public)
    (runs[1] / "logs" / "unit.log").write_text("changed")
    assert "logs/unit.log: was changed" in refused(runs, capsys, "--public-key", public)
    assert "none.pub" in refused(runs, capsys, "--public-key", str(tmp_path / "none.pub"))


@pytest.mark.parametrize("what", ["changed", "gone", "more"])
def test_verify_looks_at_the_shards_journals(tmp_path: Path, what: str) -> None:
    merged = merged_to(tmp_path, folders(tmp_path))
    path = merged / "logs" / "shards" / "1-of-3.jsonl"
    if what == "changed":
        data = path.read_bytes()
        path.write_bytes(data.replace(b'"duration_s":', b'"duration_s":1', 1))
        assert path.read_bytes() != data
    elif what == "gone":
        path.unlink()
    else:
        shutil.copy(path, path.with_name("4-of-3.jsonl"))
    found = looked_at(merged)
    assert not found.genuine
    assert "logs/shards" in said(found)


def test_logs(tmp_path: Path) -> None:
    """Those of one name are kept apart; links, which no run writes, are left out."""
    runs = folders(tmp_path)
    (runs[0] / "logs" / "attempt-2").mkdir()
    (runs[0] / "logs" / "attempt-2" / "m1.log").write_text("more\n")
    os.symlink("/etc/passwd", runs[0] / "logs" / "passwd.log")
    os.symlink("/etc/passwd", runs[0] / "certificate.dsse.json")
    os.mkfifo(runs[0] / "logs" / "pipe")
    (runs[1] / "logs" / "shards").mkdir()
    (runs[1] / "logs" / "shards" / "3-of-3.jsonl").write_text("not that")
    merged = merged_to(tmp_path, runs)
    assert {name for name in files(merged) if name.startswith("logs/")} == {
        "logs/attempt-2/m1.log",
        "logs/unit.log",
        *(f"logs/shards/{n}-of-3.jsonl" for n in (1, 2, 3)),
        *(f"logs/shard-{n}/unit.log" for n in (2, 3)),
    }
    assert looked_at(merged).genuine
    shutil.rmtree(tmp_path / "merged")
    shutil.rmtree(runs[2] / "logs")
    os.symlink("/etc", runs[2] / "logs")
    merged = merged_to(tmp_path, runs)
    assert not [name for name in files(merged) if "passwd" in name]
