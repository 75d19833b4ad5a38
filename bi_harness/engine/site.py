"""A folder for the engine's PYTHONPATH that holds this package, its plugin's entry point, and nothing else.

The engine may live in another environment (``--engine-python``). It must see ``bi_harness``, and vLLM must
find the plugin, without anything else of the harness's environment shadowing the engine's own packages.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import bi_harness


def make_site(folder: Path) -> Path:
    """Write the folder (again) and return it.

    Raises:
        OSError: when it cannot be written.
    """
    info = folder / f"bi_harness-{bi_harness.__version__}.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: bi-harness\nVersion: {bi_harness.__version__}\n", encoding="utf-8"
    )
    (info / "entry_points.txt").write_text(
        "[vllm.general_plugins]\nbi_harness = bi_harness.invariance.plugin:register\n", encoding="utf-8"
    )
    link = folder / "bi_harness"
    if not link.is_symlink():
        link.symlink_to(Path(bi_harness.__file__).resolve().parent, target_is_directory=True)
    return folder


def with_site(environ: Mapping[str, str], folder: Path) -> dict[str, str]:
    """An environment with such a folder in front of what ``PYTHONPATH`` has.

    Raises:
        OSError: when it cannot be written.
    """
    return on_path(environ, make_site(folder))


def on_path(environ: Mapping[str, str], site: Path) -> dict[str, str]:
    """The same with a folder that is there: nothing is written while others may read it."""
    inherited = environ.get("PYTHONPATH")
    return {**environ, "PYTHONPATH": f"{site}{os.pathsep}{inherited}" if inherited else str(site)}
