"""A real run that was signed: it verifies, nothing of it can be changed, and the gate opens for it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from bi_harness.certificate.files import ENVELOPE, FILES_ENVELOPE
from bi_harness.cli import main as cli
from tests.e2e.real import REPORTS, Harness, Ran

pytestmark = [pytest.mark.engine, pytest.mark.long]

POLICY = """\
requires:
  - {devices: cpu, models: qwen3-tiny-fp32, suites: batch_invariance, modes: eager, backends: CPU_ATTN}
vllm: "VLLM"
keys: key.pem.pub
max_age_days: 1
min_steps: 100
require_journal: true
allow_dirty: true
"""


def test_it_verifies(small: Ran, harness: Harness) -> None:
    assert cli.main(["verify", str(small.folder), "--key", str(harness.root / "key.pem.pub")]) == 0


@pytest.mark.parametrize("name", [*REPORTS, "events.jsonl", ENVELOPE, FILES_ENVELOPE, "logs"])
def test_a_changed_byte_is_found(small: Ran, harness: Harness, tmp_path: Path, name: str) -> None:
    copy = shutil.copytree(small.folder, tmp_path / "run")
    path = min((copy / "logs").iterdir()) if name == "logs" else copy / name
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 1
    path.write_bytes(data)
    assert cli.main(["verify", str(copy), "--key", str(harness.root / "key.pem.pub")]) == 1


def test_the_gate_opens_for_it_and_for_no_other_vllm(small: Ran, harness: Harness) -> None:
    version = small.ours["provenance"]["vllm"]["version"]
    policy = harness.root / "release.yaml"
    for asked, code in ((f"=={version}", 0), (f"!={version}", 1)):
        policy.write_text(POLICY.replace("VLLM", asked))
        assert cli.main(["gate", "--policy", str(policy), str(small.out)]) == code


def test_it_names_what_ran(small: Ran) -> None:
    told = small.ours["provenance"]
    assert told["wheels"]["torch"].startswith("sha256:")
    assert told["wheels"][told["vllm"]["distribution"]] == f"sha256:{told['vllm']['record_sha256']}"
    assert told["digests"].keys() >= {"models.yaml", "hardware.yaml", "suites/batch_invariance/suite.yaml"}
    assert "driver" in small.ours["device"]["host"]
