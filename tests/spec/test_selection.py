"""``selection.yaml``: what it may say, and the shipped one."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from packaging.version import Version

from bi_harness.errors import SpecError
from bi_harness.spec.load import default_paths, load_spec
from bi_harness.spec.selection import Override, SelectionSpec
from tests.spec.small import Files

_PATHS = default_paths(environ={})
SHIPPED = load_spec(_PATHS.models, _PATHS.hardware, _PATHS.suites).selection["nvfp4"]
GOOD: dict[str, Any] = {
    "hosts": {"new": ["AKernel", "BKernel"], "old": ["BKernel"]},
    "tables": [{"vllm": ">=0.20", "source": "here", "right": {"new": "AKernel", "old": "BKernel"}}],
    "flags": [{"name": "--a", "kernel_config": {"linear_backend": "a"}}],
}


def load(files: Files, **changed: Any) -> SelectionSpec:
    path = files.root / "suites" / "core" / "selection.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump({**GOOD, **changed}))
    spec = files.load()
    assert spec.digests["suites/core/selection.yaml"].startswith("sha256:")
    return spec.selection["core"]


@pytest.mark.parametrize(
    ("release", "blackwell", "hopper"),
    [
        ("0.20.0", "EmulationNvFp4LinearKernel", "EmulationNvFp4LinearKernel"),
        ("0.21.9", "EmulationNvFp4LinearKernel", "EmulationNvFp4LinearKernel"),
        ("0.22.0rc1", "CutlassNvFp4LinearKernel", "EmulationNvFp4LinearKernel"),
        ("0.22.0", "CutlassNvFp4LinearKernel", "EmulationNvFp4LinearKernel"),
        ("0.33.0", "CutlassNvFp4LinearKernel", "EmulationNvFp4LinearKernel"),
    ],
)
def test_what_is_right_goes_by_the_release(release: str, blackwell: str, hopper: str) -> None:
    table = SHIPPED.table(Version(release))
    assert table is not None
    assert (table.right["blackwell"], table.right["hopper"]) == (blackwell, hopper)


def test_there_is_no_table_for_releases_that_did_not_look() -> None:
    assert SHIPPED.table(Version("0.19.1")) is None


def test_a_setting_is_known_to_its_releases() -> None:
    flag = Override(name="--a", kernel_config={"a": 1}, vllm=">=0.22", source="here")
    assert not flag.known_to(Version("0.21.0"))
    assert flag.known_to(Version("0.22.0"))
    assert Override(name="A", env={"A": "1"}).known_to(Version("0.1"))


@pytest.mark.parametrize(("release", "refuses"), [("0.26.0", False), ("0.27.0", True), ("0.33.0", True)])
def test_weight_only_checkpoints_are_refused_from_0_27(release: str, refuses: bool) -> None:
    assert SHIPPED.refuses_weight_only(Version(release)) is refuses


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"tables": [{**GOOD["tables"][0], "right": {"new": "AKernel"}}]}, "a right kernel for each host"),
        (
            {"tables": [{**GOOD["tables"][0], "right": {"new": "AKernel", "old": "AKernel"}}]},
            "AKernel is right on old and not supported there",
        ),
        ({"tables": []}, "tables"),
        ({"hosts": {}}, "hosts"),
        ({"flags": [{"name": "--a"}]}, "sets nothing"),
        ({"flags": [{**GOOD["flags"][0], "vllm": "<1"}]}, "--a has a version range without a source"),
        ({"hosts": {"new": ["BKernel"], "old": ["BKernel"]}}, "two hosts have the same kernels"),
        ({"flags": [*GOOD["flags"], *GOOD["flags"]]}, "--a is there twice"),
        ({"tables": [{**GOOD["tables"][0], "vllm": "new"}]}, "not a version range"),
        ({"weight_only_refused": "always"}, "not a version range"),
        ({"other": 1}, "other"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(files: Files, changed: dict[str, Any], said: str) -> None:
    with pytest.raises(SpecError, match=r"selection\.yaml:\d+") as error:
        load(files, **changed)
    assert said in str(error.value)


def test_the_good_one_is_good(files: Files) -> None:
    assert load(files).flags[0].name == "--a"
