"""``waivers.yaml``: what is accepted, where it is looked for, and what each mistake says with its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from bi_harness.errors import SpecError
from bi_harness.matrix.waivers import unknown_waivers, whole_matrix
from bi_harness.spec.load import default_paths, load_spec
from bi_harness.spec.waivers import Waivers, load_waivers, waivers_path
from tests.spec.small import Files

GOOD = """\
version: 1
waivers:
  - cell: gpu/big/*/tp1-dp1/eager/core
    check: alone
    reason: The norm's block size goes by the rows.
    link: https://github.com/vllm-project/vllm/pull/7
    owner: A. Reviewer
    expires: 2026-12-31
  - cell: cpu/*
    check: alone
    reason: Another.
    link: http://tracker.example:8080/T-7?x=1#a
    owner: "@team"
    expires: "2027-01-01"
"""


def load(folder: Path, text: str | bytes) -> Waivers:
    path = folder / "waivers.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return load_waivers(path)


def test_a_good_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = load(tmp_path, GOOD)
    assert [(e.cell, e.check, e.expires) for e in found.entries] == [
        ("gpu/big/*/tp1-dp1/eager/core", "alone", "2026-12-31"),
        ("cpu/*", "alone", "2027-01-01"),
    ]
    assert found.source.digest.startswith("sha256:")
    assert unknown_waivers(Files(tmp_path).load(), found) == []


@pytest.mark.parametrize("text", ["version: 1\nwaivers: []\n", "# none\nversion: 1\nwaivers:\n  []\n"])
def test_no_waivers_are_fine(tmp_path: Path, text: str) -> None:
    assert load(tmp_path, text).entries == ()


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("version: 1\n", "", 'waivers.yaml:1: required key "version" is missing'),
        ("version: 1", "version: 2", "waivers.yaml:1: version: must be 1"),
        ("version: 1", 'version: "1"', "waivers.yaml:1: version: must be 1"),
        ("version: 1", "version: true", "waivers.yaml:1: version: must be 1"),
        ("waivers:", "waiver:", 'waivers.yaml:2: waiver: unknown key "waiver". Did you mean "waivers"?'),
        (GOOD[11:], "waivers:\n", "must be a list, not nothing"),
        (GOOD[11:], "waivers: {}\n", "must be a list, not a mapping"),
        (
            "    check: alone\n    reason: The",
            "    reason: The",
            'waivers.yaml:3: waivers.0: required key "check"',
        ),
        ("    owner: A. Reviewer\n", "", 'required key "owner" is missing'),
        ("    expires: 2026-12-31\n", "", 'required key "expires" is missing'),
        ("owner: A. Reviewer", "owner:", "waivers.yaml:7: waivers.0.owner: must be text, not nothing"),
        ("owner: A. Reviewer", 'owner: ""', "waivers.yaml:7: waivers.0.owner:"),
        ("owner: A. Reviewer", 'owner: "  "', "waivers.yaml:7: waivers.0.owner: must not be blank"),
        ("owner: A. Reviewer", "owner: 7", "must be text, not 7; put it in quotes"),
        ("owner: A. Reviewer", "owner: [a, b]", "must be text, not a list"),
        ("owner: A. Reviewer", "owner: x\n    until: 2026", 'unknown key "until"'),
        ("owner: A. Reviewer", "owner: x\n    owner: y", "duplicate key"),
        (
            "2026-12-31",
            "2026-02-30",
            "waivers.yaml:8: waivers.0.expires: not a date; write one like 2026-12-31",
        ),
        ("2026-12-31", "31.12.2026", "not a date"),
        ("2026-12-31", "2026-12-31T00:00:00Z", "not a date"),
        ("2026-12-31", "20261231", "must be text"),
        ("2026-12-31", "never", "not a date"),
        (
            "https://github",
            "ftp://github",
            "waivers.yaml:6: waivers.0.link: not a URL; write one like https://",
        ),
        ("https://github.com/", "github.com/", "not a URL"),
        ("https://github.com/vllm-project/vllm/pull/7", "https://", "not a URL"),
        ("https://github.com/vllm", '"javascript:alert(1)//', "is not valid YAML"),
        ("https://github.com/vllm-project/vllm/pull/7", "javascript:alert(1)", "not a URL"),
        ("https://github.com/vllm-project/vllm/pull/7", "see the tracker", "not a URL"),
        ("https://github.com/vllm-project/vllm/pull/7", '"https://h/\\e[31m"', "not a URL"),
        ("https://github.com/", "https://me:secret@github.com/", "neither a name nor a password"),
        ("https://github.com/", "https://github.com:port/", "not a URL"),
        ("https://github.com/", "https://[::1/", "not a URL"),
        ("reason: The norm's", "reason: &a The norm's", ""),
        ("cell: cpu/*", "cell: gpu/big/*/tp1-dp1/eager/core", "waived already, at waivers.yaml:3"),
        ("version: 1", "version: 1 # \udce9", "is not UTF-8"),
        ("version: 1", "version: !!python/object:os.system 1", "the tag"),
        (GOOD, "", "waivers.yaml:1: must be a mapping with the keys version, waivers"),
        (GOOD, "- 1", "must be a mapping"),
    ],
)
def test_mistakes_have_their_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: str, new: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert old in GOOD
    text = GOOD.replace(old, new, 1).encode("utf-8", "surrogateescape")
    if not said:
        assert len(load(tmp_path, text).entries) == 2
        return
    with pytest.raises(SpecError) as caught:
        load(tmp_path, text)
    assert said in str(caught.value)
    assert "\x1b" not in str(caught.value)
    assert str(caught.value).startswith("waivers.yaml:")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            "check: alone",
            "check: alon",
            'waivers.yaml:4: waivers.0.check: no suite has a check "alon". Did you mean',
        ),
        (
            "cell: gpu/big/*",
            "cell: gpu/bog/*",
            'waivers.yaml:3: waivers.0.cell: "gpu/bog/*/tp1-dp1/eager/core"',
        ),
        ("cell: gpu/big/*/tp1-dp1/eager/core", "cell: gpu/tiny", "matches no cell of any device"),
        ("cell: gpu/big/*/tp1-dp1/eager/core", "cell: cpu/big/*", "matches no cell of any device"),
        ("cell: gpu/big/*", "cell: GPU/big/*", "matches no cell of any device"),
        (
            "cell: cpu/*\n    check: alone",
            "cell: cpu/*\n    check: spread",
            'no cell that "cpu/*" matches has the check',
        ),
    ],
)
def test_patterns_that_name_nothing_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: str, new: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert old in GOOD
    spec = Files(tmp_path).load()
    (problem,) = unknown_waivers(spec, load(tmp_path, GOOD.replace(old, new, 1)))
    assert said in problem


def test_the_whole_matrix_has_every_device_profile_and_check(tmp_path: Path) -> None:
    found = whole_matrix(Files(tmp_path).load())
    assert found["gpu/big/FLASH_ATTN/tp1-dp1/eager/core"] == {"alone"}
    assert found["gpu/big/TRITON_ATTN/tp2-dp1/compile/core"] == {"alone", "spread"}, "a rule excludes it"
    assert "cpu/tiny/CPU_ATTN/tp1-dp1/eager/core" in found
    assert not any(cell.startswith("cpu/big") for cell in found), "it is for another device"
    paths = default_paths(environ={})
    shipped = whole_matrix(load_spec(paths.models, paths.hardware, paths.suites))
    assert "sampling" in shipped["h200/qwen3-1.7b/FLASH_ATTN/tp1-dp1/compile/batch_invariance"]
    assert "restart" in shipped["h200/qwen3-1.7b/FLASH_ATTN/tp1-dp1/compile/batch_invariance"], (
        "nightly alone"
    )


def test_where_it_is_looked_for(tmp_path: Path) -> None:
    models = tmp_path / "models.yaml"
    beside = tmp_path / "waivers.yaml"
    assert waivers_path(None, models, environ={}) is None
    named = {"BI_HARNESS_WAIVERS": "/elsewhere/w.yaml"}
    assert waivers_path(None, models, environ=named) == Path("/elsewhere/w.yaml")
    assert waivers_path("x.yaml", models, environ=named) == Path("x.yaml")
    beside.write_text("version: 1\nwaivers: []\n")
    assert waivers_path(None, models, environ={}) == beside
    assert waivers_path(None, models, environ={"BI_HARNESS_WAIVERS": ""}) == beside
    assert waivers_path(None, models, environ=named) == Path("/elsewhere/w.yaml")
    beside.unlink()
    beside.symlink_to(tmp_path / "nowhere")
    with pytest.raises(SpecError, match="cannot be read"):
        load_waivers(waivers_path(None, models, environ={}) or Path())
    beside.unlink()
    beside.mkdir()
    with pytest.raises(SpecError, match="cannot be read"):
        load_waivers(waivers_path(None, models, environ={}) or Path())
