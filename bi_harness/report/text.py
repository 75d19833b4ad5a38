"""Making strings from a certificate fit to be shown.

A certificate holds text that nobody vetted: model ids, exception messages, engine configuration. Escaping
for one format is that format's writer's work; what is unfit for every reader (control characters, terminal
escapes, invisible or direction-changing characters, a megabyte in a table cell) goes here.
"""

from __future__ import annotations

import math
import re
import unicodedata
from datetime import datetime

LIMIT = 400
"""Characters shown of a text whose length nobody has bounded."""

LONG_LIMIT = 4_000
"""The same for the one text that a reader came for: a failure's reason."""

# CSI and OSC sequences whole: without this only ESC would go and "[31m" would stay as litter.
_ANSI = re.compile(r"\x1b\[[0-9:;<=>?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[@-Z\\^_]")
_SPACES = re.compile(r"[ \u00a0]+")
# XML 1.0 production [2] Char, negated.
_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def clean(value: object, limit: int = LIMIT) -> str:
    """One line of printable text of at most about ``limit`` characters, with a note of what was cut.

    Control, format (bidirectional overrides, zero-width), surrogate and unassigned characters go; line
    breaks and tabs become spaces.
    """
    text = value if isinstance(value, str) else scalar(value)
    # Only a prefix is looked at: the cost must not grow with what a hostile or broken producer wrote.
    window = text[: 4 * limit + 256]
    if len(window) == len(text) <= limit and text.isascii() and text.isprintable():
        # Nearly every text of a real certificate, a hundred thousand of them in a large one.
        return text.strip(" ") if "  " not in text else _SPACES.sub(" ", text).strip()
    shown = _SPACES.sub(" ", "".join(_printable(char) for char in _ANSI.sub("", window))).strip()
    if len(shown) <= limit and len(window) == len(text):
        return shown
    kept = shown[:limit].rstrip()
    hidden = len(text) - len(kept)
    return f"{kept}… [{hidden:,} more characters]"


def _printable(char: str) -> str:
    if char.isascii():
        if char.isprintable():
            return char
        return " " if char in "\t\n\r\v\f" else ""
    category = unicodedata.category(char)
    if category in ("Zl", "Zp", "Zs"):
        return " "
    return "" if category[0] == "C" else char


def xml_text(value: object, limit: int = LONG_LIMIT) -> str:
    """Text that is legal in XML 1.0 with its line breaks kept; escaping is left to the XML library."""
    text = value if isinstance(value, str) else scalar(value)
    window = text[: 2 * limit]
    shown = _NOT_XML.sub("", _ANSI.sub("", window)).replace("\r\n", "\n").replace("\r", "\n")
    if len(shown) <= limit and len(window) == len(text):
        return shown
    kept = shown[:limit]
    return f"{kept}… [{len(text) - len(kept):,} more characters]"


def scalar(value: object) -> str:
    """A JSON scalar as a reader expects it; whole numbers without separators."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return _digits(value, "d")
    if isinstance(value, float):
        return format(value, ".10g")
    if isinstance(value, str):
        return value
    return str(value)


def count(value: int) -> str:
    """A count with thousands separators: ``12,288``."""
    return _digits(value, ",d")


def _digits(value: int, spec: str) -> str:
    # Python refuses to print an int of more than 4,300 digits, and no reader wants to see 40.
    if value.bit_length() > 96:
        return f"{'-' if value < 0 else ''}2^{value.bit_length() - 1} or more"
    return format(value, spec)


def percent(rate: float) -> str:
    """A rate as a percentage with three significant digits."""
    return f"{100 * rate:.3g} %"


def number(value: float | None) -> str:
    """A float in few digits; an em dash for nothing."""
    return "—" if value is None else f"{value:.6g}"


def duration(seconds: float | None) -> str:
    """Wall time for a reader: ``0.8 s``, ``42 s``, ``3 min 05 s``, ``2 h 07 min``."""
    if seconds is None:
        return "—"
    if seconds < 0 or not math.isfinite(seconds) or seconds >= 1e9:
        return f"{seconds:.3g} s"
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def moment(stamp: str | None) -> datetime | None:
    """The time that an ISO 8601 string names, or ``None`` where it names none."""
    if stamp is None or len(stamp) > 64:
        return None
    try:
        return datetime.fromisoformat(stamp)
    except ValueError:
        return None


def when(stamp: str | None) -> str:
    """A time stamp for a reader; a string that is no time stamp is shown as it is."""
    if stamp is None:
        return "—"
    parsed = moment(stamp)
    if parsed is None:
        return clean(stamp, 64)
    offset = parsed.utcoffset()
    if offset is None:
        zone = ""
    elif not offset:
        zone = " UTC"
    else:
        zone = parsed.strftime(" %z")
    return f"{parsed.isoformat(sep=' ', timespec='seconds')[:19]}{zone}"


def elapsed(started: str, finished: str | None) -> float | None:
    """Seconds between two time stamps; ``None`` where they do not tell."""
    first, last = moment(started), moment(finished)
    if first is None or last is None or (first.tzinfo is None) != (last.tzinfo is None):
        return None
    return (last - first).total_seconds()


def plural(number_of: int, noun: str) -> str:
    """``1 check``, ``2 checks``."""
    return f"{count(number_of)} {noun}{'' if number_of == 1 else 's'}"
