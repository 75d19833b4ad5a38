"""An Atom feed (RFC 4287) of verdicts that changed. The same change has the same id in every build."""

from __future__ import annotations

import uuid
from typing import Final
from xml.etree import ElementTree as ET

from bi_harness.report.dashboard.fleet import Change, Fleet
from bi_harness.report.dashboard.looks import VERDICTS, versions_words
from bi_harness.report.text import xml_text

ATOM: Final = "http://www.w3.org/2005/Atom"
ENTRIES: Final = 300

_SPACE: Final = uuid.uuid5(uuid.NAMESPACE_URL, "urn:bi-harness:dashboard")


def render_feed(fleet: Fleet, *, title: str, url: str = "") -> bytes:
    """The feed.

    Args:
        url: where the site will be, with a slash at its end; empty for one that is opened from disk.
    """
    ET.register_namespace("", ATOM)
    root = ET.Element(f"{{{ATOM}}}feed")
    changes = fleet.changes[:ENTRIES]
    _add(root, "title", f"{title}: verdicts that changed")
    _add(root, "id", f"urn:uuid:{uuid.uuid5(_SPACE, f'{title}|{url}')}")
    _add(root, "updated", changes[0].time if changes else f"{fleet.as_of.isoformat()}T00:00:00Z")
    _add(_add(root, "author"), "name", "bi-harness")
    _add(root, "link", rel="alternate", type="text/html", href=f"{url}index.html")
    if url:
        _add(root, "link", rel="self", type="application/atom+xml", href=f"{url}feed.xml")
    for change in changes:
        _entry(root, change, url)
    text = ET.tostring(root, encoding="unicode")
    return f'<?xml version="1.0" encoding="utf-8"?>\n{text}\n'.encode()


def _entry(root: ET.Element, change: Change, url: str) -> None:
    entry = _add(root, "entry")
    what = f"{change.device} · {change.model}{f' ({change.variant})' if change.variant else ''}"
    before, after = VERDICTS[change.before], VERDICTS[change.after]
    new = change.before == "NONE"
    _add(entry, "title", f"{after.mark} {what}: {after.word}{'' if new else f' (was {before.word})'}")
    key = "|".join((change.device, change.model, change.variant, change.night, change.before, change.after))
    _add(entry, "id", f"urn:uuid:{uuid.uuid5(_SPACE, key)}")
    _add(entry, "updated", change.time)
    _add(entry, "link", rel="alternate", type="text/html", href=f"{url}index.html")
    versions = versions_words(change.versions)
    if change.versions_before not in (change.versions, ("", "", "")):
        versions += f"; before, {versions_words(change.versions_before)}"
    told = "is" if new else f"was {before.word} and is"
    _add(
        entry,
        "content",
        f"{what} {told} {after.word} since the night of {change.night}. {versions}.",
        type="text",
    )


def _add(parent: ET.Element, name: str, text: str = "", **attributes: str) -> ET.Element:
    found = ET.SubElement(parent, f"{{{ATOM}}}{name}", attributes)
    if text:
        found.text = xml_text(text, 1_000)
    return found
