"""What each check counts for, given the verdict of the whole certificate. Pure.

A certificate can be NOT_CERTIFIED or INCONCLUSIVE although every check in it passes: bits differ across
parallel sizes, a waiver is stale, the run was cut off, engines disagree. A view that shows the checks alone
would be greener than the verdict, so views that show checks take them from here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Literal

from bi_harness.certificate.records import CheckResult, Record, Status
from bi_harness.certificate.statement import HarnessResult
from bi_harness.certificate.verdict import why_hollow

Outcome = Literal["good", "bad", "unknown"]

# Of two entries of one name the one that is earlier here counts. A genuine certificate has one.
_OUTCOMES: Final[tuple[Outcome, ...]] = ("bad", "unknown", "good")
_WORST: Final[tuple[Status, ...]] = ("fail", "waived", "error", "inconclusive", "skip", "pass")


class CheckStanding(Record):
    """A check, or its comparison across parallel sizes.

    Attributes:
        cell: id of the cell.
        check: name of the check; of a comparison, with the axis (``eagle dp_digest_equal``).
        status: as in the certificate. A comparison passes or fails.
        fault: why a pass is held against the run (its waiver is stale, ...), or a comparison fails.
        doubt: why a pass proves nothing (the run was cut off, engines disagree, ...).
    """

    cell: str
    check: str
    status: Status
    fault: str = ""
    doubt: str = ""

    @property
    def outcome(self) -> Outcome:
        """``good`` for a pass that counts, ``bad`` for a failure, waived or not, else ``unknown``."""
        if self.fault or self.status in ("fail", "waived"):
            return "bad"
        return "good" if self.status == "pass" and not self.doubt else "unknown"


def check_standings(result: HarnessResult) -> tuple[CheckStanding, ...]:
    """The checks in plan order, then the comparisons that must be equal.

    Of two entries with the same cell and name the worse counts.
    """
    doubt, faults = _doubt(result), _waiver_faults(result)
    own = tuple(
        CheckStanding(
            cell=check.cell,
            check=check.check,
            status=_own_status(check),
            fault=faults.get((check.cell, check.check), "") if check.status in ("pass", "waived") else "",
            doubt=(doubt or _hollow(check)) if check.status == "pass" else "",
        )
        for check in result.checks
    )
    comparisons = tuple(_comparisons(result))
    if not _explained(result, (*own, *comparisons)):
        # Nothing in it says why: then it holds for all of it.
        why = result.why or f"the certificate is {result.verdict}"
        field = "fault" if result.verdict == "NOT_CERTIFIED" else "doubt"
        of = ("pass", "waived") if field == "fault" else ("pass",)
        own = tuple(one.model_copy(update={field: why}) if one.status in of else one for one in own)
    found: dict[tuple[str, str], CheckStanding] = {}
    for one in (*own, *comparisons):
        key = (one.cell, one.check)
        found[key] = min(found.get(key, one), one, key=_rank)
    return tuple(found.values())


def _rank(one: CheckStanding) -> tuple[int, int]:
    return _OUTCOMES.index(one.outcome), _WORST.index(one.status)


def _own_status(check: CheckResult) -> Status:
    """The certificate's word, unless it needs something that is not there: a rule, or a waiver."""
    if (check.status == "skip" and not check.rule) or (check.status == "waived" and check.waiver is None):
        return "error"
    return check.status


def _hollow(check: CheckResult) -> str:
    try:
        return why_hollow(check)
    except (OverflowError, ValueError):
        return "its evidence has a number that no run has"


def _comparisons(result: HarnessResult) -> Iterator[CheckStanding]:
    """Both cells of each comparison that must be equal: neither is known to be the right one."""
    for axis in result.axes:
        if not axis.required:
            continue
        low, high = axis.cells
        for cell, other in ((high, low), (low, high)):
            yield CheckStanding(
                cell=cell,
                check=f"{axis.check} {axis.name}",
                status="pass" if axis.equal else "fail",
                fault="" if axis.equal else f"{axis.check} has other bits on {cell} than on {other}",
            )


def _waiver_faults(result: HarnessResult) -> dict[tuple[str, str], str]:
    """By cell and check, why the waiver that names it fails the run."""
    bad = [use for use in result.waivers if use.state in ("expired", "stale")]
    if not bad:
        return {}
    named = {f"{check.cell}::{check.check}": check for check in result.checks}
    found: dict[tuple[str, str], str] = {}
    for use in bad:
        waiver = use.waiver
        whose = f"the waiver of {waiver.check} on {waiver.cell} (owner: {waiver.owner})"
        what = f"expired on {waiver.expires}" if use.state == "expired" else "is stale, since this passes"
        for name in use.checks:
            check = named.get(name)
            # A failure that a stale waiver names is waived by it; one that an expired waiver names is not.
            if check is not None and (check.status == "pass" or use.state == "expired"):
                found.setdefault((check.cell, check.check), f"{whose} {what}")
    return found


def _doubt(result: HarnessResult) -> str:
    """Why no pass of the run counts, whatever else it found; empty where there is no such reason."""
    if result.provenance.get("disagreements"):
        return "the run's engines do not agree"
    if result.scope.endpoint is None and any(arm.config.get("verified") is False for arm in result.effective):
        return "an engine's configuration was not verified, and the run was not of an endpoint"
    return ""


def _explained(result: HarnessResult, entries: tuple[CheckStanding, ...]) -> bool:
    """Whether the entries say why the certificate is not CERTIFIED; also true where it is."""
    if result.verdict == "CERTIFIED":
        return True
    if result.verdict == "NOT_CERTIFIED":
        return any(one.status == "fail" or one.fault for one in entries)
    return any(one.status in ("error", "inconclusive") or one.doubt for one in entries)
