"""Which suites a change touches."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bi_harness.buildkite.changes import matches, touched
from bi_harness.spec.load import default_paths, load_spec
from bi_harness.spec.suites import SuiteSpec
from tests.buildkite.plans import ROOT

PATHS = default_paths(ROOT / "models.yaml", ROOT / "hardware.yaml", ROOT / "suites")
SUITES = load_spec(PATHS.models, PATHS.hardware, PATHS.suites).suites
ALL = set(SUITES)


@pytest.mark.parametrize(
    "name",
    [
        "bi_harness/cli/run.py",
        "models.yaml",
        "hardware.yaml",
        "times.yaml",
        "pyproject.toml",
        ".buildkite/pipeline.yaml",
        "requirements/cpu.lock",
        "CMakeLists.txt",
        "cmake/utils.cmake",
        "setup.py",
        "what/is/this.txt",
        "suites/new_suite/test_it.py",
        "suites/conftest.py",
        "suites",
        "vllm",
        "/vllm/envs.py",
        "docs/../vllm/envs.py",
        "docs//x",
        "vllm/../x",
        '"docs/caf\\303\\251.md"',
        "vllm_other/x.py",
        "docs.py",
        "vllm/envs.py",
        "vllm/model_executor/layers/batch_invariant.py",
        "vllm/v1/attention/backends/flash_attn.py",
        "csrc/layernorm_kernels.cu",
    ],
)
def test_these_touch_every_suite(name: str) -> None:
    assert set(touched([name], SUITES)) == ALL


@pytest.mark.parametrize(
    "name",
    [
        "docs/x/y.md",
        "reports/cpu/x/certificate.json",
        "tests/a.py",
        "benchmarks/b.py",
        "README.md",
        "LICENSE",
    ],
)
def test_these_touch_none(name: str) -> None:
    assert touched([name], SUITES) == {}
    assert touched([f"./{name}"], SUITES) == {}


@pytest.mark.parametrize("suite", sorted(ALL))
def test_a_suites_folder_touches_it_alone(suite: str) -> None:
    assert touched([f"suites/{suite}/suite.yaml"], SUITES) == {suite: f"suites/{suite}/suite.yaml"}


def test_the_servers_code_touches_what_serves() -> None:
    hit = set(touched(["vllm/entrypoints/openai/api_server.py"], SUITES))
    assert {"online", "batch_invariance", "eagle_dp"} <= hit
    assert "ops" not in hit


def test_no_file_says_nothing() -> None:
    """A `git diff` that failed in a pipe gives an empty list: that must not certify nothing."""
    assert set(touched([], SUITES)) == ALL
    assert set(touched([""], SUITES)) == ALL


def test_suites_may_lie_elsewhere() -> None:
    assert touched(["ci/s/ops/x.py"], SUITES, "ci/s/") == {"ops": "ci/s/ops/x.py"}
    assert set(touched(["suites/ops/x.py"], SUITES, "ci/s")) == ALL
    # Even where nothing else is looked at.
    assert touched(["tests/suites/ops/x.py"], SUITES, "tests/suites") == {"ops": "tests/suites/ops/x.py"}


NAMES = st.one_of(
    st.sampled_from(
        [
            "docs/a.md",
            "README.md",
            "suites/ops/a.py",
            "suites/online/a.py",
            "vllm/envs.py",
            "vllm/entrypoints/openai/a.py",
            "vllm/v1/core/a.py",
            "vllm/benchmarks/a.py",
            "csrc/a.cu",
            "bi_harness/a.py",
            "other",
        ]
    ),
    st.text(min_size=1, max_size=30),
)


@given(st.lists(NAMES, min_size=1), st.lists(NAMES))
def test_more_files_never_touch_less(files: list[str], more: list[str]) -> None:
    assert set(touched(files, SUITES)) <= set(touched([*files, *more], SUITES))


@given(st.lists(NAMES, min_size=1))
def test_each_suite_has_the_first_file_that_touches_it(files: list[str]) -> None:
    for suite, name in touched(files, SUITES).items():
        assert suite in touched([name], SUITES)
        before = files[: files.index(name)]
        assert not before or suite not in touched(before, SUITES)


@pytest.mark.parametrize(
    ("pattern", "path", "expected"),
    [
        ("vllm/", "vllm/a/b.py", True),
        ("vllm", "vllm/a/b.py", True),
        ("vllm/", "vllm", True),
        ("vllm/", "vllmx/a", False),
        ("vllm/*.py", "vllm/a.py", True),
        ("vllm/*.py", "vllm/a/b.py", False),
        ("vllm/**/*.py", "vllm/a/b.py", True),
        ("vllm/**.py", "vllm/a/b.py", True),
        ("a.b", "axb", False),
        ("a?b", "axb", True),
        ("a?b", "a/b", False),
        ("*.md", "docs/a.md", False),
        ("csrc/[x]", "csrc/[x]/y", True),
    ],
)
def test_patterns(pattern: str, path: str, expected: bool) -> None:
    assert matches(path, [pattern]) is expected
    assert matches(path, [f"!{pattern}", pattern]) is False
    assert matches(path, [pattern, f"!{pattern}"]) is False


def test_every_suite_depends_on_what_makes_vllm_invariant() -> None:
    for name, suite in SUITES.items():
        assert isinstance(suite, SuiteSpec)
        for path in ("vllm/model_executor/layers/batch_invariant.py", "csrc/torch_bindings.cpp"):
            assert name in touched([path], SUITES)
