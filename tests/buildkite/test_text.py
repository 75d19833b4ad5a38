"""Keys, interpolation and shell words."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bi_harness.buildkite.text import command, key, verbatim

HOSTILE = [
    "$HOME",
    "${HOME:-x}",
    "$(touch owned)",
    "`touch owned`",
    "a'b\"c",
    "'; touch owned; '",
    "\\$HOME",
    "\\\\$HOME",
    "\\",
    "$",
    "$$",
    "a\nb",
    "&& rm -rf x",
    "--flag",
    "~/x *",
    "",
]


def interpolated(text: str) -> str:
    """As `buildkite-agent pipeline upload` does it with no variable set; raises where it would not parse."""
    out, at = [], 0
    while at < len(text):
        two = text[at : at + 2]
        if two == "\\\\":
            out.append(two)
            at += 2
        elif two in ("\\$", "$$"):
            out.append("$")
            at += 2
        elif text[at] == "$" and at < len(text) - 1:
            raise AssertionError(f"a variable: {text[at:]}")
        else:
            out.append(text[at])
            at += 1
    return "".join(out)


WORDS = st.lists(st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=20), min_size=1)


@given(WORDS)
@example(HOSTILE)
def test_words_come_through_buildkite_and_the_shell(words: list[str]) -> None:
    line = interpolated(command(["printf", "%s\\0", *words]))
    shell = subprocess.run(["/bin/bash", "-e", "-c", line], capture_output=True, check=True, timeout=30)
    assert shell.stdout.decode().split("\0")[:-1] == words


@pytest.mark.parametrize("word", HOSTILE)
def test_nothing_in_a_word_is_run(word: str, tmp_path: Path) -> None:
    subprocess.run(
        ["/bin/bash", "-c", interpolated(command(["true", word]))], cwd=tmp_path, check=True, timeout=30
    )
    assert list(tmp_path.iterdir()) == []


@given(st.text().filter(lambda text: "\\$" not in text))
def test_a_text_stays_as_it_is(text: str) -> None:
    assert interpolated(verbatim(text)) == text


def test_what_cannot_be_written_is_refused() -> None:
    with pytest.raises(ValueError, match="backslash"):
        verbatim("echo \\$HOME")


@given(st.lists(st.text(min_size=1), min_size=1, max_size=3))
def test_keys_are_plain(parts: list[str]) -> None:
    assert re.fullmatch(r"[A-Za-z0-9_-]+", key(*parts))
    assert key(*parts) == key(*parts)


def test_keys_of_other_devices_are_others() -> None:
    names = ["h200", "h-200", "h.200", "h_200", "h 200", "h/200", "h$200", "ü", "ö", "a" * 90, "a" * 91, ""]
    assert len({key(name) for name in names}) == len(names)
    assert key("h200", "merge") == "bi-harness-h200-merge"
