"""What commands write: data on stdout, everything else on stderr. Imports nothing heavy."""

from __future__ import annotations

import json
import re
import sys
from typing import Any

# Everything that can move a terminal's cursor, reorder its text or hide in it; not the newline and the tab.
_CONTROL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\U000e0000-\U000e007f]"
)


def clean(text: str) -> str:
    """The text with control characters shown as escapes, so that a file's content cannot drive a terminal."""
    # A lone surrogate (an argument that is not UTF-8) could not be written at all.
    text = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return _CONTROL.sub(lambda found: f"\\x{ord(found.group()):02x}", text)


def warn(text: str) -> None:
    """A warning on stderr."""
    print(f"warning: {clean(text)}", file=sys.stderr)  # noqa: T201


def write_json(data: Any) -> None:
    """The data as JSON on stdout, in ASCII: it survives any terminal's encoding."""
    json.dump(data, sys.stdout, indent=2, allow_nan=False)
    sys.stdout.write("\n")
