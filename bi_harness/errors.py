"""Errors that a person can act on. Each knows the exit code that the command line ends with."""

from __future__ import annotations

from bi_harness.exits import ExitCode


class HarnessError(Exception):
    """Base of the errors whose message is written for the user: what was wrong, where, what to do."""

    exit_code: ExitCode = ExitCode.INTERNAL


class UsageError(HarnessError):
    """A flag, an argument, a path or a combination of them that cannot work."""

    exit_code = ExitCode.USAGE


class SpecError(UsageError):
    """``models.yaml``, ``hardware.yaml`` or a ``suite.yaml`` is not valid; the message has file:line."""


class WrongDevice(UsageError):
    """The device that was named is not the one in front of us."""


class NothingToRun(HarnessError):
    """The selection leaves no check to run. A run of nothing must never look like a pass."""

    exit_code = ExitCode.NOTHING_TO_RUN


class InfrastructureError(HarnessError):
    """The surroundings failed (disk, permissions in mid-run, a lost host), not what is being tested."""

    exit_code = ExitCode.INFRASTRUCTURE


class EngineError(HarnessError):
    """A vLLM engine died, hung, ran out of memory or refused its configuration."""


class EngineStartError(EngineError):
    """The engine never became ready."""


class EngineDied(EngineError):
    """The engine's process ended in the middle of its work."""


class EngineTimeout(EngineError):
    """The engine did not answer in time and was killed."""
