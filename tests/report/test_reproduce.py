from __future__ import annotations

import shlex

from bi_harness.report.facts import device_id, device_label, vllm_version
from bi_harness.report.reproduce import reproduce_command

from . import samples


def test_the_command_selects_the_cell_and_repeats_the_workload() -> None:
    statement = samples.mixed()
    check = statement.predicate.bi_harness.checks[0]
    assert reproduce_command(statement, check) == (
        "bi-harness run --device h200 --model qwen3-1.7b --suite batch_invariance --backend FLASH_ATTN"
        " --mode eager --profile release --weights named --layers 2 --seed 1 -k bs1_vs_bsN"
    )


def test_hostile_names_stay_one_word_each() -> None:
    statement = samples.hostile()
    for check in statement.predicate.bi_harness.checks:
        # shlex takes a minute to split a megabyte.
        check = check.model_copy(update={"cell": check.cell[:5_000], "check": check.check[:5_000]})
        words = shlex.split(reproduce_command(statement, check))
        assert words[:3] == ["bi-harness", "run", "--device"]
        assert words[-2:] == ["-k", check.check]


def test_an_ill_formed_cell_is_selected_by_its_check_alone() -> None:
    statement = samples.statement("NOT_CERTIFIED", (samples.check("odd", "needle", "fail"),))
    command = reproduce_command(statement, statement.predicate.bi_harness.checks[0])
    assert "--model" not in command
    assert command.startswith("bi-harness run --device h200 --profile nightly")


def test_facts_survive_their_absence() -> None:
    assert vllm_version(samples.empty()) == "unknown"
    assert device_id(samples.empty()) == "unknown"
    for provenance in ({"vllm": "0.26.0"}, {"packages": {"vllm": "0.26.0"}}, {"vllm": {"version": "0.26.0"}}):
        assert vllm_version(samples.statement("CERTIFIED", (), provenance=provenance)) == "0.26.0"
    for provenance in ({"vllm": None}, {"vllm": {"version": 3}}, {"packages": "none"}):
        assert vllm_version(samples.statement("CERTIFIED", (), provenance=provenance)) == "unknown"


def test_the_device_is_named_from_whatever_the_host_said() -> None:
    gpus = [{"name": "NVIDIA H200"}, {"name": "NVIDIA H200"}, {"index": 2}]
    for device, label in (
        ({"id": "h200", "name": "NVIDIA H200"}, "h200 (NVIDIA H200)"),
        ({"id": "h200", "gpus": gpus, "cpu_model": "EPYC"}, "h200 (2 × NVIDIA H200)"),
        ({"id": "cpu", "gpus": [], "cpu_model": "EPYC"}, "cpu (EPYC)"),
        ({"id": "cpu", "host": {"cpu_model": "EPYC"}}, "cpu (EPYC)"),
        ({"id": "cpu", "host": "x", "gpus": 3}, "cpu"),
    ):
        assert device_label(samples.statement("CERTIFIED", (), device=device)) == label
