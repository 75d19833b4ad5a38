"""The pipeline of a fleet, by the shipped YAML and by hostile ones."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from bi_harness.buildkite.pipeline import (
    RETRIED,
    Built,
    DevicePlan,
    Options,
    as_json,
    as_yaml,
    build,
    schema,
)
from bi_harness.spec.load import Spec, load_spec
from bi_harness.spec.times import TimesFile
from tests.buildkite.plans import ROOT, plans
from tests.spec.small import Files

OPTIONS = Options(profile="nightly", policy="examples/release.yaml")


@pytest.fixture(scope="module")
def spec() -> Spec:
    return load_spec(ROOT / "models.yaml", ROOT / "hardware.yaml", ROOT / "suites")


@pytest.fixture(scope="module")
def nightly(spec: Spec) -> Built:
    return build(plans(spec), OPTIONS, TimesFile())


def steps(built: Built | Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    data = built.data if isinstance(built, Built) else built
    for step in data["steps"]:
        yield from step.get("steps", [step])


def keys(built: Built) -> set[str]:
    return {step["key"] for step in steps(built)} | {step["key"] for step in built.data["steps"]}


def texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from (text for pair in value.items() for one in pair for text in texts(one))
    elif isinstance(value, list):
        yield from (text for one in value for text in texts(one))


def test_each_device_has_shards_and_a_merge_and_all_have_a_gate(spec: Spec, nightly: Built) -> None:
    assert [step["key"] for step in nightly.data["steps"]] == [
        *(f"bi-harness-{device}-group" for device in spec.devices),
        "bi-harness-gate",
    ]
    by_key = {step["key"]: step for step in steps(nightly)}
    for device, place in spec.devices.items():
        shards, merge = by_key[f"bi-harness-{device}"], by_key[f"bi-harness-{device}-merge"]
        assert shards["agents"] == {"queue": place.queue}
        assert shards["parallelism"] > 1
        assert shards["artifact_paths"] == ["bi-harness-shards/**/*"]
        assert shards["commands"][-1] == (
            f"bi-harness run --device {device} --profile nightly --out bi-harness-shards"
        )
        assert "depends_on" not in shards
        assert merge["depends_on"] == [{"step": shards["key"], "allow_failure": True}]
        query = f"'bi-harness-shards/{device}/**/*'"
        assert merge["commands"][-2:] == [
            f"buildkite-agent artifact download {query} . --step bi-harness-{device} || exit 75",
            f"bi-harness merge bi-harness-shards/{device}/*/ --out bi-harness-reports",
        ]
    gate = by_key["bi-harness-gate"]
    assert [one["step"] for one in gate["depends_on"]] == [f"bi-harness-{d}-merge" for d in spec.devices]
    assert all(one["allow_failure"] for one in gate["depends_on"])
    assert gate["commands"][-1].startswith(
        "bi-harness gate --policy examples/release.yaml bi-harness-reports"
    )


def test_it_is_valid_by_buildkites_schema_as_yaml_and_as_json(nightly: Built) -> None:
    found = yaml.safe_load(as_yaml(nightly))
    assert found == json.loads(as_json(nightly)) == nightly.data
    jsonschema.validate(found, schema(), cls=jsonschema.Draft7Validator)
    # The schema is one that refuses: a step with a key that Buildkite does not know.
    broken = json.loads(as_json(nightly))
    broken["steps"][0]["steps"][0]["paralelism"] = 2
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(broken, schema(), cls=jsonschema.Draft7Validator)


def test_nothing_may_fail_softly_and_nothing_is_retried_after_a_verdict(nightly: Built) -> None:
    assert "soft_fail" not in as_json(nightly)
    for step in steps(nightly):
        retried = [rule["exit_status"] for rule in step["retry"]["automatic"]]
        assert sorted(retried) == sorted(RETRIED) == [-1, 75, 255]
        assert all(rule["limit"] == 2 and len(rule) == 2 for rule in step["retry"]["automatic"])
        assert step["timeout_in_minutes"] > 0
        runs = any(" run " in line for line in step["commands"])
        assert runs == ("manual" in step["retry"])
        if runs:
            assert step["retry"]["manual"]["allowed"] is False


def test_the_same_spec_gives_the_same_bytes(spec: Spec, nightly: Built) -> None:
    assert as_yaml(build(plans(spec), OPTIONS, TimesFile())) == as_yaml(nightly)


def test_times_decide_the_shards_and_their_limits(spec: Spec) -> None:
    [cpu] = [plan for plan in plans(spec, profile="smoke") if plan.device.id == "cpu"]
    options = Options(profile="smoke")
    cells = [planned.cell.id for planned in cpu.selection.plan.cells if planned.status == "run"]

    def all_take(seconds: float) -> Built:
        measured = [
            {
                "cell": cell,
                "profile": "smoke",
                "checks": dict.fromkeys(cpu.selection.checks[cell], seconds),
                "runs": ["r"],
            }
            for cell in cells
        ]
        return build([cpu], options, TimesFile.model_validate({"measured": measured}))

    short, long = all_take(1.0), all_take(1000.0)
    assert short.devices[0].sharding.shards == 1 < long.devices[0].sharding.shards
    assert short.devices[0].assumed == 0
    [step, _] = steps(short)
    assert "parallelism" not in step
    assert step["commands"][-1].endswith(" --shard 1/1")
    assert step["timeout_in_minutes"] < next(steps(long))["timeout_in_minutes"]
    assert "0 of an assumed one" in "\n".join(short.notes)


def test_a_device_without_a_cell_that_runs_has_no_step_and_is_named(spec: Spec) -> None:
    built = build(plans(spec, profile="nightly", models=["qwen3-tiny"]), OPTIONS, TimesFile())
    assert [one.device for one in built.devices] == ["cpu"]
    assert not any("h200" in key for key in keys(built))
    assert any(
        note.startswith("no step for h200: all ") and "(rules: devices)" in note for note in built.notes
    )
    assert "# no step for h200: " in as_yaml(built)


def test_one_machine_is_given_to_one_job_at_a_time(spec: Spec) -> None:
    found = plans(spec, models=["qwen3-1.7b"])
    one = [
        replace(plan, device=plan.device.model_copy(update={"hosts": 1, "agents": {"gpus": "8", "x": "$Y"}}))
        for plan in found
        if plan.device.id == "h200"
    ]
    step = next(steps(build(one, OPTIONS, TimesFile())))
    assert (step["concurrency"], step["concurrency_group"]) == (1, "bi-harness/h200")
    assert step["agents"] == {"queue": "h200", "gpus": "8", "x": "$$Y"}
    without = next(steps(build([plan for plan in found if plan.device.id == "h200"], OPTIONS, TimesFile())))
    assert "concurrency" not in without


def test_without_a_policy_or_with_a_part_alone_there_is_no_gate(spec: Spec) -> None:
    found = plans(spec, suites=["ops"])
    for built in (
        build(found, replace(OPTIONS, policy=None), TimesFile()),
        build(found, OPTIONS, TimesFile(), limited=True),
    ):
        assert "bi-harness-gate" not in keys(built)
        assert any(note.startswith("no gate: ") for note in built.notes)
    assert "--suite ops" in next(steps(built))["commands"][-1]


def test_a_pipeline_of_nothing_is_one_that_buildkite_takes() -> None:
    built = build([], OPTIONS, TimesFile(), ["nothing is touched"], limited=True)
    [step] = steps(built)
    assert step["commands"][0].startswith("echo ")
    assert as_yaml(built).count("# nothing is touched") == 1


def test_set_up_and_the_command_are_as_they_were_given(spec: Spec) -> None:
    options = replace(OPTIONS, set_up=("make setup", "export X=$HOME"), harness=("uv run", "bi harness"))
    for step in steps(build(plans(spec, models=["qwen3-tiny"]), options, TimesFile())):
        lines = step["commands"]
        assert "make setup" in lines
        assert "export X=$$HOME" in lines
        assert any(line.startswith("'uv run' 'bi harness' ") for line in lines)
    with pytest.raises(ValueError, match="backslash"):
        build(plans(spec, models=["qwen3-tiny"]), replace(options, set_up=("echo \\$X",)), TimesFile())


@given(
    st.lists(st.text(st.characters(exclude_characters="\0", codec="utf-8")), max_size=4),
    st.text(st.characters(exclude_characters="\0", codec="utf-8"), min_size=1),
    st.text(min_size=1, max_size=100),
)
@example(["0\x85", "\u2028", "ü", "\ufeff"], "0", "0\x85x")
def test_whatever_is_given_nothing_is_left_for_buildkite_to_replace(
    run: list[str], policy: str, note: str
) -> None:
    options = replace(OPTIONS, run=tuple(run), policy=policy)
    built = build(PLANS, options, TimesFile(), [note])
    assert yaml.safe_load(as_yaml(built)) == built.data
    for text in texts(built.data):
        # Pairs from the left, as Buildkite reads them; what is left over would be a variable.
        assert not re.search(r"\\\$", text)
        assert "$" not in text.replace("$$", "")


SMALL = load_spec(ROOT / "models.yaml", ROOT / "hardware.yaml", ROOT / "suites")
PLANS: list[DevicePlan] = plans(SMALL, profile="smoke", models=["qwen3-tiny"])


def test_hostile_devices_have_plain_keys(tmp_path: Path) -> None:
    files = Files(tmp_path)
    files.hardware = files.hardware.replace("  gpu:\n", "  g.p-u_1:\n")
    files.models = files.models.replace("[gpu]", "[g.p-u_1]")
    built = build(plans(files.load()), replace(OPTIONS, policy=None), TimesFile())
    assert all(re.fullmatch(r"[A-Za-z0-9_-]+", key) for key in keys(built))
    assert len(keys(built)) == len([*steps(built)]) + len(built.data["steps"])
