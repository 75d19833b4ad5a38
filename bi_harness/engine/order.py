"""What a process that was forked with vLLM imported is to do. Both sides: standard library alone."""

from __future__ import annotations

from typing import NamedTuple


class Order(NamedTuple):
    """What a forked process is to do.

    Attributes:
        argv: its arguments.
        files: open files for it, in the order in which they were sent.
        asked: when it was asked for, by ``time.monotonic``.
        parent: the process that forked it.
    """

    argv: list[str]
    files: list[int]
    asked: float
    parent: int
