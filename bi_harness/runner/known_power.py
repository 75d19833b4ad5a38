"""The self-test that a suite carries with it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pydantic import ValidationError

from bi_harness.certificate.power import SelfTest, power_of
from bi_harness.certificate.statement import Power
from bi_harness.errors import InfrastructureError, UsageError
from bi_harness.runner.power_digest import power_digest
from bi_harness.spec.load import Spec

POWER = "power.json"
"""In the suite's folder; ``bi-harness selftest --record`` writes it."""


def known_power(spec: Spec, suites: Iterable[str]) -> tuple[Power, ...]:
    """What the suites are known to catch; nothing for a suite without a self-test.

    Raises:
        UsageError: a self-test's file cannot be read, or is of another suite.
    """
    recorded = {suite: tried for suite in suites if (tried := recorded_selftest(spec, suite)) is not None}
    return tuple(power_of(tried, power_digest(spec, suite)) for suite, tried in recorded.items())


def recorded_selftest(spec: Spec, suite: str) -> SelfTest | None:
    """The self-test that is recorded with a suite; ``None`` if there is none.

    Raises:
        UsageError: the file cannot be read, or is of another suite.
    """
    path = _path(spec, suite)
    if not path.is_file():
        return None
    try:
        tried = SelfTest.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise UsageError(
            f"{path} is not the result of a selftest: {where}: {first['msg']}. Record it again with "
            f"`bi-harness selftest --suite {suite} --record`, or remove it"
        ) from error
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}") from error
    if tried.suite != suite:
        raise UsageError(f"{path} is of the suite {tried.suite}, not of {suite}")
    return tried


def record(spec: Spec, result: SelfTest) -> Path:
    """Keep a self-test with its suite.

    Raises:
        InfrastructureError: the file cannot be written.
    """
    path = _path(spec, result.suite)
    try:
        path.write_text(result.to_json(), encoding="utf-8")
    except OSError as error:
        raise InfrastructureError(f"cannot write {path}: {error.strerror or error}") from error
    return path


def _path(spec: Spec, suite: str) -> Path:
    return spec.paths.suites / suite / POWER
