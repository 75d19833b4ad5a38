"""The Buildkite job that this process may be part of, and ``buildkite-agent annotate``."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

AGENT = "buildkite-agent"

TIMEOUT_S = 60.0
"""For one annotation. The agent tries again by itself within it."""

HURRIED_S = 5.0
"""The same for a job that is being cancelled: Buildkite kills it some ten seconds later."""


@dataclass(frozen=True, slots=True)
class Job:
    """A Buildkite job.

    Attributes:
        agent: path of ``buildkite-agent``; ``None`` where it cannot be found (in a container, say).
        shard: the job's number from 1 and how many there are, where its step has several.
    """

    agent: str | None
    shard: tuple[int, int] | None = None


def job(environ: Mapping[str, str]) -> Job | None:
    """The job that these variables are of; ``None`` outside of Buildkite."""
    if environ.get("BUILDKITE") != "true":
        return None
    path = os.pathsep.join(
        part for part in (environ.get("PATH", os.defpath), environ.get("BUILDKITE_BIN_PATH", "")) if part
    )
    return Job(shutil.which(AGENT, path=path), _shard(environ))


def _shard(environ: Mapping[str, str]) -> tuple[int, int] | None:
    try:
        index = int(environ["BUILDKITE_PARALLEL_JOB"])
        count = int(environ["BUILDKITE_PARALLEL_JOB_COUNT"])
    except (KeyError, ValueError):
        return None
    return (index + 1, count) if 0 <= index < count else None


def annotate(agent: str, body: str, *, context: str, style: str, timeout_s: float = TIMEOUT_S) -> str:
    """Put an annotation on the build's page; returns what went wrong, empty for nothing.

    Args:
        agent: path of ``buildkite-agent``.
        body: Markdown, by way of stdin: an argument may not be so long.
        context: its name; an earlier one of that name is replaced.
        style: of the annotation.
        timeout_s: until the agent, and all that it started, is ended.
    """
    # Files in place of pipes: what the agent may leave behind holds no end of them that is waited for.
    with tempfile.TemporaryFile() as stdin, tempfile.TemporaryFile() as said:
        stdin.write(body.encode("utf-8", "replace"))
        stdin.seek(0)
        try:
            child = subprocess.Popen(
                [agent, "annotate", "--context", context, "--style", style],
                stdin=stdin,
                stdout=said,
                stderr=said,
                start_new_session=True,
            )
        except OSError as error:
            return f"{Path(agent).name} cannot be started: {error.strerror or error}"
        try:
            code = child.wait(timeout_s)
        except BaseException as error:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            if isinstance(error, subprocess.TimeoutExpired):
                return f"{Path(agent).name} annotate took more than {timeout_s:g} s"
            raise
        if code == 0:
            return ""
        said.seek(0)
        last = said.read(100_000).decode("utf-8", "replace").strip().splitlines()[-1:]
        return (
            f"{Path(agent).name} annotate ended with {code}: {last[0][:300] if last else 'it said nothing'}"
        )
