"""Rows of a history, as certificates would give them."""

from __future__ import annotations

import json
from datetime import date, timedelta
from typing import Any

from bi_harness.report.dashboard.fleet import Fleet, fleet
from bi_harness.report.dashboard.history import joined, table_of
from bi_harness.report.dashboard.rows import Cell, Row, Start, Told

DAY = date(2026, 3, 10)
"""The day that is shown; nights are counted back from it."""

ONE = "h200/m/FLASH_ATTN/tp1-dp1/eager/batch_invariance"
OTHER = "h200/m/FLASH_ATTN/tp1-dp1/compile/batch_invariance"


def told(cell: str, check: str, status: str = "fail", **changes: Any) -> Told:
    base = {
        "reason": "8 of 32 prompts differ.",
        "where": "First at prompt 11, step 4.",
        "figures": "8 of 32 prompts differ.",
        "control": "With invariance off, 31 of 32 differ.",
        "waiver": "",
        "log": "",
        "command": f"bi-harness run -k {check}",
    }
    return Told(cell=cell, check=check, status=status, **{**base, **changes})


def row(ago: int, cells: dict[str, str], **changes: Any) -> Row:
    """A certificate of the night so many days ago; ``cells`` has each cell's letters.

    Its checks are named ``a``, ``b``, ...; its verdict follows from the letters.
    """
    night = (DAY - timedelta(days=ago)).isoformat()
    letters = "".join(cells.values())
    verdict = (
        "NOT_CERTIFIED" if "f" in letters else "INCONCLUSIVE" if set(letters) & set("ei") else "CERTIFIED"
    )
    device = next(iter(cells)).partition("/")[0] if cells else "h200"
    words = {"f": "fail", "e": "error", "i": "inconclusive", "w": "waived"}
    stories = [
        told(cell, chr(97 + i), words[letter])
        for cell, found in cells.items()
        for i, letter in enumerate(found)
        if letter in words
    ]
    base: dict[str, Any] = {
        "digest": f"d{ago}{device}{changes.get('run_id', '')}",
        "path": f"reports/{device}/{night}",
        "run_id": f"run-{night}",
        "device": device,
        "hardware": f"{device} (a GPU)",
        "profile": "nightly",
        "scope": "everything planned for the device, profile nightly",
        "verdict": "WAIVED" if verdict == "CERTIFIED" and "w" in letters else verdict,
        "said": "so",
        "started": f"{night}T01:30:00Z",
        "ended": f"{night}T03:30:00Z",
        "night": night,
        "seconds": 7200.0,
        "vllm": "0.26.0",
        "torch": "2.11.0",
        "harness": "0.1.0",
        "again": "--profile nightly --weights named --seed 0",
        "environment": json.dumps([["provenance.vllm.version", changes.get("vllm", "0.26.0")]]),
        "told": json.dumps([_fields(one) for one in stories]),
        "starts": (Start("eager", "treatment", 2, 20.0), Start("compile", "treatment", 2, 60.0)),
        "cells": tuple(
            Cell(cell, "\n".join(chr(97 + i) for i in range(len(found))), found, 10.0)
            for cell, found in cells.items()
        ),
    }
    base.update(changes)
    base.setdefault("certificate", f"c{base['digest']}")
    return Row(**base)


def _fields(one: Told) -> dict[str, Any]:
    return {name: getattr(one, name) for name in Told.__dataclass_fields__}


def shown(*rows: Row, **options: Any) -> Fleet:
    return fleet(joined(table_of(rows)), options.pop("as_of", DAY), **options)
