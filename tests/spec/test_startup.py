"""``expected.yaml``: what is accepted, what each mistake says, and what a comparison means."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bi_harness.errors import SpecError
from bi_harness.spec.load import Spec, default_paths, load_spec
from bi_harness.spec.startup import NEVER_WARM, meets
from tests.spec.small import Files

GOOD = """\
expectations:
  one:
    vllm: ">=0.32,<0.33"
    torch: ">=2.13"
    kind: cpu
    models: [tiny]
    source: measured
    cold: {num_aot_compiles: 1, unique_graphs: "<= layers / 2"}
    warm: {num_aot_artifacts_loaded: "> 0"}
exceptions:
  known:
    kind: cpu
    warm: {num_aot_compiles: 1}
    loads_nothing: true
    reason: It fails to load.
    source: vLLM
    until: "2027-06-30"
"""


def load_with(files: Files, text: str) -> Spec:
    path = files.root / "suites" / "core" / "expected.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return files.load()


def test_a_good_file_is_part_of_the_spec_and_of_its_digests(files: Files) -> None:
    spec = load_with(files, GOOD)
    entry = spec.startup["core"].expectations["one"]
    assert (entry.id, entry.cold["num_aot_compiles"], entry.models) == ("one", 1, ("tiny",))
    assert spec.startup["core"].exceptions["known"].warm == {"num_aot_compiles": 1}
    assert spec.digests["suites/core/expected.yaml"].startswith("sha256:")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            "num_aot_compiles: 1, unique",
            "num_aot_compiles: -1, unique",
            "expected.yaml:8: expectations.one.cold",
        ),
        ('"<= layers / 2"', '"about 3"', 'a comparison such as "<= 3"'),
        ('"<= layers / 2"', '"<= layers / 0"', "must be a whole number, or a comparison"),
        ("num_aot_compiles: 1, unique", "NumAot: 1, unique", "NumAot"),
        ("models: [tiny]", "models: [tniy]", 'there is no model "tniy". Did you mean "tiny"?'),
        ("    source: measured\n", "", 'required key "source" is missing'),
        (
            'vllm: ">=0.32,<0.33"',
            "vllm: newest",
            "expected.yaml:3: expectations.one.vllm: not a version range",
        ),
        ("kind: cpu\n    models", "kind: tpu\n    models", "is not one of cpu, cuda"),
        (
            "warm: {num_aot_artifacts_loaded",
            "warm: {num_aot_compiles: 1, x",
            "a warm start has no num_aot_compiles",
        ),
        ("warm: {num_aot_artifacts_loaded: ", "warm: {kernels_built: ", "a warm start has no kernels_built"),
        ('until: "2027-06-30"', 'until: "June"', "not a date; write one like 2026-12-31"),
        ('until: "2027-06-30"', 'until: "2027-02-30"', "not a date"),
        ('    until: "2027-06-30"\n', "", 'required key "until" is missing'),
        ("    reason: It fails to load.\n", "", 'required key "reason" is missing'),
        ("warm: {num_aot_compiles: 1}", "warm: {num_models_seen: 1}", "num_models_seen needs no exception"),
        ("warm: {num_aot_compiles: 1}", 'warm: {num_aot_compiles: "> 9"}', 'an upper bound such as "<= 30"'),
        ("warm: {num_aot_compiles: 1}", 'warm: {num_aot_compiles: "few"}', "must be a whole number"),
        ("    loads_nothing: true", "    loads_nothing: maybe", "must be true or false"),
        ("exceptions:", "exeptions:", 'unknown key "exeptions"'),
    ],
)
def test_a_mistake_is_told_with_its_place(files: Files, old: str, new: str, said: str) -> None:
    assert GOOD.count(old) == 1, old
    with pytest.raises(SpecError) as caught:
        load_with(files, GOOD.replace(old, new))
    assert said in str(caught.value)
    assert "expected.yaml:" in str(caught.value)


def test_an_entry_that_says_nothing_is_refused(files: Files) -> None:
    with pytest.raises(SpecError, match="expects nothing"):
        load_with(files, "expectations: {one: {kind: cpu, source: me}}")
    with pytest.raises(SpecError, match="lets nothing pass"):
        load_with(files, 'exceptions: {one: {kind: cpu, source: me, reason: so, until: "2027-01-01"}}')


@given(found=st.integers(0, 500), layers=st.integers(1, 200), divisor=st.integers(1, 9))
def test_a_share_of_the_layers_is_not_rounded(found: int, layers: int, divisor: int) -> None:
    assert meets(found, f"<= layers / {divisor}", layers) == (found <= layers / divisor)
    assert meets(found, f"> layers/{divisor}", layers) == (found > layers / divisor)


@pytest.mark.parametrize(
    ("comparison", "right"),
    [
        ("< 3", {0, 1, 2}),
        ("<= 3", {0, 1, 2, 3}),
        ("== 3", {3}),
        ("!= 3", {0, 1, 2, 4}),
        ("> 3", {4}),
        (">= 3", {3, 4}),
    ],
)
def test_comparisons(comparison: str, right: set[int]) -> None:
    assert {n for n in range(5) if meets(n, comparison, 8)} == right


def test_what_is_shipped_speaks_of_models_of_the_suite_and_bounds_the_kernels_that_are_built() -> None:
    paths = default_paths(environ={})
    spec = load_spec(paths.models, paths.hardware, paths.suites)
    file = spec.startup["compile_startup"]
    for entry in (*file.expectations.values(), *file.exceptions.values()):
        for model in entry.models or ():
            assert "compile_startup" in spec.models[model].suites
    let = {name: e.warm["kernels_built"] for name, e in file.exceptions.items() if "kernels_built" in e.warm}
    assert let == {"cuda-triton-keys": "<= 40"}
    assert file.exceptions["cuda-triton-keys"].kind == "cuda"
    assert "kernels_built" in NEVER_WARM
