"""What the process of a unit is told: a file that the runner writes and the pytest plugin reads."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bi_harness.errors import UsageError
from bi_harness.matrix.cells import Cell


@dataclass(frozen=True, slots=True)
class SelectedCell:
    """A cell and the checks to run on it."""

    cell: Cell
    checks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Context:
    """Everything that the checks of some cells need, in plain values.

    Attributes:
        device: id in ``hardware.yaml``.
        cells: what to run.
        profile, weights, layers, seed: see ``Scope``.
        engine_python: the interpreter that has vLLM.
        models, hardware, suites: where the spec is.
        spec_digests: of those files when the run began; the process refuses others.
        folder: for the engines' configuration, step logs and compile caches.
        logs: for the engines' logs.
        run_dir: the run's folder; logs are named relative to it.
        journal: the file that events are appended to.
        model_cache: folder of checkpoints made on the spot.
        vllm: the release of vLLM that the engines have; empty where it is not known.
        control: whether the control runs. Without it no check passes.
        endpoint: a running server that is the treatment; ``None`` for one that is started.
        control_endpoint: the same for the control.
        cores: the CPU cores that the unit and its engines keep to; empty for all.
        preload: the socket of ``runner.preload``; ``None`` where each engine imports vLLM by itself.
        caches: the folder of the unit whose compile caches the engines have; empty for ``folder``.
        shared: the folder of the caches that all engines share; empty for the run's own.
    """

    device: str
    cells: tuple[SelectedCell, ...]
    profile: str
    weights: str
    layers: int | None
    seed: int
    engine_python: str
    models: str
    hardware: str
    suites: str
    spec_digests: dict[str, str]
    folder: str
    logs: str
    run_dir: str
    journal: str
    model_cache: str
    vllm: str = ""
    control: bool = True
    endpoint: str | None = None
    control_endpoint: str | None = None
    cores: tuple[int, ...] = ()
    preload: str | None = None
    caches: str = ""
    shared: str = ""

    def write(self, path: Path) -> None:
        """As JSON."""
        path.write_text(json.dumps(asdict(self), indent=2), encoding="utf-8")

    @staticmethod
    def read(path: Path) -> Context:
        """The inverse of ``write``.

        Raises:
            UsageError: when the file is not one.
        """
        try:
            data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            cells = tuple(SelectedCell(Cell(**c["cell"]), tuple(c["checks"])) for c in data.pop("cells"))
            return Context(cells=cells, cores=tuple(data.pop("cores", ())), **data)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UsageError(f"{path} is not a unit's file: {error}") from error
