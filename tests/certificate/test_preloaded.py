"""That an engine was forked from a process with vLLM imported is told where it was; nothing else changes."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from bi_harness.certificate.statement import EffectiveArm


def arm(**more: object) -> EffectiveArm:
    return EffectiveArm(unit="u", arm="treatment", config={}, start_s=1.0, **more)  # type: ignore[arg-type]


def test_certificates_without_it_stay_what_they_are() -> None:
    assert json.loads(arm().model_dump_json()) == {
        "unit": "u",
        "arm": "treatment",
        "config": {},
        "start_s": 1.0,
        "engine": "",
    }


def test_it_is_told_and_read_back() -> None:
    told = arm(preloaded=True).model_dump_json()
    assert json.loads(told)["preloaded"] is True
    assert EffectiveArm.model_validate_json(told) == arm(preloaded=True)


@pytest.mark.parametrize("value", [False, "yes", 0, {}])
def test_it_is_said_in_one_way(value: object) -> None:
    with pytest.raises(ValidationError):
        EffectiveArm.model_validate_json(
            json.dumps({**json.loads(arm().model_dump_json()), "preloaded": value})
        )
