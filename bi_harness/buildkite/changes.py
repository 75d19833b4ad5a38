"""Which suites a change touches. What is not known touches all of them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache

from bi_harness.spec.suites import VLLM_PATHS, SuiteSpec

NOTHING = ("docs/", "reports/", "tests/", "benchmarks/", "*.md", "LICENSE")
"""Files of bi-harness's and of vLLM's repository that no run reads."""

KNOWN = tuple(pattern for pattern in VLLM_PATHS if not pattern.startswith("!"))
"""The part of vLLM's repository in which suites say what they depend on."""


def touched(files: Iterable[str], suites: Mapping[str, SuiteSpec], folder: str = "suites") -> dict[str, str]:
    """The suites that a change touches, each with the first file that does.

    A file of a suite's folder touches that suite; one of vLLM's tree the suites that depend on it
    (``SuiteSpec.paths``); one of ``NOTHING`` none; any other file (bi-harness itself, the YAML, what builds
    vLLM, whatever is not known) all of them. So does an empty list: it says nothing of what has changed.

    Args:
        files: paths from the repository's root, with ``/``.
        suites: by id.
        folder: of the suites in that repository.
    """
    found: dict[str, str] = {}
    names = [name for name in files if name]
    for name in names or ["(no file was named)"]:
        for suite in _by(name, suites, folder.strip("/")):
            found.setdefault(suite, name)
    return {suite: found[suite] for suite in suites if suite in found}


def _by(name: str, suites: Mapping[str, SuiteSpec], folder: str) -> Iterable[str]:
    path = name.removeprefix("./")
    parts = path.split("/")
    if not all(parts) or ".." in parts or "." in parts:
        return suites  # Not a path from the root (or one in quotes, by git): nobody knows which it is.
    if path.startswith(f"{folder}/"):
        inside = path.removeprefix(f"{folder}/").split("/")
        return [inside[0]] if len(inside) > 1 and inside[0] in suites else suites
    if matches(path, NOTHING):
        return ()
    if matches(path, KNOWN):
        return [
            suite
            for suite, spec in suites.items()
            if matches(path, VLLM_PATHS if spec.paths is None else spec.paths)
        ]
    return suites


def matches(path: str, patterns: Iterable[str]) -> bool:
    """Whether a pattern takes the path in, and none that begins with ``!`` takes it out."""
    ins = False
    for pattern in patterns:
        if pattern.startswith("!"):
            if _compiled(pattern[1:]).fullmatch(path):
                return False
        elif not ins:
            ins = _compiled(pattern).fullmatch(path) is not None
    return ins


@lru_cache(maxsize=4096)
def _compiled(pattern: str) -> re.Pattern[str]:
    """A folder stands for all below it; ``*`` and ``?`` stay within a name, ``**`` does not."""
    words = {"**": ".*", "*": "[^/]*", "?": "[^/]"}
    pieces = re.split(r"(\*\*|\*|\?)", pattern.rstrip("/"))
    return re.compile("".join(words.get(piece, re.escape(piece)) for piece in pieces) + "(?:/.*)?", re.DOTALL)
