"""The benchmark's own arithmetic: every second is accounted for once, and no test is left without a match."""

from __future__ import annotations

import io
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.certify.command import Place, side_by_side, timed, usable_cores
from benchmarks.certify.coverage import COUNTERPARTS, checks_for
from benchmarks.certify.sides import Side, told_ratio
from benchmarks.certify.timeline import first_line, length, seconds, shares, split
from benchmarks.certify.vllm_tests import extract, fetch
from bi_harness.device.facts import GpuFacts, HostFacts

ROOT = Path(__file__).resolve().parents[2]
spans = st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), max_size=8)


@given(st.integers(0, 20), st.integers(21, 50), spans)
def test_what_lies_in_spans_and_what_does_not_is_the_whole(
    start: int, end: int, by: list[tuple[int, int]]
) -> None:
    inside, left = split([(start, end)], by)
    covered = {t for a, b in by for t in range(a, b)} & set(range(start, end))
    assert inside == len(covered)
    assert inside + length(left) == end - start
    assert {t for a, b in left for t in range(int(a), int(b))} == set(range(start, end)) - covered


def at(second: int) -> str:
    return f"2026-01-14T09:15:{second:02d}.000Z"


def test_every_moment_of_a_run_is_counted_once() -> None:
    began = seconds(at(0))
    events = [
        {"type": "run_started", "time": at(2)},
        {"type": "unit_started", "time": at(3), "unit": "u"},
        {"type": "check_started", "time": at(4), "cell": "c", "check": "one"},
        {"type": "engine_ready", "time": at(20), "arm": {"start_s": 15.0, "unit": "u", "arm": "treatment"}},
        {"type": "engine_ready", "time": at(22), "arm": {"start_s": 17.0, "unit": "u", "arm": "control"}},
        {"type": "check_progress", "time": at(30), "cell": "c", "check": "one"},
        {"type": "check_finished", "time": at(31), "result": {"cell": "c", "check": "one"}},
        {"type": "check_finished", "time": at(31), "result": {"cell": "c", "check": "skipped"}},
        {"type": "unit_finished", "time": at(35), "unit": "u"},
        {"type": "run_finished", "time": at(36)},
    ]
    found = shares(events, began, seconds(at(38)), {seconds(at(22)): seconds(at(15))})
    assert found.wall_s == 38
    assert (found.importing_s, found.starting_s) == (10, 7)  # 5 to 15, then to 22
    assert (found.generating_s, found.comparing_s) == (9, 1)  # 4 to 5, where no engine runs yet, and 22 to 30
    assert (found.ending_s, found.harness_s) == (5, 6)


def test_the_first_line_that_vllm_logs() -> None:
    near = seconds("2026-11-21T09:03:31.942Z")
    log = "\nWriting model shards\nINFO 11-21 09:03:05 [api.py:1] x\nINFO 11-21 09:03:06 [b.py:2] y\n"
    found = first_line(log, near)
    assert found is not None
    assert (near - found) % 3600 == pytest.approx(26.942)
    assert first_line("nothing", near) is None


def test_each_test_of_vllm_has_a_counterpart_that_is_there() -> None:
    suite = yaml.safe_load((ROOT / "suites/batch_invariance/suite.yaml").read_text(encoding="utf-8"))
    ids = {check["id"] for check in suite["checks"]}
    assert set(checks_for(tuple(c.test for c in COUNTERPARTS))) <= ids
    with pytest.raises(ValueError, match="test_new"):
        checks_for(("test_simple_generation", "test_new"))


def archive(*names: str) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as tar:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = 3
            tar.addfile(member, io.BytesIO(b"x\n\n"))
        link = tarfile.TarInfo("vllm-1.0/tests/v1/determinism/test_link.py")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    return data.getvalue()


def test_only_the_tests_are_taken_out(tmp_path: Path) -> None:
    inside = "vllm-1.0/tests/v1/determinism"
    data = archive(
        f"{inside}/test_a.py", f"{inside}/../../evil.py", "vllm-1.0/setup.py", f"{inside}/d/test_b.py"
    )
    extract(data, "1.0", tmp_path / "tests")
    assert sorted(p.name for p in (tmp_path / "tests").iterdir()) == ["test_a.py", "vllm-release.txt"]
    assert fetch("1.0", tmp_path / "tests") == tmp_path / "tests"  # there already: no network
    with pytest.raises(ValueError, match=r"holds the tests of vLLM 1\.0, not 2\.0"):
        fetch("2.0", tmp_path / "tests")


def test_a_release_without_them(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no tests/v1/determinism"):
        extract(archive("vllm-1.0/setup.py"), "1.0", tmp_path / "tests")


def gpu(index: int, *, name: str = "NVIDIA H200", mig: bool = False) -> GpuFacts:
    return GpuFacts(index, name, f"GPU-{index}", "9.0", 140.0, "575", mig)


def host() -> HostFacts:
    return HostFacts("h", "os", "Linux", "x86_64", "3.11", "cpu", (), 8, 8, None, 64.0, 1, None)


def side(wall_s: float, *, ended: bool = True) -> Side:
    return Side(wall_s, 8, 8, 0, 0, 2, None, 0, ended)


def test_the_ratio_is_told_where_it_is_known() -> None:
    assert told_ratio({"bi-harness": side(100), "vllm": side(650)}) == "ratio: 6.50 times faster"
    lower = told_ratio({"bi-harness": side(100), "vllm": side(650, ended=False)})
    assert lower == "ratio: at least 6.50 times faster: vLLM's side had not ended by then"
    assert told_ratio({"bi-harness": side(100, ended=False), "vllm": side(650)}) == ""
    assert told_ratio({"vllm": side(650)}) == ""


def test_a_command_that_takes_too_long_may_write_its_report(tmp_path: Path) -> None:
    script = (
        "import time\ntry:\n    time.sleep(60)\nexcept KeyboardInterrupt:\n"
        "    print('report')\n    raise SystemExit(5)"
    )
    log, all_cores = tmp_path / "log", Place(usable_cores())
    ran = timed([sys.executable, "-c", script], {}, log, 3.0, all_cores)
    assert (ran.exit_code, ran.ended, log.read_text()) == (5, False, "report\n")
    assert 3 <= ran.wall_s < 30
    ran = timed([sys.executable, "-c", "raise SystemExit(3)"], {}, log, 30.0, all_cores)
    assert (ran.exit_code, ran.ended, ran.busy) == (3, True, None)


def test_a_side_runs_where_it_may(tmp_path: Path) -> None:
    script = "import os; print(sorted(os.sched_getaffinity(0)), os.environ['CUDA_VISIBLE_DEVICES'])"
    core = usable_cores()[-1]
    timed([sys.executable, "-c", script], {}, tmp_path / "log", 30.0, Place((core,), 3))
    assert (tmp_path / "log").read_text() == f"[{core}] 3\n"


def test_both_sides_at_once_have_as_much() -> None:
    two = replace(host(), gpus=(gpu(0), gpu(1)))
    assert side_by_side(two, range(9)) == (Place((0, 1, 2, 3), 0), Place((4, 5, 6, 7), 1))
    for others in ((gpu(0),), (gpu(0), gpu(1, name="NVIDIA A100")), (gpu(0), gpu(1, mig=True))):
        with pytest.raises(ValueError, match="two GPUs of one kind"):
            side_by_side(replace(host(), gpus=others), range(9))
    with pytest.raises(ValueError, match="two cores"):
        side_by_side(two, [3])
