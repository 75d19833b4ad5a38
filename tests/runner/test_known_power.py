"""The self-test beside a suite: kept, read back, and told apart from that of another state of the suite."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import bi_harness
from bi_harness.certificate.power import SelfTest
from bi_harness.errors import InfrastructureError, SpecError, UsageError
from bi_harness.runner.known_power import POWER, known_power, record
from bi_harness.runner.power_digest import _SERVER, ALWAYS, BY_FIXTURE, WEIGHTS, power_digest
from bi_harness.spec.load import Spec
from tests.certificate.selftests import fault_result, missed, tried
from tests.spec.small import Files

PACKAGE = Path(bi_harness.__file__).parent


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
    "another parameter is a fixture": lambda folder: (folder / "test_a.py").write_text(
        "def test_a(engine): pass\n"
    ),
    "a check is renamed": lambda folder: (folder / "test_a.py").rename(folder / "test_c.py"),
    "a check is gone": lambda folder: (folder / "test_a.py").unlink(),
    "its limits change": lambda folder: (folder / "suite.yaml").write_text(
        (folder / "suite.yaml").read_text().replace("prompts: 3", "prompts: 2")
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


WORDINGS: dict[str, Callable[[Path], object]] = {
    "a comment": lambda folder: (folder / "test_a.py").write_text("# Try it.\ndef test_a(): pass\n"),
    "a docstring": lambda folder: (folder / "test_a.py").write_text(
        '"""Of A."""\n\n\ndef test_a():\n    """A."""\n'
    ),
    "a comment in YAML": lambda folder: (folder / "suite.yaml").write_text(
        "# More.\n" + (folder / "suite.yaml").read_text()
    ),
    "an anchor": lambda folder: (folder / "suite.yaml").write_text(
        "x-more: {some: 1}\n" + (folder / "suite.yaml").read_text()
    ),
    "a title": lambda folder: (folder / "suite.yaml").write_text(
        (folder / "suite.yaml").read_text().replace("title: Core", "title: The core")
    ),
    "a summary": lambda folder: (folder / "suite.yaml").write_text(
        (folder / "suite.yaml").read_text().replace("summary: One.", "summary: Three.")
    ),
    "paths of vLLM": lambda folder: (folder / "suite.yaml").write_text(
        (folder / "suite.yaml").read_text() + "paths: [vllm/]\n"
    ),
}


@pytest.mark.parametrize("change", WORDINGS.values(), ids=WORDINGS.keys())
def test_words_do_not_make_the_selftest_stale(spec: Spec, change: Callable[[Path], object]) -> None:
    record(spec, of_core(spec))
    before = {path: path.read_bytes() for path in suite(spec).iterdir()}
    change(suite(spec))
    assert before != {path: path.read_bytes() for path in suite(spec).iterdir()}
    assert known_power(spec, ["core"])[0].current


def test_what_is_no_part_of_the_suite_changes_nothing(spec: Spec) -> None:
    record(spec, of_core(spec))
    (suite(spec) / "notes.txt").write_text("x")
    (suite(spec) / "__pycache__").mkdir()
    (suite(spec) / "__pycache__" / "test_a.pyc").write_bytes(b"x")
    other = spec.paths.suites / "other"
    other.mkdir()
    (other / "test_a.py").write_text("")
    assert known_power(spec, ["core"])[0].current


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the package's sources, which the digest is computed from."""
    copy = tmp_path / "package" / "bi_harness"
    own = Path(bi_harness.__file__).parent
    shutil.copytree(own, copy, ignore=shutil.ignore_patterns("__pycache__", "_data"))
    monkeypatch.setattr(bi_harness, "__file__", str(copy / "__init__.py"))
    return copy


@pytest.mark.parametrize(
    ("code", "part", "counts"),
    [
        ("def test_a(): pass", "workload/requests.py", True),
        ("def test_a(): pass", "compare/evidence.py", True),
        ("def test_a(): pass", "runner/suite_session.py", True),
        ("def test_a(): pass", "workload/checkpoint.py", False),
        ("def test_a(): pass", "report/html.py", False),
        ("def test_a(): pass", "engine/offline.py", False),
        ("def test_a(engine): pass", "engine/offline.py", True),
        ("def test_a(engine): pass", "engine/ops/gemm.py", False),
        ("def test_a(operators): pass", "engine/ops/gemm.py", True),
        ("def test_a(operators): pass", "engine/modules/audit.py", False),
        ("def test_a(modules): pass", "engine/modules/audit.py", True),
        ("def test_a(starts): pass", "certificate/startup.py", True),
        ("def test_a(kernel_choice): pass", "engine/kernel_choice.py", True),
    ],
)
def test_what_decides_depends_on_the_fixtures(
    spec: Spec, package: Path, code: str, part: str, counts: bool
) -> None:
    (suite(spec) / "test_a.py").write_text(f"{code}\n")
    before = power_digest(spec, "core")
    text = (package / part).read_text()
    (package / part).write_text(f"# A comment.\n{text}")
    assert power_digest(spec, "core") == before
    (package / part).write_text(f"{text}\nMORE = 1\n")
    assert (power_digest(spec, "core") != before) == counts


def test_code_of_servers_decides_in_a_suite_of_servers(spec: Spec, package: Path, tmp_path: Path) -> None:
    with (package / "engine" / "answers.py").open("a") as file:
        before = power_digest(spec, "core")
        file.write("MORE = 1\n")
    assert power_digest(spec, "core") == before
    files = Files(tmp_path)
    files.suite += "interface: server\n"
    servers = files.load()
    before = power_digest(servers, "core")
    (package / "engine" / "answers.py").write_text("MORE = 2\n")
    assert power_digest(servers, "core") != before


def test_every_part_that_decides_exists() -> None:
    parts = [*ALWAYS, *_SERVER, *(part for found in BY_FIXTURE.values() for part in found)]
    assert [part for part in parts if not (PACKAGE / part).exists()] == []
    fixtures = (PACKAGE / "pytest_plugin.py").read_text()
    assert [name for name in BY_FIXTURE if f"@pytest.fixture\ndef {name}(" not in fixtures] == []
    assert list(PACKAGE.glob(WEIGHTS))


def test_a_part_that_is_gone_is_an_error(spec: Spec, package: Path) -> None:
    (package / "runner" / "suite_session.py").unlink()
    with pytest.raises(SpecError, match=r"suite_session\.py: cannot be read"):
        power_digest(spec, "core")


def test_the_digest_is_the_suites_own(spec: Spec) -> None:
    assert power_digest(spec, "core") == power_digest(spec, "core")
    other = spec.paths.suites / "other"
    other.mkdir()
    (other / "test_a.py").write_text("def test_b(): pass\n")
    assert power_digest(spec, "core") != power_digest(spec, "other")
    assert re.fullmatch(r"sha256:[0-9a-f]{64}", power_digest(spec, "core"))


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "no Python": (lambda path: path.write_text("\n\ndef test_b(:\n"), r"test_b\.py:3: is not valid Python"),
    "a NUL": (lambda path: path.write_bytes(b"x = '\0'\n"), r"test_b\.py.*: is not valid Python"),
    "no UTF-8": (lambda path: path.write_bytes(b"x = '\xff'\n"), r"test_b\.py:\d+: is not valid Python"),
    "too deep": (
        lambda path: path.write_text("(" * 5000 + ")" * 5000),
        r"test_b\.py.*(too deeply|not valid)",
    ),
    "too large": (lambda path: path.write_bytes(b"#" * (5 << 20)), r"test_b\.py: is larger than 4 MiB"),
    "a pipe": (os.mkfifo, r"test_b\.py: cannot be read: it is not a regular file"),
    "a dead link": (lambda path: path.symlink_to("nowhere"), r"test_b\.py: cannot be read: No such file"),
    "no YAML": (lambda path: path.with_suffix(".yaml").write_text("a: [\n"), r"test_b\.yaml:2"),
    "a pipe for YAML": (lambda path: os.mkfifo(path.with_suffix(".yaml")), r"test_b\.yaml: cannot be read"),
}


@pytest.mark.parametrize(("make", "message"), BROKEN.values(), ids=BROKEN.keys())
def test_a_file_that_cannot_be_parsed_is_an_error(
    spec: Spec, make: Callable[[Path], object], message: str
) -> None:
    record(spec, of_core(spec))
    make(suite(spec) / "test_b.py")
    with pytest.raises(SpecError, match=message):
        known_power(spec, ["core"])


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
