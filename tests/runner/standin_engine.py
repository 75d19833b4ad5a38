"""A stand-in engine for checks of a stand-in suite: asked for at the run, and forked there."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from bi_harness.engine.client import EngineClient
from bi_harness.engine.config import EngineConfig
from bi_harness.engine.preloaded import Preload
from bi_harness.errors import EngineDied

FAKE = Path(__file__).parents[1] / "engine" / "fake_forkserver.py"


def a_forked_engine(seconds: float = 0.5) -> None:
    """Have one for so long, in the process of a unit.

    Raises:
        EngineError: it did not start, or did not live.
    """
    unit: Any = json.loads(Path(sys.argv[sys.argv.index("--bi-unit-file") + 1]).read_text(encoding="utf-8"))
    folder = Path(unit["folder"])
    python = folder / "python"
    python.write_text(f'#!/bin/sh\nshift 2\nexec "{sys.executable}" "{FAKE}" "$@"\n')
    python.chmod(0o755)
    fields: dict[str, Any] = dict.fromkeys(EngineConfig.__dataclass_fields__)
    packages = [p for p in sys.path if "site-packages" in p]
    fields |= {"arm": "treatment", "python": str(python), "platform": "cpu", "llm": {"model": "m"}}
    fields["env"] = {**os.environ, "BI_HARNESS_HOW": "worker", "PYTHONPATH": os.pathsep.join(packages)}
    log = Path(unit["logs"]) / "engine.log"
    with EngineClient(
        EngineConfig(**fields), folder / "engine", log, Preload(Path(unit["preload"]))
    ) as engine:
        engine.spawn()
        if not engine.wait_ready(60).preloaded:
            raise EngineDied("it was not forked: see its log")  # Its server was killed.
        for _ in range(5):
            time.sleep(seconds / 5)
            engine.startup(timeout_s=10)
