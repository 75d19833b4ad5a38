"""What a file that is not a genuine certificate claims to be of. Pure.

Nothing of it is believed. The device that it names is the one that it may hide a failure of.
"""

from __future__ import annotations

import base64
import contextlib
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from bi_harness.certificate.files import CERTIFICATE, ENVELOPE, JOURNAL
from bi_harness.certificate.verify import Folder
from bi_harness.report.dashboard.rows import Claim, claim_of

_DEVICE: Final = re.compile(rb'"device"\s*:\s*\{\s*"id"\s*:\s*("(?:[^"\\\x00-\x1f]|\\.){1,400}")')
_STARTED: Final = re.compile(rb'"(?:started|time)"\s*:\s*("[^"\\\x00-\x1f]{1,64}")')
_PAYLOAD: Final = re.compile(rb'"payload"\s*:\s*"([A-Za-z0-9+/=_-]+)"')


def read_claim(folder: Folder) -> Claim:
    """The device and the night that the first of certificate, envelope and journal names; empty for none."""
    found = Claim()
    for data in _texts(folder):
        device, started = _claimed(data)
        if device:
            return claim_of(device, started)
    return found


def _texts(folder: Folder) -> Iterator[bytes]:
    yield folder.contents.get(CERTIFICATE, b"")
    payload = _PAYLOAD.search(folder.contents.get(ENVELOPE, b""))
    if payload is not None:
        text = payload[1].translate(bytes.maketrans(b"-_", b"+/"))
        with contextlib.suppress(ValueError):  # then the journal is asked
            yield base64.b64decode(text[: len(text) // 4 * 4])
    yield folder.contents.get(JOURNAL, b"").partition(b"\n")[0]


def _claimed(data: bytes) -> tuple[str, str]:
    """The device's id and the run's start: from JSON, else from what stands where bi-harness writes them."""
    try:
        told: Any = json.loads(data)
    except (ValueError, RecursionError):
        told = None
    if isinstance(told, Mapping):
        for step in ("predicate", "bi_harness"):
            inner = told.get(step)
            told = inner if isinstance(inner, Mapping) else told
        device = told.get("device")
        named = device.get("id") if isinstance(device, Mapping) else None
        began = told.get("started", told.get("time"))
        if isinstance(named, str) and named:
            return named[:400], began if isinstance(began, str) else ""
    device_text, started_text = _DEVICE.search(data), _STARTED.search(data)
    return _text(device_text), _text(started_text)


def _text(found: re.Match[bytes] | None) -> str:
    if found is None:
        return ""
    try:
        return str(json.loads(found[1]))
    except ValueError:
        return ""
