"""What starts counted in a run, as entries for a suite's ``expected.yaml``: proposed, not taken over."""

from __future__ import annotations

import re
from typing import Any

import yaml
from packaging.version import Version

from bi_harness.certificate.files import PROPOSAL as PROPOSAL
from bi_harness.certificate.records import CheckResult
from bi_harness.certificate.statement import Statement
from bi_harness.report.cellid import parse_cell_id
from bi_harness.report.text import clean
from bi_harness.spec.startup import NEVER_WARM

_COUNTED = re.compile(r"(cold|warm): ((?:num_|aot_autograd\.|unique_graphs|kernels_built)\w*)")


def render_proposal(statement: Statement) -> str:
    """The YAML text; empty where no check of the run counted starts.

    What a warm start must not count is named, not proposed: it is a defect, and an exception takes a person.
    """
    entries: dict[str, Any] = {}
    defects: list[str] = []
    for check in statement.predicate.bi_harness.checks:
        counts = _counts(check)
        if not counts["cold"] or not counts["warm"]:
            continue
        cell, name = parse_cell_id(check.cell), clean(check.cell, 300)
        vllm, torch = _versions(statement, check.cell)
        kind = clean(statement.predicate.bi_harness.device.get("kind", ""), 20)
        model = clean(cell.model, 80)
        bad = {counter: n for counter, n in counts["warm"].items() if counter in NEVER_WARM and n}
        defects += [f"{name}: a warm start counts {counter}: {n}" for counter, n in bad.items()]
        entries[f"{kind}-{model}"] = {
            "vllm": vllm,
            "torch": torch,
            "kind": kind,
            "models": [model],
            "source": f"measured in run {clean(statement.predicate.bi_harness.run_id, 120)}",
            "cold": counts["cold"],
            "warm": {counter: n for counter, n in counts["warm"].items() if counter not in bad},
        }
    if not entries:
        return ""
    lines = [
        "# Proposed by `bi-harness run --record`: what was counted, not what is right. Look at each number,"
    ]
    lines.append("# then move those that you stand for to the suite's expected.yaml.")
    if defects:
        lines += [
            "#",
            "# Not proposed: a warm start compiles and saves nothing. A known defect takes an entry of",
        ]
        lines.append("# exceptions, with a reason, a source and an end:")
        lines += [f"#   {line}" for line in defects]
    text = yaml.safe_dump({"expectations": entries}, sort_keys=False, width=110, allow_unicode=True)
    return "\n".join(lines) + "\n" + text


def _counts(check: CheckResult) -> dict[str, dict[str, int | str]]:
    found: dict[str, dict[str, int | str]] = {"cold": {}, "warm": {}}
    for fact in check.facts:
        named = _COUNTED.fullmatch(fact.name)
        if named is None or not re.fullmatch(r"\d{1,9}", fact.found):
            continue
        start, counter = named.groups()
        # How many kernels there are depends on the host's compiler and CPU.
        value: int | str = "> 0" if counter == "kernels_built" and fact.found != "0" else int(fact.found)
        found[start][counter] = value
    return found


def _versions(statement: Statement, cell: str) -> tuple[str, str]:
    """Ranges of the releases that ran: of those with the same major and minor number."""
    arms = [arm.config for arm in statement.predicate.bi_harness.effective if arm.unit == cell]
    config = arms[0] if arms else {}
    return _range(config.get("vllm")), _range(config.get("torch"))


def _range(version: object) -> str:
    try:
        found = Version(str(version))
    except ValueError:
        # No version, or one with a number of more than 4,300 digits.
        return ""
    return f">={found.major}.{found.minor},<{found.major}.{found.minor + 1}"
