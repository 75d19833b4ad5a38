"""The list of operators, and which of them are judged where."""

from __future__ import annotations

import pytest

from bi_harness.engine.ops.base import Missing, Op, Setting, find
from bi_harness.engine.ops.table import OPS, families, op
from bi_harness.spec.load import Spec

SETTING = Setting("cpu", 0, {}, "bfloat16")


def test_each_has_a_name_of_its_own() -> None:
    names = [o.name for o in OPS]
    assert len(set(names)) == len(names)
    assert op("rms_norm").family == "norm"
    with pytest.raises(KeyError):
        op("none-such")


def test_each_family_is_a_check_and_each_check_a_family(spec: Spec) -> None:
    assert set(families()) == {check.id for check in spec.suites["ops"].checks}


def test_each_family_has_something_that_is_judged_on_each_device() -> None:
    for family in families():
        for device in ("cpu", "cuda"):
            mine = [o for o in OPS if o.family == family]
            assert any(o.judged(device, "bfloat16", "bfloat16") or o.dtypes == ("float32",) for o in mine)


def test_what_engines_of_a_model_have_is_judged_in_its_dtype_alone() -> None:
    norm = op("fused_add_rms_norm")
    assert norm.judged("cuda", "bfloat16", "bfloat16")
    assert not norm.judged("cuda", "float16", "bfloat16")
    # Its sum is float32's, and shows there in every row.
    assert norm.judged("cuda", "float32", "bfloat16")
    assert norm.judged("cpu", "float32", "float32")
    # Logits are float32 whatever the model's dtype.
    assert op("log_softmax").judged("cuda", "float32", "bfloat16")
    assert op("attention_decode").judged("cuda", "bfloat16", "bfloat16")


def test_what_no_eager_engine_calls_is_told() -> None:
    assert not op("rms_norm_static_fp8").judged("cuda", "bfloat16", "bfloat16")
    # torch's products are replaced by vLLM's mode on GPUs, and by nothing on a CPU.
    assert op("torch_mm").judged("cuda", "bfloat16", "bfloat16")
    assert not op("torch_mm").judged("cpu", "bfloat16", "bfloat16")


def test_the_first_name_that_there_is_is_taken() -> None:
    found, where = find("no.such.module:thing", "json:none_such", "json:dumps")
    assert found({}) == "{}"
    assert where == "json.dumps"


def test_what_is_not_there_is_missing_with_the_names_that_were_looked_for() -> None:
    with pytest.raises(Missing, match=r"no json\.none_such or no\.such\.module\.x"):
        find("json:none_such", "no.such.module:x")


def test_a_single_rank_has_no_all_reduce() -> None:
    found: Op = op("all_reduce")
    with pytest.raises(Missing, match="one rank"):
        found.make(SETTING)
