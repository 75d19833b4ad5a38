"""What travels to a node."""

from __future__ import annotations

from pathlib import Path

import pytest

from bi_harness.errors import UsageError
from bi_harness.runner.on_ray import parcel
from bi_harness.runner.on_ray.parcel import inside, pack, telling, unit_environ, unpack
from bi_harness.runner.provenance import tree_digest
from bi_harness.spec.load import default_paths, load_spec

PATHS = default_paths(None, None, None)


def test_yaml_and_suites_arrive_as_they_were(tmp_path: Path) -> None:
    files = pack(PATHS.models, PATHS.hardware, PATHS.suites)
    unpack(files, tmp_path)
    there = load_spec(*(tmp_path / name for name in (parcel.MODELS, parcel.HARDWARE, parcel.SUITES)))
    here = load_spec(PATHS.models, PATHS.hardware, PATHS.suites)
    assert there.digests == here.digests
    assert tree_digest(tmp_path / parcel.SUITES) == tree_digest(PATHS.suites)
    assert not [name for name in files if "__pycache__" in name]


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/../../x", "", "a\0b"])
def test_a_name_stays_below_its_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="no name of a file"):
        unpack({name: b""}, tmp_path / "root")
    assert inside("logs/a.log").as_posix() == "logs/a.log"


def test_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parcel, "MAX_BYTES", 1000)
    with pytest.raises(UsageError, match="too large"):
        pack(PATHS.models, PATHS.hardware, PATHS.suites)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"missing\.yaml"):
        pack(tmp_path / "missing.yaml", PATHS.hardware, PATHS.suites)


def test_what_engines_read_is_as_it_is_where_the_run_was_started() -> None:
    here = {
        "VLLM_X": "here",
        "BI_HARNESS_PLANT_FAULT": "f",
        "BI_HARNESS_CACHE": "/here",
        "VLLM_API_KEY": "secret",
        "PATH": "/here",
        "CUDA_VISIBLE_DEVICES": "7",
    }
    assert telling(here) == {"VLLM_X": "here", "BI_HARNESS_PLANT_FAULT": "f"}
    there = {
        "VLLM_X": "there",
        "VLLM_Y": "there",
        "OMP_NUM_THREADS": "1",
        "RAY_JOB_ID": "1",
        "PYTHONBREAKPOINT": "ray.util.rpdb.set_trace",
        "BI_HARNESS_CACHE": "/there",
        "PATH": "/there",
        "CUDA_VISIBLE_DEVICES": "0",
        "HOME": "/root",
        "BI_HARNESS_PLANT_FAULT": "g",
    }
    assert unit_environ(there, telling(here)) == {
        "VLLM_X": "here",
        "BI_HARNESS_PLANT_FAULT": "f",
        "BI_HARNESS_CACHE": "/there",
        "PATH": "/there",
        "CUDA_VISIBLE_DEVICES": "0",
        "HOME": "/root",
    }
    assert "BI_HARNESS_PLANT_FAULT" not in unit_environ(there, {}), "no node plants a fault by itself"
