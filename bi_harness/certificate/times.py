"""The times of a journal or certificate, which may be any text. Pure."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

_MAX_LENGTH: Final = 64


def utc(text: str) -> datetime | None:
    """The time in UTC; ``None`` for a text that is not a time, has no zone, or is out of the calendar in UTC.

    ``0001-01-01T00:00:00+14:00`` is a valid time whose UTC is before the first year.
    """
    if len(text) > _MAX_LENGTH:
        return None
    try:
        found = datetime.fromisoformat(text)
        return found.astimezone(UTC) if found.tzinfo is not None else None
    except (ValueError, OverflowError):
        return None
