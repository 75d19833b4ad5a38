"""One session's runs. Each is made once, and many tests look at it."""

from __future__ import annotations

import pytest

from bi_harness.certificate.sign import new_key
from tests.e2e.real import Harness, Ran, engine_python


@pytest.fixture(scope="session")
def harness(tmp_path_factory: pytest.TempPathFactory) -> Harness:
    """``bi-harness`` with a real vLLM."""
    python = engine_python()
    if python is None:
        pytest.skip("no vLLM here; BI_HARNESS_ENGINE_PYTHON names an interpreter that has it")
    return Harness(tmp_path_factory.mktemp("e2e"), python)


@pytest.fixture(scope="session")
def smoke(harness: Harness) -> Ran:
    """The eager half of what ``make certify`` does with this suite: the shipped YAML, profile smoke."""
    return harness.run("--profile", "smoke", "--suite", "batch_invariance", "--mode", "eager")


@pytest.fixture(scope="session")
def again(harness: Harness, smoke: Ran) -> Ran:
    """A few of its checks once more, in both modes."""
    assert smoke.left == ()
    return harness.run("--suite", "batch_invariance", "-k", "bs1_vs_bsN or staggered")


@pytest.fixture(scope="session")
def small(harness: Harness) -> Ran:
    """A small eager run in float32, signed with ``key.pem`` of the harness's folder."""
    new_key(harness.root / "key.pem")
    signed = ["--sign-key", str(harness.root / "key.pem")]
    return harness.run(*harness.spec("small"), "--mode", "eager", "--model", "qwen3-tiny-fp32", *signed)
