"""The self-test beside a suite: kept, read back, and told apart from that of another state of the suite."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import bi_harness
from bi_harness.certificate.power import SelfTest
from bi_harness.errors import InfrastructureError, UsageError
from bi_harness.runner.known_power import POWER, known_power, record
from bi_harness.runner.provenance import power_digest
from bi_harness.spec.load import Spec
from tests.certificate.selftests import fault_result, missed, tried
from tests.spec.small import Files


@pytest.fixture
def spec(tmp_path: Path) -> Spec:
    made = Files(tmp_path).load()
    (suite(made) / "test_a.py").write_text("def test_a(): pass\n")
    return made


def suite(spec: Spec) -> Path:
    return spec.paths.suites / "core"


def of_core(spec: Spec) -> SelfTest:
    return tried(fault_result(), missed(), suite="core", suite_digest=power_digest(spec, "core"))


def test_without_a_file_there_is_no_power(spec: Spec) -> None:
    assert known_power(spec, ["core"]) == ()
    assert known_power(spec, []) == ()
    assert known_power(spec, ["no_such_suite"]) == ()
    (suite(spec) / POWER).mkdir()
    assert known_power(spec, ["core"]) == ()


def test_what_is_recorded_is_read_back(spec: Spec) -> None:
    path = record(spec, of_core(spec))
    assert path == suite(spec) / "power.json"
    assert SelfTest.model_validate_json(path.read_bytes()) == of_core(spec)
    (power,) = known_power(spec, ["core"])
    assert (power.suite, power.faults, power.caught, power.current) == ("core", 2, 1, True)
    assert known_power(spec, ["other"]) == ()


def test_a_newer_selftest_takes_the_place_of_the_older_one(spec: Spec) -> None:
    record(spec, of_core(spec))
    record(spec, of_core(spec).model_copy(update={"clean_runs": 99}))
    assert [power.clean_runs for power in known_power(spec, ["core"])] == [99]


def test_recording_does_not_make_the_selftest_old(spec: Spec) -> None:
    before = power_digest(spec, "core")
    record(spec, of_core(spec))
    assert power_digest(spec, "core") == before


CHANGES: dict[str, Callable[[Path], object]] = {
    "a check changes": lambda folder: (folder / "test_a.py").write_text("def test_a(): assert True\n"),
    "a check is new": lambda folder: (folder / "test_b.py").write_text(""),
    "a check is renamed": lambda folder: (folder / "test_a.py").rename(folder / "test_c.py"),
    "a check is gone": lambda folder: (folder / "test_a.py").unlink(),
    "its limits change": lambda folder: (folder / "suite.yaml").write_text(
        (folder / "suite.yaml").read_text() + "# new\n"
    ),
    "a helper in a folder": lambda folder: (
        (folder / "sub").mkdir(),
        (folder / "sub" / "x.py").write_text(""),
    ),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_a_suite_that_changed_is_no_longer_the_one_that_was_tried(
    spec: Spec, change: Callable[[Path], object]
) -> None:
    record(spec, of_core(spec))
    change(suite(spec))
    (power,) = known_power(spec, ["core"])
    assert not power.current
    assert (power.faults, power.caught) == (2, 1), "it is told, as of an earlier state"


def test_what_is_no_part_of_the_suite_changes_nothing(spec: Spec) -> None:
    record(spec, of_core(spec))
    (suite(spec) / "notes.txt").write_text("x")
    (suite(spec) / "__pycache__").mkdir()
    (suite(spec) / "__pycache__" / "test_a.pyc").write_bytes(b"x")
    other = spec.paths.suites / "other"
    other.mkdir()
    (other / "test_a.py").write_text("")
    assert known_power(spec, ["core"])[0].current


@pytest.mark.parametrize("part", ["workload", "compare"])
def test_what_is_sent_and_how_it_is_compared_are_parts_of_the_power(
    spec: Spec, part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "package"
    for name in ("workload", "compare", "report"):
        (package / name).mkdir(parents=True)
        (package / name / "a.py").write_text("")
    (package / "__init__.py").write_text("")
    monkeypatch.setattr(bi_harness, "__file__", str(package / "__init__.py"))
    before = power_digest(spec, "core")
    assert before.startswith("sha256:")
    assert len(before) == 71
    for outside in (package / "report" / "a.py", package / "workload" / "checkpoint.py"):
        outside.write_text("x = 1\n")
        assert power_digest(spec, "core") == before, outside
    (package / part / "a.py").write_text("x = 1\n")
    assert power_digest(spec, "core") != before


def test_the_digest_is_the_suites_own(spec: Spec) -> None:
    assert power_digest(spec, "core") == power_digest(spec, "core")
    assert power_digest(spec, "core") != power_digest(spec, "other")


NO_SELFTEST: dict[str, bytes] = {
    "empty": b"",
    "no JSON": b"not json",
    "half of it": b'{"schema": "bi-harness/selftest/1", "suite": "co',
    "another JSON": b"[]",
    "null": b"null",
    "no bytes of text": b"\xff\xfe",
    "lacks most": b'{"schema": "bi-harness/selftest/1", "suite": "core"}',
}


@pytest.mark.parametrize("content", NO_SELFTEST.values(), ids=NO_SELFTEST.keys())
def test_a_file_that_is_none_is_refused(spec: Spec, content: bytes) -> None:
    (suite(spec) / POWER).write_bytes(content)
    with pytest.raises(UsageError, match=r"power\.json is not the result of a selftest"):
        known_power(spec, ["core"])


@pytest.mark.parametrize(
    "change",
    [{"schema": "bi-harness/selftest/2"}, {"more": 1}, {"suite_digest": ""}, {"faults": None}, {"score": 2}],
)
def test_a_selftest_of_another_make_is_refused(spec: Spec, change: dict[str, object]) -> None:
    path = record(spec, of_core(spec))
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(UsageError, match="is not the result of a selftest"):
        known_power(spec, ["core"])


def test_a_selftest_of_another_suite_is_refused(spec: Spec) -> None:
    path = record(spec, of_core(spec))
    path.write_text(path.read_text().replace('"suite": "core"', '"suite": "ops"'))
    with pytest.raises(UsageError, match=r"power\.json is of the suite ops, not of core"):
        known_power(spec, ["core"])


def test_where_it_cannot_be_written(spec: Spec) -> None:
    with pytest.raises(InfrastructureError, match=r"cannot write .*nowhere/power\.json"):
        record(spec, of_core(spec).model_copy(update={"suite": "nowhere"}))
