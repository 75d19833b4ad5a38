"""A stand-in for Buildkite: an agent's command that records its calls, and a server that runs a pipeline.

The agent does of `buildkite-agent` what steps use: `pipeline upload` (replaces variables by the grammar of
github.com/buildkite/interpolate, checks Buildkite's schema), `annotate` (up to 1 MiB), `artifact download`.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

AGENT = r"""#!{python}
import fnmatch, json, os, pathlib, re, shutil, sys, time
home = pathlib.Path(os.environ.get("STANDIN_HOME", {home!r}))
argv = sys.argv[1:]
reads = argv[:1] == ["annotate"] or argv == ["pipeline", "upload"]
stdin = sys.stdin.buffer.read() if reads else b""
call = dict(argv=argv, stdin=stdin.decode("utf-8", "surrogateescape"),
            env={{k: v for k, v in os.environ.items() if k.startswith(("BUILDKITE", "BI_HARNESS"))}})
number = len(list((home / "calls").glob("*.json")))
(home / "calls" / f"{{number:04d}}-{{os.getpid()}}.json").write_text(json.dumps(call))
settings = json.loads((home / "settings.json").read_text())
if settings.get("hangs"):
    if os.fork() == 0:
        time.sleep(600)
    time.sleep(600)
if settings.get("code"):
    print("fatal: " + settings.get("says", "refused"), file=sys.stderr)
    sys.exit(settings["code"])


def interpolated(text):
    out, at = [], 0
    while at < len(text):
        two = text[at:at + 2]
        if two == "\\\\":
            out.append("\\\\"); at += 2
        elif two in ("\\$", "$$"):
            out.append("$"); at += 2
        elif two == "$(":
            out.append("$("); at += 2
        elif text[at] == "$" and at < len(text) - 1:
            found = re.match(r"\$(?:([A-Za-z]\w*)|\{{([A-Za-z]\w*)\}})", text[at:])
            if not found:
                sys.exit(f"fatal: cannot parse {{text[at:at+20]!r}}")
            out.append(os.environ.get(found[1] or found[2], "")); at += found.end()
        else:
            out.append(text[at]); at += 1
    return "".join(out)


def walk(value):
    if isinstance(value, str):
        return interpolated(value)
    if isinstance(value, list):
        return [walk(one) for one in value]
    if isinstance(value, dict):
        return {{interpolated(k): walk(v) for k, v in value.items()}}
    return value


if argv[:2] == ["pipeline", "upload"]:
    import importlib.resources, jsonschema, yaml
    text = pathlib.Path(argv[2]).read_bytes() if len(argv) > 2 else stdin
    if not text.strip():
        sys.exit("fatal: no pipeline on stdin")
    found = walk(yaml.safe_load(text))
    schema = json.loads(importlib.resources.files("buildkite_sdk").joinpath("schema.json").read_text())
    jsonschema.validate(found, schema, cls=jsonschema.Draft7Validator)
    uploaded = home / "uploaded"
    uploaded.mkdir(exist_ok=True)
    (uploaded / f"{{len(list(uploaded.iterdir())):04d}}.json").write_text(json.dumps(found))
elif argv[:1] == ["annotate"]:
    if len(stdin) >= 2**20:
        sys.exit("fatal: annotation body must be less than 1 MiB")
elif argv[:2] == ["artifact", "download"]:
    query, dest, flag, step = argv[2:]
    assert flag == "--step"
    store = home / "artifacts" / step
    there = store.rglob("*") if store.is_dir() else ()
    names = [p.relative_to(store).as_posix() for p in there if p.is_file()]
    names = [n for n in names if fnmatch.fnmatchcase(n, query.replace("**/*", "*"))]
    if not names:
        sys.exit("fatal: no artifacts found for downloading")
    for n in names:
        (pathlib.Path(dest) / n).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(store / n, pathlib.Path(dest) / n)
else:
    sys.exit(f"fatal: no such command: {{argv}}")
"""


@dataclass(frozen=True)
class Agent:
    """The stand-in in a folder: put ``bin`` in PATH."""

    home: Path

    @property
    def bin(self) -> Path:
        return self.home / "bin"

    @classmethod
    def install(cls, home: Path) -> Agent:
        made = cls(home)
        made.bin.mkdir(parents=True)
        (home / "calls").mkdir()
        made.behave()
        script = made.bin / "buildkite-agent"
        script.write_text(AGENT.format(python=sys.executable, home=str(home)))
        script.chmod(0o755)
        return made

    def behave(self, **settings: Any) -> None:
        """``code`` and ``says``: fail; ``hangs``: never end."""
        (self.home / "settings.json").write_text(json.dumps(settings))

    def calls(self, *command: str) -> list[dict[str, Any]]:
        found = [json.loads(path.read_text()) for path in sorted((self.home / "calls").iterdir())]
        return [call for call in found if tuple(call["argv"][: len(command)]) == command]

    def uploaded(self) -> list[dict[str, Any]]:
        return [json.loads(path.read_text()) for path in sorted((self.home / "uploaded").iterdir())]

    def environment(self, **more: str) -> dict[str, str]:
        path = f"{self.bin}{os.pathsep}{os.environ['PATH']}"
        return {"BUILDKITE": "true", "PATH": path, **more}


@dataclass
class Job:
    """What became of one job."""

    step: str
    index: int
    attempts: list[int] = field(default_factory=list)
    output: str = ""

    @property
    def code(self) -> int:
        return self.attempts[-1]


@dataclass
class Build:
    """Runs the steps of a pipeline as Buildkite would: in the order of what they depend on, one by one.

    ``environ`` is of the agents. Each job works in a checkout of its own, empty but for ``checkout``.
    """

    agent: Agent
    root: Path
    environ: Mapping[str, str]
    checkout: Path | None = None
    jobs: list[Job] = field(default_factory=list)

    def run(self, pipeline: Mapping[str, Any]) -> Build:
        steps = [inner for step in pipeline["steps"] for inner in step.get("steps", [step])]
        left = {step["key"]: step for step in steps}
        assert len(left) == len(steps), "two steps have one key"
        done: dict[str, bool] = {}
        while left:
            ready = [
                step
                for step in left.values()
                if all(needed["step"] in done for needed in step.get("depends_on", ()))
            ]
            assert ready, f"steps wait for each other, or for what is not there: {sorted(left)}"
            for step in ready:
                del left[step["key"]]
                if all(done[n["step"]] or n["allow_failure"] for n in step.get("depends_on", ())):
                    done[step["key"]] = self._step(step)
                else:
                    done[step["key"]] = False
        return self

    def of(self, key: str) -> list[Job]:
        return [job for job in self.jobs if job.step == key]

    @property
    def green(self) -> bool:
        return all(job.code == 0 for job in self.jobs)

    def _step(self, step: Mapping[str, Any]) -> bool:
        count = step.get("parallelism", 1)
        jobs = [self._job(step, index, count) for index in range(count)]
        return all(job.code == 0 for job in jobs)

    def _job(self, step: Mapping[str, Any], index: int, count: int) -> Job:
        job = Job(step["key"], index)
        self.jobs.append(job)
        limits = {rule["exit_status"]: rule["limit"] for rule in step["retry"]["automatic"]}
        while True:
            place = self.root / f"{len(self.jobs):03d}-{step['key']}-{index}-{len(job.attempts)}"
            shutil.copytree(self.checkout, place) if self.checkout else place.mkdir(parents=True)
            env = {**os.environ, **self.environ, **self.agent.environment(BUILDKITE_LABEL=step["label"])}
            env["PATH"] = f"{self.agent.bin}{os.pathsep}{self.environ.get('PATH', os.environ['PATH'])}"
            if "parallelism" in step:
                env |= {"BUILDKITE_PARALLEL_JOB": str(index), "BUILDKITE_PARALLEL_JOB_COUNT": str(count)}
            # As the agent's default shell does: /bin/bash -e -c.
            ran = subprocess.run(
                ["/bin/bash", "-e", "-c", "\n".join(step["commands"])],
                cwd=place,
                env=env,
                capture_output=True,
                text=True,
                timeout=300,
            )
            job.output += ran.stdout + ran.stderr
            job.attempts.append(ran.returncode)
            if len(job.attempts) <= limits.get(ran.returncode, 0):
                continue
            self._keep(step, place)
            return job

    def _keep(self, step: Mapping[str, Any], place: Path) -> None:
        """The artifacts of the last attempt: those of retried jobs are not downloaded."""
        for pattern in step.get("artifact_paths", ()):
            for path in place.glob(pattern):
                if path.is_file():
                    kept = self.agent.home / "artifacts" / step["key"] / path.relative_to(place)
                    kept.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(path, kept)
