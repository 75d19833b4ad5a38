"""The gate's policy: what is accepted, and what each mistake says."""

from __future__ import annotations

from pathlib import Path

import pytest

from bi_harness.errors import SpecError
from bi_harness.spec.policy import Policy, load_policy, parse_release
from bi_harness.spec.types import MODES

ROOT = Path(__file__).resolve().parents[2]
GOOD = """\
requires:
  - devices: [h200, cpu]
    models: tiny
    suites: [core]
    modes: [eager, compile]
vllm: ">=0.30"
"""


def load(tmp_path: Path, text: str) -> Policy:
    (tmp_path / "release.yaml").write_text(text)
    return load_policy(tmp_path / "release.yaml")[0]


def test_a_good_policy_allows_nothing_by_itself(tmp_path: Path) -> None:
    policy = load(tmp_path, GOOD)
    assert [r.id for r in policy.requirements()] == [
        "h200/tiny/*/*/eager/core",
        "h200/tiny/*/*/compile/core",
        "cpu/tiny/*/*/eager/core",
        "cpu/tiny/*/*/compile/core",
    ]
    allowed = (
        policy.allow_dirty,
        policy.allow_waivers,
        policy.allow_skips,
        policy.allow_endpoint,
        policy.allow_prereleases,
        policy.allow_synthetic,
    )
    assert allowed == (False,) * 6


def test_a_combination_is_asked_for_once(tmp_path: Path) -> None:
    text = GOOD.replace("vllm:", "  - {devices: cpu, models: tiny, suites: core, modes: eager}\nvllm:")
    assert len(load(tmp_path, text).requirements()) == 4


def test_the_example_is_one() -> None:
    policy, digest = load_policy(ROOT / "examples" / "release.yaml")
    assert len(policy.requirements()) == 24
    assert {one.mode for one in policy.requirements()} == set(MODES)
    assert digest.startswith("sha256:")
    assert not policy.allow_dirty


MISTAKES: dict[str, tuple[str, str, str]] = {
    "empty": (GOOD, "", "release.yaml:1: must be a mapping"),
    "no requirement": (GOOD[: GOOD.index("vllm")], "requires: []\n", "release.yaml:1: requires: "),
    "no requires": (GOOD[: GOOD.index("vllm")], "", 'required key "requires" is missing'),
    "no vllm": ('vllm: ">=0.30"\n', "", 'required key "vllm" is missing'),
    "an unknown key": (
        "vllm:",
        "allow_skip: true\nvllm:",
        'release.yaml:6: allow_skip: unknown key "allow_skip". Did you mean "allow_skips"?',
    ),
    "an unknown key of a block": (
        "    models:",
        "    model:",
        "release.yaml:3: requires.0.model: unknown key",
    ),
    "an empty list": ("[h200, cpu]", "[]", "release.yaml:2: requires.0.devices"),
    "a mode that is none": (
        "[eager, compile]",
        "[eagr]",
        'yaml:5: requires.0.modes.0: "eagr" is not',
    ),
    "a range that is none": ('">=0.30"', "new", "release.yaml:6: vllm: not a version range"),
    "a flag that is text": (
        "vllm:",
        'allow_dirty: "true"\nvllm:',
        "yaml:6: allow_dirty: must be true or",
    ),
    "a name with a line break": ("tiny", '"ti\\nny"', "release.yaml:3: requires.0.models"),
    "a star": ("tiny", '"*"', "release.yaml:3: requires.0.models"),
    "an age of nothing": ("vllm:", "max_age_days: 0\nvllm:", "release.yaml:6: max_age_days"),
    "a score above one": ("vllm:", "min_selftest_score: 2.0\nvllm:", "release.yaml:6: min_selftest_score"),
    "no keys": ("vllm:", "keys: []\nvllm:", "release.yaml:6: keys"),
    "twice": ("models: tiny", "models: [tiny, tiny]", "tiny is listed twice"),
    "another form": ("vllm:", "schema: bi-harness/policy/2\nvllm:", "release.yaml:6: schema"),
    "a size that is none": ("    modes:", "    parallel: tp0-dp1\n    modes:", "requires.0.parallel"),
}


@pytest.mark.parametrize(("old", "new", "message"), MISTAKES.values(), ids=MISTAKES.keys())
def test_mistakes_have_file_and_line(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in GOOD
    with pytest.raises(SpecError) as caught:
        load(tmp_path, GOOD.replace(old, new, 1))
    assert message in str(caught.value)


def test_more_than_can_be_asked_for(tmp_path: Path) -> None:
    many = ", ".join(f"m{i}" for i in range(900))
    devices = ", ".join(f"d{i}" for i in range(900))
    text = GOOD.replace("models: tiny", f"models: [{many}]").replace("[h200, cpu]", f"[{devices}]")
    with pytest.raises(SpecError, match="more than 100000 combinations"):
        load(tmp_path, text)


def test_a_release_that_is_none() -> None:
    policy = Policy.model_validate(
        {"requires": [{"devices": "a", "models": "b", "suites": "c", "modes": "eager"}], "vllm": ">=0.30"}
    )
    assert policy.speaks_of("0.31.dev1+cpu")
    assert not policy.speaks_of("0.29")
    assert not policy.speaks_of("main")


def test_no_text_of_a_release_ends_in_an_error() -> None:
    policy = Policy.model_validate(
        {"requires": [{"devices": "a", "models": "b", "suites": "c", "modes": "eager"}], "vllm": ">=0.30"}
    )
    for text in ("9" * 4_301, "0.31+" + "9" * 5_000, "", "main", "\udce9", "1" * 10**6, "٣"):
        assert not policy.accepts(text)
    assert parse_release("0.33.0+cu128") is not None


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("allow_prereleases: 1", "allow_prereleases: must be true or"),
        ("allow_prerelease: true", "Did you mean"),
    ],
)
def test_flag_for_prereleases_is_spelled_out(tmp_path: Path, text: str, why: str) -> None:
    assert not load(tmp_path, GOOD).allow_prereleases
    assert load(tmp_path, f"{GOOD}allow_prereleases: true\n").allow_prereleases
    with pytest.raises(SpecError, match=why):
        load(tmp_path, f"{GOOD}{text}\n")
