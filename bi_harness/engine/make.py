"""Making a synthetic checkpoint by hand, under the engine's interpreter."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from bi_harness.engine.config import checkpoint_spec
from bi_harness.engine.site import make_site
from bi_harness.errors import UsageError
from bi_harness.spec.models import ModelSpec


def make_checkpoint(
    model: ModelSpec, layers: int | None, out: Path, engine_python: str | None
) -> dict[str, str]:
    """Make the synthetic checkpoint of ``model`` in ``out``. Returns its record, with ``digest``.

    Raises:
        UsageError: when the folder is in the way, the interpreter lacks torch or transformers, or
            transformers refuses the configuration.
    """
    spec = checkpoint_spec(model, "synthetic", layers)
    with tempfile.TemporaryDirectory(prefix="bi-harness-") as name:
        folder = Path(name)
        spec_path = folder / "spec.json"
        spec_path.write_text(json.dumps(spec), encoding="utf-8")
        command = [engine_python or sys.executable, "-m", "bi_harness.workload.checkpoint"]
        try:
            done = subprocess.run(
                [*command, str(spec_path), str(out.absolute())],
                env={**os.environ, "PYTHONPATH": str(make_site(folder / "site")), "HF_HUB_OFFLINE": "1"},
                capture_output=True,
                text=True,
                stdin=subprocess.DEVNULL,
            )
        except OSError as error:
            raise UsageError(f"the engine's Python {command[0]} does not run: {error}") from error
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise UsageError(lines[-1] if lines else f"{command[0]} ended with {done.returncode}")
    try:
        record: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    except (ValueError, IndexError) as error:
        raise UsageError(f"{command[0]} does not answer as a Python with transformers would") from error
    return record
