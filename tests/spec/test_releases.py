"""Which vLLM releases count as tried, and what is wrong with a ``releases.yaml``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from bi_harness.errors import SpecError
from bi_harness.spec.releases import (
    FILE,
    ReleasesFile,
    TriedRun,
    load_releases,
    newest_release,
    release_standing,
    releases_path,
)
from tests.kept import ROOT


def entry(vllm: str = "0.32.0", device: str = "cpu", **changes: Any) -> dict[str, Any]:
    """One run of ``releases.yaml``, as its YAML has it."""
    scope = {
        "profile": "smoke",
        "suites": ["batch_invariance"],
        "models": ["qwen3-tiny"],
        "backends": ["CPU_ATTN"],
        "sizes": ["tp1-dp1"],
        "modes": ["eager"],
    }
    return {
        "vllm": vllm,
        "torch": "2.13.0+cpu",
        "device": device,
        "hardware": "AMD EPYC, 2 cores",
        "scope": scope,
        "verdict": "CERTIFIED",
        "checks": {"passed": 14},
        "date": "2026-11-30",
        "harness": "0.1.0",
        "run": f"{device}-{vllm}",
        **changes,
    }


def tried(*runs: tuple[str, str]) -> tuple[TriedRun, ...]:
    return tuple(TriedRun.model_validate(entry(vllm, device)) for vllm, device in runs)


RUNS = tried(("0.30.0", "cpu"), ("0.32.0", "cpu"), ("0.26.0", "h200"))


@pytest.mark.parametrize(
    ("vllm", "device", "standing"),
    [
        ("0.32.0", "cpu", "tried"),
        ("0.30.0", "cpu", "tried"),
        ("0.32.0+cpu", "cpu", "tried"),
        ("0.32", "cpu", "tried"),
        ("0.31.0", "cpu", "untried"),
        ("0.32.0rc1", "cpu", "untried"),
        ("0.32.0.dev3+g1234567", "cpu", "untried"),
        ("0.32.1", "cpu", "newer"),
        ("0.33.0", "cpu", "newer"),
        ("0.33.0rc1", "cpu", "newer"),
        ("0.32.1.dev3+g1234567", "cpu", "newer"),
        ("0.32.0.post1", "cpu", "newer"),
        ("1.0", "cpu", "newer"),
        ("dev", "cpu", "newer"),
        ("", "cpu", "newer"),
        ("0.26.0", "h200", "tried"),
        ("0.25.1", "h200", "untried"),
        ("0.32.0", "h200", "newer"),
        ("0.32.0", "a100", "untried"),
        ("0.33.0", "a100", "newer"),
    ],
)
def test_standing_of_a_release(vllm: str, device: str, standing: str) -> None:
    found = release_standing(vllm, device, RUNS)
    assert found.standing == standing
    assert (found.warning is not None) == (standing == "newer")
    assert bool(found.runs) == (standing == "tried")
    assert all(run.device == device for run in found.runs)


def test_warning_names_the_newest_release_tried_on_the_device() -> None:
    assert release_standing("0.33.0", "cpu", RUNS).warning == (
        "vLLM 0.33.0 was not tried with this version of bi-harness on cpu; newest tried: 0.32.0"
    )
    assert release_standing("0.27.0", "h200", RUNS).warning == (
        "vLLM 0.27.0 was not tried with this version of bi-harness on h200; newest tried: 0.26.0"
    )
    assert release_standing("0.33.0", "a100", RUNS).warning == (
        "vLLM 0.33.0 was not tried with this version of bi-harness; newest tried: 0.32.0"
    )


def test_without_a_run_on_record_nothing_is_newer() -> None:
    found = release_standing("0.33.0", "cpu", ())
    assert (found.standing, found.warning, found.newest) == ("untried", None, None)


def test_releases_are_compared_as_versions() -> None:
    runs = tried(("0.9.0", "cpu"), ("0.10.0", "cpu"), ("0.10.0rc1", "cpu"))
    assert newest_release(runs) == "0.10.0"
    assert release_standing("0.9.5", "cpu", runs).standing == "untried"


VERSIONS = st.tuples(st.integers(0, 3), st.integers(0, 40), st.integers(0, 3)).map(
    lambda parts: ".".join(map(str, parts))
)


@given(VERSIONS, st.lists(VERSIONS, min_size=1, max_size=6))
def test_a_release_warns_exactly_when_it_is_newer_than_all(version: str, versions: list[str]) -> None:
    def parts(text: str) -> list[int]:
        return [int(part) for part in text.split(".")]

    found = release_standing(version, "cpu", tried(*((v, "cpu") for v in versions)))
    assert (found.warning is not None) == all(parts(version) > parts(v) for v in versions)
    assert (found.standing == "tried") == (version in versions)


def test_a_missing_file_has_no_runs(tmp_path: Path) -> None:
    assert load_releases(tmp_path / FILE) == ReleasesFile()


def test_the_shipped_file_does_not_depend_on_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BI_HARNESS_HARDWARE", "/nowhere/hardware.yaml")
    assert releases_path() == ROOT / FILE
    assert load_releases().runs


BAD: dict[str, tuple[dict[str, Any] | str, str]] = {
    "no mapping": ("- 1\n", ":1: must be a mapping"),
    "empty": ("", ":1: must be a mapping"),
    "no YAML": ("runs: [\n", FILE),
    "another schema": ("schema: bi-harness/releases/2\nruns: []\n", ":1"),
    "an unknown key": (entry(vlm="0.1"), "vlm"),
    "no release": (entry("newest"), "not a version"),
    "a release as a number": (entry(vllm=0.32), "vllm"),
    "no day": (entry(date="yesterday"), "not a date"),
    "no verdict": (entry(verdict="GOOD"), "verdict"),
    "a negative count": (entry(checks={"passed": -1}), "passed"),
    "an unknown status": (entry(checks={"flaky": 1}), "flaky"),
    "an invalid device": (entry(device="My GPU"), "device"),
    "no suites": (entry(scope={**entry()["scope"], "suites": []}), "suites"),
}


@pytest.mark.parametrize(("content", "message"), BAD.values(), ids=BAD.keys())
def test_a_mistake_has_its_file_and_line(tmp_path: Path, content: dict[str, Any] | str, message: str) -> None:
    data = {"schema": "bi-harness/releases/1", "runs": [content]}
    (tmp_path / FILE).write_text(content if isinstance(content, str) else yaml.safe_dump(data))
    with pytest.raises(SpecError) as raised:
        load_releases(tmp_path / FILE)
    assert message in str(raised.value)
    assert f"{FILE}:" in str(raised.value)
