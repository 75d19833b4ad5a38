"""The exit codes of every command; the one place that gives them numbers."""

from enum import IntEnum


class ExitCode(IntEnum):
    """What a shell, a Buildkite step or a release gate learns from a command.

    A retry is right after ``INFRASTRUCTURE`` alone. It is never right after ``NOT_CERTIFIED``: a second
    run that happens to agree does not undo the first one's difference.
    """

    CERTIFIED = 0
    NOT_CERTIFIED = 1
    INTERRUPTED = 2
    INTERNAL = 3
    USAGE = 4
    NOTHING_TO_RUN = 5
    INCONCLUSIVE = 6
    INFRASTRUCTURE = 75


OK = ExitCode.CERTIFIED
"""Success of a command that certifies nothing (``plan``, ``doctor``, ``model make``)."""
