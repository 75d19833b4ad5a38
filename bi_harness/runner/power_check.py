"""Whether the self-tests that are recorded with the suites hold for a release."""

from __future__ import annotations

from collections.abc import Iterable

from bi_harness.certificate.power import PowerCheck, check_selftest
from bi_harness.errors import UsageError
from bi_harness.invariance.faults.registry import FAULTS
from bi_harness.runner.known_power import recorded_selftest
from bi_harness.runner.power_digest import power_digest
from bi_harness.runner.selftest import CLEAN
from bi_harness.spec.load import Spec


def check_power(spec: Spec, suites: Iterable[str] | None = None) -> tuple[PowerCheck, ...]:
    """Check the recorded self-tests. Nothing runs.

    Args:
        spec: has the suites.
        suites: ids; all suites by default.

    Raises:
        UsageError: there is no suite of that name.
    """
    wanted = tuple(spec.suites if suites is None else suites)
    for suite in wanted:
        if suite not in spec.suites:
            raise UsageError(f'there is no suite "{suite}". There are: {", ".join(spec.suites)}')
    return tuple(_check(spec, suite) for suite in wanted)


def _check(spec: Spec, suite: str) -> PowerCheck:
    try:
        return check_selftest(
            suite,
            recorded_selftest(spec, suite),
            digest_now=power_digest(spec, suite),
            faults=[fault.id for fault in FAULTS.values() if fault.suite == suite],
            clean_runs=CLEAN[suite].runs if suite in CLEAN else 0,
        )
    except UsageError as error:
        return PowerCheck(suite=suite, state="unreadable", problems=(str(error),))
