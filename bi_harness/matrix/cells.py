"""Cells and units: the points of the matrix and what one engine start can serve.

Pure data; no torch, no vLLM, no I/O.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:  # pydantic's import takes a while, and every pytest loads this module
    from bi_harness.spec.types import Mode

CellStatus = Literal["run", "skip"]


def unit_key(device: str, model: str, backend: str, tp: int, dp: int, mode: Mode) -> str:
    """``h200/qwen3-1.7b/FLASH_ATTN/tp1-dp1/compile``: a cell's id without the suite."""
    return f"{device}/{model}/{backend}/tp{tp}-dp{dp}/{mode}"


@dataclass(frozen=True, slots=True)
class Cell:
    """One point of the matrix.

    Attributes:
        device: id in ``hardware.yaml``.
        model: id in ``models.yaml``.
        backend: vLLM's name of the attention backend (``FLASH_ATTN``, ``CPU_ATTN``, ...).
        tp: tensor parallel size.
        dp: data parallel size.
        mode: ``default``, ``compile`` or ``eager``.
        suite: folder under ``suites/``.
    """

    device: str
    model: str
    backend: str
    tp: int
    dp: int
    mode: Mode
    suite: str

    @property
    def id(self) -> str:
        """``h200/qwen3-1.7b/FLASH_ATTN/tp1-dp1/compile/batch_invariance``."""
        return f"{self.unit_key}/{self.suite}"

    @property
    def unit_key(self) -> str:
        """The id without the suite: cells that agree in it can share one engine start."""
        return unit_key(self.device, self.model, self.backend, self.tp, self.dp, self.mode)


@dataclass(frozen=True, slots=True)
class PlannedCell:
    """A cell with the decision taken on it.

    Attributes:
        cell: the point.
        unit: id of the unit that serves it: ``cell.unit_key``, or ``cell.id`` where the suite needs an
            engine of its own. Set for skipped cells too (where it would have run).
        status: ``run`` or ``skip``.
        rule: id of the rule that excluded it; ``None`` when it runs.
        reason: one sentence for a reader; empty when it runs.
        source: where the rule comes from (a pull request, a document); empty when it runs.
        same_as: for ``default``, the mode that it comes out as; ``None`` where that is not one of the
            others, or not known.
    """

    cell: Cell
    unit: str
    status: CellStatus
    rule: str | None = None
    reason: str = ""
    source: str = ""
    same_as: Mode | None = None


@dataclass(frozen=True, slots=True)
class Unit:
    """All the cells that one engine start can serve: what is scheduled, isolated and resumed.

    Attributes:
        id: the cells' common ``unit`` id.
        cells: the cells to run, in plan order; never empty.
        gpus: GPUs it needs (``tp * dp``; 0 on the CPU device).
    """

    id: str
    cells: tuple[Cell, ...]
    gpus: int


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run would do.

    Attributes:
        device: id in ``hardware.yaml``.
        vllm_version: the release that version-bound rules were decided for.
        profile: ``smoke``, ``nightly`` or ``release``.
        cells: every cell, run or skipped, in a stable order.
        units: the units, in a stable order.
        weights: ``named`` or ``synthetic``.
    """

    device: str
    vllm_version: str
    profile: str
    cells: tuple[PlannedCell, ...]
    units: tuple[Unit, ...]
    weights: str = "named"
