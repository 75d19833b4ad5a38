"""The measure of changed bytes: it finds all, and would tell of one that was missed."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.trust import tamper


def test_every_changed_byte_of_a_real_run_is_found() -> None:
    told: dict[str, Any] = tamper.measure(per_file=8)
    assert told["missed"] == []
    assert told["flips"] == told["found"] >= 100
    assert told["exhaustive"] is False
    assert {"signed: logs", "signed: certificate.dsse.json", "without a key: cells.parquet"} <= set(
        told["files"]
    )


def test_a_miss_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tamper, "_found", lambda *_: False)
    told: dict[str, Any] = tamper.measure(per_file=1)
    assert told["found"] == 0
    assert len(told["missed"]) == 20
