"""Whether a journal can stand for a pass of everything, judged without the harness's own code.

Written from the design, on plain JSON: every check that was to run has one result, which is a pass with bits
that were compared and are equal, in batches that formed, and with a control that diverged; every unit ended
well; the run came to its end; nothing was planted.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Any


def may_be_certified(journal: bytes) -> bool:
    """Whether ``CERTIFIED`` would be right of it; for a journal that is not one, ``False``."""
    events: list[dict[str, Any]] = [json.loads(line) for line in journal.splitlines() if line.strip()]
    if not events or events[0]["type"] != "run_started" or events[-1]["type"] != "run_finished":
        return False
    if events[-1]["interrupted"]:
        return False
    plan = [one for one in events[0]["plan"] if one.get("rule") is None]
    to_run = [(one["cell"], check) for one in plan for check in one["checks"]]
    results = [one["result"] for one in events if one["type"] == "check_finished"]
    if not to_run or Counter(to_run) != Counter((r["cell"], r["check"]) for r in results):
        return False
    if not all(r["status"] == "pass" and _believable(r) for r in results):
        return False
    ends = {one["unit"]: one["outcome"] for one in events if one["type"] == "unit_finished"}
    if any(ends.get(one["unit"]) != "completed" for one in plan):
        return False
    arms = [one["arm"] for one in events if one["type"] == "engine_ready"]
    return not any(arm["config"].get("planted_fault") for arm in arms)


def certificate_may_be_certified(certificate: bytes) -> bool:
    """The same of a certificate alone, by the checks that it lists."""
    result = json.loads(certificate)["predicate"]["bi_harness"]
    ran = [one for one in result["checks"] if not (one["status"] == "skip" and one["rule"])]
    if not ran or result["finished"] is None or result["interrupted"]:
        return False
    if any(arm["config"].get("planted_fault") for arm in result["effective"]):
        return False
    return all(
        (one["status"] == "pass" and _believable(one)) or (one["status"] == "waived" and one.get("waiver"))
        for one in ran
    )


def fails(journal: bytes) -> bool:
    """Whether a journal tells of a failure, and its run was given no waiver: then it is NOT_CERTIFIED."""
    events: list[dict[str, Any]] = [json.loads(line) for line in journal.splitlines() if line.strip()]
    if events[0].get("waivers"):
        return False
    return any(one["type"] == "check_finished" and one["result"]["status"] == "fail" for one in events)


def certificate_fails(certificate: bytes) -> bool:
    """The same of a certificate alone, by the checks that it lists."""
    result = json.loads(certificate)["predicate"]["bi_harness"]
    return any(one["status"] == "fail" for one in result["checks"])


def _believable(result: dict[str, Any]) -> bool:
    facts = result.get("facts") or []
    wrong = [one for one in facts if one.get("expected") and one["found"] not in one["expected"]]
    if wrong:
        return False
    evidence, control = result.get("evidence"), result.get("control")
    if evidence is None:
        # A check of what engines say of themselves has no bits; its control says something else.
        judged = [one for one in facts if one.get("expected")]
        other = {one["name"]: one["found"] for one in result.get("control_facts") or []}
        return bool(judged) and any(other.get(one["name"], one["found"]) != one["found"] for one in judged)
    batches = evidence["batches"]
    return bool(
        evidence["prompts"] > 0
        and evidence["steps"] > 0
        and evidence["values"] > 0
        and not evidence["differing_prompts"]
        and not evidence["differing_steps"]
        and not evidence["differing_values"]
        and evidence["first_divergence"] is None
        and batches
        and (batches[0]["batch_size"], batches[0]["max_requests"]) == (1, 1)
        and any(arm["batch_size"] > 1 for arm in batches[1:])
        and all(arm["max_requests"] >= arm["batch_size"] for arm in batches[1:])
        and control is not None
        and control["differing_prompts"] > 0
        and control["prompts"] == evidence["prompts"]
    )
