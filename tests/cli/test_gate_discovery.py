"""``bi-harness gate`` over folders: whatever may hide a failure closes it, without a traceback."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from bi_harness.certificate.build import build
from bi_harness.certificate.events import Event
from bi_harness.cli import main as cli
from bi_harness.exits import ExitCode
from tests.certificate.journals import JOURNAL, result, sound
from tests.certificate.policies import run
from tests.certificate.runs import write_run
from tests.cli.test_gate import NOW, policy

RED = sound(result("fail"))


@pytest.fixture
def reports(tmp_path: Path) -> Path:
    write_run(tmp_path / "reports" / "cpu" / "good", run())
    return tmp_path / "reports"


def gate(tmp_path: Path, *args: str | Path) -> int:
    return cli.main(["gate", "--policy", policy(tmp_path), *map(str, args)])


def red(folder: Path) -> Path:
    write_run(folder, run(RED))
    return folder


def in_the_root(tmp_path: Path, reports: Path) -> str:
    for file in (reports / "cpu" / "good").iterdir():
        if file.is_file():
            shutil.copy(file, reports)
    return str(red(reports / "cpu" / "bad"))


def in_a_run(tmp_path: Path, reports: Path) -> str:
    return str(red(reports / "cpu" / "good" / "logs" / "bad"))


def behind_a_link(tmp_path: Path, reports: Path) -> str:
    red(tmp_path / "mnt" / "bad")
    (reports / "h200").symlink_to(tmp_path / "mnt")
    return str(reports / "h200")


def behind_a_link_to_the_run(tmp_path: Path, reports: Path) -> str:
    (reports / "latest").symlink_to(red(tmp_path / "mnt" / "bad"))
    return str(reports / "latest")


def behind_a_link_that_leads_nowhere(tmp_path: Path, reports: Path) -> str:
    (reports / "h200").symlink_to("/nowhere/h200")
    return str(reports / "h200")


def behind_a_loop_of_links(tmp_path: Path, reports: Path) -> str:
    (reports / "h200").symlink_to("h200")
    return str(reports / "h200")


def in_what_a_killed_run_left(tmp_path: Path, reports: Path) -> str:
    red(reports / "cpu" / "good" / ".work" / "bad")
    return str(reports / "cpu" / "good" / ".work")


def with_a_journal_alone(tmp_path: Path, reports: Path) -> str:
    bad = red(reports / "cpu" / "bad")
    for file in bad.glob("certificate.*"):
        file.unlink()
    return str(bad)


def with_a_folder_for_a_certificate(tmp_path: Path, reports: Path) -> str:
    (reports / "cpu" / "bad" / "certificate.json").mkdir(parents=True)
    return str(reports / "cpu" / "bad" / "certificate.json")


def with_a_link_for_a_certificate(tmp_path: Path, reports: Path) -> str:
    other = red(tmp_path / "mnt" / "bad") / "certificate.json"
    (reports / "cpu" / "bad").mkdir()
    (reports / "cpu" / "bad" / "certificate.json").symlink_to(other)
    return str(reports / "cpu" / "bad" / "certificate.json")


def with_a_pipe_for_a_certificate(tmp_path: Path, reports: Path) -> str:
    (reports / "cpu" / "bad").mkdir()
    os.mkfifo(reports / "cpu" / "bad" / "certificate.json")
    return str(reports / "cpu" / "bad")


def under_a_name_that_is_not_utf8(tmp_path: Path, reports: Path) -> str:
    return str(red(reports / os.fsdecode(b"caf\xe9"))).encode("utf-8", "backslashreplace").decode()


HIDDEN: list[Callable[[Path, Path], str]] = [
    in_the_root,
    in_a_run,
    behind_a_link,
    behind_a_link_to_the_run,
    behind_a_link_that_leads_nowhere,
    behind_a_loop_of_links,
    in_what_a_killed_run_left,
    with_a_journal_alone,
    with_a_folder_for_a_certificate,
    with_a_link_for_a_certificate,
    with_a_pipe_for_a_certificate,
    under_a_name_that_is_not_utf8,
]


@pytest.mark.parametrize("hide", HIDDEN, ids=lambda hide: hide.__name__)
def test_failing_run_that_is_hidden_closes_the_gate_and_is_named(
    tmp_path: Path, reports: Path, hide: Callable[[Path, Path], str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert gate(tmp_path, reports) == 0
    place = hide(tmp_path, reports)
    capsys.readouterr()
    page, cases = tmp_path / "g.md", tmp_path / "g.xml"
    args = [reports, "--json", "--md", page, "--junit", cases]
    assert gate(tmp_path, *args) == ExitCode.NOT_CERTIFIED
    told = capsys.readouterr()
    data = json.loads(told.out)
    assert not data["passed"]
    assert place in json.dumps(data, ensure_ascii=False).replace("\\\\", "\\")
    assert "Traceback" not in told.err
    assert "CLOSED" in page.read_text()
    assert int(ElementTree.parse(cases).getroot().get("failures", "0")) >= 1
    assert gate(tmp_path, reports) == ExitCode.NOT_CERTIFIED
    assert "The gate is CLOSED" in capsys.readouterr().out


def test_link_to_what_is_searched_anyway_keeps_the_gate_open(tmp_path: Path, reports: Path) -> None:
    (reports / "latest").symlink_to(reports / "cpu" / "good")
    (reports / "cpu" / "up").symlink_to("..")
    assert gate(tmp_path, reports) == 0
    other = tmp_path / "mnt"
    write_run(other / "good", run())
    (reports / "h200").symlink_to(other)
    assert gate(tmp_path, reports) == ExitCode.NOT_CERTIFIED
    assert gate(tmp_path, reports, other) == 0
    assert gate(tmp_path, reports, reports / "h200") == 0, "it was named"


def damaged(text: str) -> dict[str, bytes]:
    huge = "9" * 5_000
    return {
        "a count of 400 digits": text.replace('"prompts": 4', f'"prompts": {10**400}').encode(),
        "a count of 5000 digits": text.replace('"prompts": 4', f'"prompts": {huge}').encode(),
        "a version of thousands of digits": text.replace("0.32.0", huge).encode(),
        "a start before the calendar": text.replace(
            "2026-01-14T09:15:00.000Z", "0001-01-01T00:00:00+14:00"
        ).encode(),
        "an end after the calendar": text.replace(
            "2026-01-14T09:16:00.000Z", "9999-12-31T23:59:59-14:00"
        ).encode(),
        "nesting": b"[" * 200_000,
        "NaN": text.replace('"max_ulp": 0', '"max_ulp": NaN').encode(),
        "lone surrogates": text.replace("20260114T091500Z-abcdef", "\\ud800").encode(),
        "checkpoints that are text": text.replace('"checkpoints": {', '"checkpoints": "x", "y": {').encode(),
        "not UTF-8": b"\xff\xfe" + text.encode(),
        "nothing": b"",
    }


DAMAGED = damaged(build(run(), JOURNAL).to_json())


CONSISTENT = (
    "a start before the calendar",
    "an end after the calendar",
)
"""Genuine as far as anybody can tell: they meet nothing, and nothing failed in them."""


@pytest.mark.parametrize("name", DAMAGED)
def test_one_bad_certificate_counts_against_and_the_others_are_looked_at(
    tmp_path: Path, reports: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = tmp_path / "other.json"
    alone.write_bytes(DAMAGED[name])
    code = gate(tmp_path, reports, alone, "--now", NOW)
    told = capsys.readouterr()
    assert code == (0 if name in CONSISTENT else ExitCode.NOT_CERTIFIED), told.out
    assert "✓ met" in told.out, "the good one is looked at"
    assert f"{alone} does not count" in told.out
    # A run's folder, whose journal is gone.
    (reports / "bad").mkdir()
    shutil.copy(alone, reports / "bad" / "certificate.json")
    assert gate(tmp_path, reports, "--now", NOW) == ExitCode.NOT_CERTIFIED
    assert "Traceback" not in told.err + capsys.readouterr().err


@pytest.mark.parametrize("error", [OverflowError, RecursionError, ValueError, KeyError, MemoryError, OSError])
@pytest.mark.parametrize("where", ["examine", "opinion"])
def test_any_exception_is_a_problem_of_one_certificate(
    tmp_path: Path,
    reports: Path,
    error: type[Exception],
    where: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from bi_harness.certificate import gate as module
    from bi_harness.cli import examined

    write_run(reports / "cpu" / "strange", run(run_id="20260114T091500Z-ffffff"))
    owner, name = (examined, "examine") if where == "examine" else (module, "opinion")
    original = getattr(owner, name)

    def broken(*args: object, **more: object) -> object:
        if "strange" in str(getattr(args[0], "place", getattr(args[-2], "place", ""))):
            raise error("\udce9")
        return original(*args, **more)

    monkeypatch.setattr(owner, name, broken)
    assert gate(tmp_path, reports) == ExitCode.NOT_CERTIFIED
    told = capsys.readouterr()
    assert "✓ met" in told.out
    assert f"strange: not genuine: certificate.json: cannot be examined: {error.__name__}" in told.out or (
        f"strange: not genuine: it cannot be examined: {error.__name__}" in told.out
    )
    assert "Traceback" not in told.err


@pytest.mark.parametrize(
    "now",
    [
        "0001-01-01T00:00:00+14:00",
        "9999-12-31T23:59:59-14:00",
        "9" * 5_000,
        "2026-02-30",
        "",
        "\udce9",
        "2026-01-15T09:00:00+99:00",
        "10000-01-01T00:00:00Z",
    ],
)
def test_now_that_is_not_a_time_is_a_mistake(
    tmp_path: Path, reports: Path, now: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert gate(tmp_path, reports, "--now", now) == ExitCode.USAGE
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("now", ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "0001-01-01", "9999-12-31"])
def test_now_at_the_ends_of_the_calendar_is_a_time(tmp_path: Path, reports: Path, now: str) -> None:
    asked = policy(tmp_path, more="max_age_days: 14\n")
    args = ["gate", "--policy", asked, str(reports), "--now", now]
    assert cli.main(args) == ExitCode.NOT_CERTIFIED


@pytest.mark.parametrize(
    "path", ["x" * 300, "x/" * 3_000, "loop", "dangling", os.fsdecode(b"\xe9"), os.fsdecode(b"\xe9") * 300]
)
@pytest.mark.parametrize("option", ["", "--policy", "--md", "--junit"])
def test_path_that_cannot_be_used_is_a_mistake(
    tmp_path: Path, reports: Path, path: str, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "dangling").symlink_to("nowhere/x")
    given = tmp_path / path
    code = gate(tmp_path, reports, *([option] if option else []), given)
    told = capsys.readouterr()
    assert code in (ExitCode.USAGE, ExitCode.INFRASTRUCTURE, 0), told.err
    assert code != 0 or (option in ("--md", "--junit") and given.is_file())
    assert "Traceback" not in told.err


FOLDERS = st.lists(
    st.sampled_from(["cpu", "h200", ".hidden", "logs", ".work", "a b", os.fsdecode(b"\xff")]),
    max_size=4,
).map(lambda parts: Path(*parts))
KINDS: dict[str, list[Event]] = {
    "pass": run(),
    "fail": run(RED),
    "error": run(sound(result("error"))),
    "cut": run(sound()[:-1]),
}


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder of each kind."""
    base = tmp_path_factory.mktemp("kinds")
    for name, events in KINDS.items():
        write_run(base / name, events)
    return base


@given(
    st.dictionaries(FOLDERS, st.sampled_from(["pass", "pass", "error", "cut", "fail"]), max_size=3),
    FOLDERS,
)
@example({Path(): "pass"}, Path())
@example({Path("cpu"): "pass", Path("h200"): "error"}, Path("cpu/.work"))
@example({Path("cpu"): "pass"}, Path("cpu/logs"))
@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
def test_failing_run_anywhere_closes_the_gate_and_opens_none(
    tmp_path_factory: pytest.TempPathFactory, kept: Path, others: dict[Path, str], place: Path
) -> None:
    base = tmp_path_factory.mktemp("gate")
    reports = base / "reports"
    reports.mkdir()
    for folder, kind in others.items():
        shutil.copytree(kept / kind, reports / folder, dirs_exist_ok=True)
    before = gate(base, reports)
    hidden = any(".work" in folder.parts for folder in others)
    kinds = set(others.values())
    assert (before == 0) is ("pass" in kinds and "fail" not in kinds and not hidden)
    # In a folder of its own: over another run's files it would be that run no more.
    shutil.copytree(kept / "fail", reports / place / "red", dirs_exist_ok=True)
    assert gate(base, reports) == ExitCode.NOT_CERTIFIED
    shutil.rmtree(base)
