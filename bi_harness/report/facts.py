"""What the head of every report says, looked up in a certificate that may lack any of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

from bi_harness.certificate.records import CheckResult, Status, Verdict
from bi_harness.certificate.statement import DIRTY, Statement, is_dirty, planted_faults, unverified
from bi_harness.certificate.verdict import predicate_result
from bi_harness.certificate.waivers import contradiction, waived_note
from bi_harness.report.cellid import parse_cell_id
from bi_harness.report.text import clean, count, plural

MAX_REOPENED: Final = 5
"""Checks that ran again that are named in a line."""

STATUSES: Final[tuple[Status, ...]] = ("fail", "error", "inconclusive", "waived", "skip", "pass")
"""Worst first: the order in which a reader must see them."""

PROBLEMS: Final[tuple[Status, ...]] = ("fail", "error", "inconclusive", "waived")
"""The statuses whose checks are shown one by one. A waived failure is still a failure to be read."""

VERDICT_WORDS: Final[dict[Verdict, str]] = {
    "CERTIFIED": "CERTIFIED",
    "NOT_CERTIFIED": "NOT CERTIFIED",
    "INCONCLUSIVE": "INCONCLUSIVE",
}


def verdict_line(statement: Statement) -> str:
    """The verdict in words, with how many checks are waived and, of an endpoint, what was not verified. It is
    never shown without either."""
    result = statement.predicate.bi_harness
    words = VERDICT_WORDS[result.verdict]
    if waived := waived_note(result.checks):
        words = f"{words}, {waived}"
    endpoint = result.scope.endpoint
    return words if endpoint is None else f"{words} ({clean(unverified(endpoint), 400)})"


def warned(statement: Statement) -> bool:
    """Whether it is certified with waived failures: no report shows that in the colours of a pass."""
    result = statement.predicate.bi_harness
    return result.verdict == "CERTIFIED" and any(check.status == "waived" for check in result.checks)


UNKNOWN: Final = "unknown"


def device_id(statement: Statement) -> str:
    """The device's id as the certificate gives it, or as its first well-formed cell does."""
    result = statement.predicate.bi_harness
    named = result.device.get("id")
    if isinstance(named, str) and named:
        return named
    for check in result.checks:
        cell = parse_cell_id(check.cell)
        if cell.well_formed:
            return cell.device
    return UNKNOWN


def device_label(statement: Statement) -> str:
    """The device's id and, where the host gave one, its name: ``h200 (NVIDIA H200)``."""
    label = clean(device_id(statement), 80)
    device = statement.predicate.bi_harness.device
    name = _hardware(device) or _hardware(device.get("host"))
    return f"{label} ({name})" if name else label


def _hardware(holder: object) -> str:
    """The hardware's name in what a host said of itself: its own, else its GPUs', else its CPU's."""
    if not isinstance(holder, Mapping):
        return ""
    if isinstance(holder.get("name"), str):
        return clean(holder["name"], 120)
    gpus = holder.get("gpus")
    if isinstance(gpus, list | tuple):
        names = [gpu["name"] for gpu in gpus if isinstance(gpu, Mapping) and isinstance(gpu.get("name"), str)]
        kinds = [f"{names.count(name)} × {clean(name, 80)}" for name in dict.fromkeys(names)]
        if kinds:
            return clean(", ".join(kinds), 120)
    found = holder.get("cpu_model")
    return clean(found, 120) if isinstance(found, str) else ""


def vllm_version(statement: Statement) -> str:
    """The version of vLLM that ran, wherever the provenance keeps it."""
    provenance = statement.predicate.bi_harness.provenance
    for holder in (provenance, provenance.get("packages")):
        version = _version(holder)
        if version:
            return version
    return UNKNOWN


def _version(holder: object) -> str:
    if not isinstance(holder, Mapping):
        return ""
    found: Any = holder.get("vllm")
    if isinstance(found, Mapping):
        found = found.get("version")
    return clean(found, 80) if isinstance(found, str) else ""


def weights_label(statement: Statement) -> str:
    """Which weights ran, with the number of layers where it was not the model's own."""
    scope = statement.predicate.bi_harness.scope
    label = clean("; ".join(f"{m}: {w}" for m, w in scope.models.items()) or scope.weights, 400)
    return label if scope.layers is None else f"{label}, {plural(scope.layers, 'layer')} only"


def scope_label(statement: Statement) -> str:
    """What was asked for, in one line; says "everything" only when nothing was filtered out."""
    scope = statement.predicate.bi_harness.scope
    profile = f"profile {clean(scope.profile, 80)}"
    if not scope.filters:
        return f"everything planned for the device, {profile}"
    pairs = [f"{clean(key, 40)}={clean(value, 120)}" for key, value in scope.filters.items()]
    chosen = ", ".join(pairs[:12])
    return f"only {chosen}, {profile}"


def power_label(statement: Statement) -> str:
    """What the suites are known to catch; empty where no suite has a self-test."""
    lines = []
    for power in statement.predicate.bi_harness.power:
        where = f"self-test on {clean(power.device, 80)}, vLLM {clean(power.vllm, 80)}"
        state = "" if power.current else ", of an earlier state of the suite"
        lines.append(
            f"{clean(power.suite, 80)} caught {count(power.caught)} of "
            f"{plural(power.faults, 'planted fault')}, {plural(power.false_alarms, 'false alarm')} in "
            f"{plural(power.clean_runs, 'clean run')} "
            f"({where}{state})"
        )
    return "; ".join(lines)


def axes_label(statement: Statement) -> str:
    """What came of the checks that ran at several parallel sizes; empty where none did."""
    axes = statement.predicate.bi_harness.axes
    lines = []
    for name, words in (("dp_digest_equal", "data"), ("tp_digest_equal", "tensor")):
        found = [axis for axis in axes if axis.name == name]
        if found:
            equal = sum(axis.equal for axis in found)
            note = "" if all(axis.required for axis in found) else ", as information"
            lines.append(
                f"{equal:,} of {plural(len(found), 'check')} have the same bits at another {words} "
                f"parallel size{note}"
            )
    return "; ".join(lines)


def resumed_label(statement: Statement) -> str:
    """That the run was resumed, and what had failed before; empty for one that was not."""
    resumed = statement.predicate.bi_harness.resumed
    if not resumed:
        return ""
    failed = [one for resumption in resumed for one in resumption.reopened if one.status != "none"]
    named = [
        f"{clean(one.cell, 120)} {clean(one.check, 80)} ({one.status}: {clean(one.reason, 300)})"
        for one in failed[:MAX_REOPENED]
    ]
    more = f" and {len(failed) - len(named):,} more" if len(failed) > len(named) else ""
    before = f"; ran again: {', '.join(named)}{more}" if named else ""
    return f"The run was resumed {plural(len(resumed), 'time')}, each time for what had no verdict{before}"


def lost_label(statement: Statement) -> str:
    """That nodes were lost under units, and what ran again for it; empty where none was."""
    lost = statement.predicate.bi_harness.lost
    if not lost:
        return ""
    named = [
        f"{clean(one.unit, 120)} on {clean(one.host, 80)} ({clean(one.reason, 200)}; "
        f"{plural(len(one.reopened), 'check')} ran elsewhere)"
        for one in lost[:MAX_REOPENED]
    ]
    more = f" and {len(lost) - len(named):,} more" if len(lost) > len(named) else ""
    what = f"{', '.join(named)}{more}"
    return f"Nodes were lost {plural(len(lost), 'time')}, and what had no verdict was started again: {what}"


def caveats(statement: Statement) -> tuple[str, ...]:
    """What limits the verdict, and where the certificate contradicts itself. Shown beside the verdict."""
    result = statement.predicate.bi_harness
    found = []
    if result.interrupted:
        found.append("The run was interrupted before its end.")
    if label := resumed_label(statement):
        found.append(f"{label}.")
    if label := lost_label(statement):
        found.append(f"{label}.")
    found += [
        f"A fault was planted on purpose: {clean(fault, 80)}." for fault in planted_faults(result.effective)
    ]
    if endpoint := result.scope.endpoint:
        control = endpoint.control or "a server that bi-harness started with invariance off"
        found.append(
            f"Not verified: {clean(unverified(endpoint), 400)}. What the report says of device, backend, "
            f"mode, weights and parallel sizes is of the control ({clean(control, 200)}), or was asked for; "
            "batches were seen in the endpoint's own /metrics."
        )
    if is_dirty(result.provenance):
        found.append(f"Not reproducible by a commit: {DIRTY}.")
    if result.scope.filters:
        found.append("Filtered run: the verdict speaks only of the selection named under Scope.")
    if result.scope.weights == "synthetic" or any(
        weights.startswith("synthetic") for weights in result.scope.models.values()
    ):
        found.append("Synthetic weights: random values in the model's shape, not the released checkpoint.")
    if result.scope.layers is not None:
        found.append(f"Shortened model: {plural(result.scope.layers, 'layer')} only.")
    waived = [check for check in result.checks if check.status == "waived"]
    if waived:
        ends = min((check.waiver.expires for check in waived if check.waiver is not None), default="")
        found.append(
            f"{plural(len(waived), 'failure')} waived: not passed, and shown with the failures"
            f"{f'; the first waiver ends on {clean(ends, 40)}' if ends else ''}."
        )
    return (*found, *contradictions(statement))


def contradictions(statement: Statement) -> tuple[str, ...]:
    """Where the verdict does not follow from the checks.

    A report must not lend its looks to a certificate that was edited; ``bi-harness verify`` is the full test.
    """
    predicate = statement.predicate
    result = predicate.bi_harness
    have = status_counts(statement)
    found = []
    if result.verdict == "CERTIFIED":
        against = [f"{have[status]} {status}" for status in ("fail", "error", "inconclusive") if have[status]]
        if against:
            found.append(f"Contradiction: the verdict is CERTIFIED, but of the checks {', '.join(against)}.")
        if not have["pass"]:
            found.append("Contradiction: the verdict is CERTIFIED, but no check passed.")
    if predicate.result != predicate_result(result.verdict, result.checks):
        verdict = VERDICT_WORDS[result.verdict]
        found.append(f"Contradiction: result is {predicate.result}, but the verdict is {verdict}.")
    totals = result.totals
    said = {
        "pass": totals.passed,
        "fail": totals.failed,
        "inconclusive": totals.inconclusive,
        "error": totals.error,
        "skip": totals.skip,
        "waived": totals.waived,
    }
    if any(said[status] != have[status] for status in STATUSES):
        found.append("Contradiction: the totals are not those of the checks listed.")
    if waiver := contradiction(result.checks, result.waivers, result.started):
        found.append(f"Contradiction: {clean(waiver, 400)}.")
    return tuple(found)


def status_counts(statement: Statement) -> Counter[Status]:
    """How many of the listed checks have each status: counted, not taken from the totals."""
    return Counter(check.status for check in statement.predicate.bi_harness.checks)


def counts_line(statement: Statement) -> str:
    """``12 pass, 2 fail, 1 skip``, best first, without the zeros."""
    have = status_counts(statement)
    parts = [f"{have[status]:,} {status}" for status in reversed(STATUSES) if have[status]]
    return ", ".join(parts) or "no checks"


def problems(statement: Statement) -> tuple[CheckResult, ...]:
    """The checks to show one by one: failures first, then errors, inconclusive ones and waived failures."""
    checks = statement.predicate.bi_harness.checks
    return tuple(check for status in PROBLEMS for check in checks if check.status == status)
