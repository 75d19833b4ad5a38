"""Whether the self-tests recorded in a folder of suites hold for a release."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from bi_harness.errors import UsageError
from bi_harness.invariance.faults.registry import FAULTS
from bi_harness.runner import power_check
from bi_harness.runner.known_power import POWER, record
from bi_harness.runner.power_check import check_power
from bi_harness.runner.power_digest import power_digest
from bi_harness.spec.load import Spec
from tests.certificate.selftests import fault_result, tried
from tests.spec.small import Files


@pytest.fixture
def spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Spec:
    """A suite ``core`` for which two planted faults are."""
    faults = {name: dataclasses.replace(FAULTS[name], suite="core") for name in ("norm-256", "one-ulp")}
    monkeypatch.setattr(power_check, "FAULTS", faults)
    made = Files(tmp_path).load()
    (made.paths.suites / "core" / "test_a.py").write_text("def test_a(): pass\n")
    return made


def record_complete(spec: Spec) -> None:
    faults = (fault_result(), fault_result("one-ulp"))
    record(spec, tried(*faults, suite="core", suite_digest=power_digest(spec, "core")))


def test_a_suite_without_a_record_is_missing(spec: Spec) -> None:
    (found,) = check_power(spec)
    assert (found.suite, found.state, found.untried) == ("core", "missing", ("norm-256", "one-ulp"))


def test_a_record_is_current_until_what_decides_changes(spec: Spec) -> None:
    record_complete(spec)
    assert [(c.state, c.problems) for c in check_power(spec, ["core"])] == [("current", ())]
    code = spec.paths.suites / "core" / "test_a.py"
    code.write_text("# A comment.\ndef test_a():\n    '''A docstring.'''\n")
    assert check_power(spec)[0].state == "current"
    code.write_text("def test_a(): assert True\n")
    (found,) = check_power(spec)
    assert (found.state, found.problems) == ("stale", ("The suite has changed since its self-test.",))


def test_a_new_fault_is_untried(spec: Spec, monkeypatch: pytest.MonkeyPatch) -> None:
    record_complete(spec)
    more = dataclasses.replace(FAULTS["lm-head"], suite="core")
    monkeypatch.setitem(power_check.FAULTS, "lm-head", more)
    assert [(c.state, c.untried) for c in check_power(spec)] == [("current", ("lm-head",))]


def test_a_fault_of_another_suite_does_not_count(spec: Spec, monkeypatch: pytest.MonkeyPatch) -> None:
    record_complete(spec)
    monkeypatch.setitem(power_check.FAULTS, "lm-head", FAULTS["lm-head"])
    assert check_power(spec)[0].problems == ()


def test_what_cannot_be_read_is_a_problem_of_its_suite(spec: Spec) -> None:
    (spec.paths.suites / "core" / POWER).write_text("{")
    (found,) = check_power(spec)
    assert found.state == "unreadable"
    assert "power.json is not the result of a selftest" in found.problems[0]
    record_complete(spec)
    (spec.paths.suites / "core" / "test_a.py").write_text("def\n")
    (found,) = check_power(spec)
    assert found.state == "unreadable"
    assert "test_a.py:1: is not valid Python" in found.problems[0]


def test_an_unknown_suite_is_refused(spec: Spec) -> None:
    with pytest.raises(UsageError, match=r'there is no suite "other"\. There are: core'):
        check_power(spec, ["other"])
