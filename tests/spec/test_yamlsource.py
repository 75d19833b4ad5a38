"""YAML text → values and places, and what is refused."""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from bi_harness.errors import SpecError
from bi_harness.spec.yamlsource import MAX_BYTES, Mark, load_yaml, parse_yaml


def parse(text: str) -> object:
    return parse_yaml(text.encode(), "f.yaml").data


def refused(raw: str | bytes) -> str:
    with pytest.raises(SpecError) as caught:
        parse_yaml(raw.encode() if isinstance(raw, str) else raw, "f.yaml")
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: on", "on"),
        ("a: yes", "yes"),
        ("a: true", True),
        ("a: 1e-6", 1e-6),
        ("a: 1.0e-6", 1e-6),
        ("a: -3", -3),
        ("a: .5", 0.5),
        ("a: 1:30", "1:30"),
        ("a: 2026-05-13", "2026-05-13"),
        ("a: '1'", "1"),
        ("a: ~", None),
        ("a:", None),
        ("a: 0.33.0", "0.33.0"),
        ("a: !!str 12", "12"),
        ("a: 9.0", 9.0),
    ],
)
def test_plain_values_are_those_of_yaml_1_2(text: str, value: object) -> None:
    parsed = parse(text)
    assert parsed == {"a": value}
    assert type(parsed["a"]) is type(value)  # type: ignore[index]


def test_keys_are_text() -> None:
    assert parse("on: 1\noff: 2\n1: 3\nnull: 4") == {"on": 1, "off": 2, "1": 3, "null": 4}


def test_places_count_from_one() -> None:
    source = parse_yaml(b"a:\n  b: [1, 22]\n", "f.yaml")
    assert source.key_at(("a", "b")) == Mark(2, 3)
    assert source.value_at(("a", "b")) == Mark(2, 6)
    assert source.value_at(("a", "b", 1)) == Mark(2, 10)
    assert source.value_at(("a", "missing", "deeper")) == Mark(1, 1)


def test_merge_keys_do_not_override_and_keep_their_place() -> None:
    source = parse_yaml(b"x: &x\n  k: 1\n  l: 2\ny:\n  <<: *x\n  k: 3\n", "f.yaml")
    assert source.data["y"] == {"k": 3, "l": 2}
    assert source.value_at(("y", "l")).line == 3
    assert source.value_at(("y", "k")).line == 6


def test_of_merged_mappings_the_earlier_wins() -> None:
    assert parse("a: &a {k: 1}\nb: &b {k: 2, l: 2}\nc: {<<: [*a, *b]}") == {
        "a": {"k": 1},
        "b": {"k": 2, "l": 2},
        "c": {"k": 1, "l": 2},
    }


def test_duplicate_keys_are_named_with_both_lines() -> None:
    message = refused("a:\n  b: 1\n  c: 2\n  b: 3\n")
    assert message == "f.yaml:4: a.b: duplicate key; it is first given at f.yaml:2"


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("a: !!python/object/apply:os.system [ls]", "tag !!python/object/apply:os.system is not allowed"),
        ("a: !custom 1", "tag !custom is not allowed"),
        ("a: !!int '1'", "tag !!int is not allowed"),
        ("a: 010", "differs between YAML readers"),
        ("a: 1_000", "differs between YAML readers"),
        ("a: .nan", "differs between YAML readers"),
        ("a: 1e999", "too large"),
        ("a: [1", "f.yaml:1: is not valid YAML"),
        ("a: 1\nb: @x", "f.yaml:2: is not valid YAML"),
        ("? [1, 2]\n: 3", "a key must be a plain name"),
        ("a: 1\n---\nb: 2", "f.yaml:2: is not valid YAML"),
        ("a: *nope", "undefined alias"),
        ("a: {<<: 3}", "merges a mapping"),
        ("a: &a [*a]", "too many levels"),
        ("a: &a\n  <<: *a\n", "round in a circle"),
        ("[" * 100, "not valid YAML"),
        ("[" * 5000 + "]" * 5000, "too"),
        ("a: \x07", "f.yaml:1: has a character that YAML does not allow (U+0007)"),
    ],
)
def test_refusals(text: str, part: str) -> None:
    message = refused(text)
    assert message.startswith("f.yaml")
    assert part in message


def test_an_alias_bomb_is_refused() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 10)]
    assert "too many values" in refused("\n".join(lines))


def test_a_merge_bomb_is_refused() -> None:
    lines = ["a0: &a0 {k: 1}"]
    lines += [f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}" for i in range(1, 20)]
    assert "f.yaml:" in refused("\n".join(lines))


def test_text_that_is_not_utf8_is_refused_with_its_line() -> None:
    assert refused(b"a: 1\nb: \xff\n") == "f.yaml:2: is not UTF-8 (byte 8: 0xff)"


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.yaml", Path("\0")):
        with pytest.raises(SpecError, match="cannot be read"):
            load_yaml(path)


def test_a_file_without_end_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.yaml")
    (tmp_path / "loop.yaml").symlink_to("loop.yaml")
    for path, what in (
        (Path("/dev/zero"), "not a regular file"),
        (tmp_path / "fifo.yaml", "not a regular file"),
        (tmp_path / "loop.yaml", "symbolic links"),
    ):
        with pytest.raises(SpecError, match=f"cannot be read: .*{what}"):
            load_yaml(path)
    (tmp_path / "large.yaml").write_bytes(b"#" * (MAX_BYTES + 1))
    with pytest.raises(SpecError, match="larger than"):
        load_yaml(tmp_path / "large.yaml")


def test_the_digest_is_of_the_bytes(tmp_path: Path) -> None:
    path = tmp_path / "f.yaml"
    raw = b"a: 1\r\n"
    path.write_bytes(raw)
    assert load_yaml(path).digest == f"sha256:{hashlib.sha256(raw).hexdigest()}"


@settings(max_examples=200, deadline=None)
@given(
    st.one_of(
        st.binary(max_size=200), st.text(alphabet="ab:-[]{}&*!<>|'\"\n #?,01.~", max_size=80).map(str.encode)
    )
)
def test_whatever_the_bytes_only_spec_errors_come_out(raw: bytes) -> None:
    with contextlib.suppress(SpecError):
        parse_yaml(raw, "f.yaml")


_names = st.text(alphabet="abcdef", min_size=1, max_size=6)
_words = st.sampled_from(["word", 7, 0.5, True, None, "two words"])
_documents = st.recursive(
    _words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_names, inner, max_size=3),
    max_leaves=12,
)


@settings(max_examples=200, deadline=None)
@given(_documents, st.booleans())
def test_what_yaml_writes_is_read_back_with_true_places(document: object, flow: bool) -> None:
    text = yaml.safe_dump({"root": document}, default_flow_style=flow)
    source = parse_yaml(text.encode(), "f.yaml")
    assert source.data == {"root": document}
    lines = text.splitlines()
    for route, mark in source.keys.items():
        assert lines[mark.line - 1][mark.column - 1 :].startswith(str(route[-1]))
    for route, mark in source.values.items():
        value = source.data
        for step in route:
            value = value[step]
        if value == "word":
            assert lines[mark.line - 1][mark.column - 1 :].startswith("word")
