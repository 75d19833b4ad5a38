"""The executors: this host, and (an extra) a Ray cluster."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace

from bi_harness.certificate.events import Event
from bi_harness.device.detect import detect
from bi_harness.device.engine_probe import probe_engine
from bi_harness.device.match import DeviceLike, match_device
from bi_harness.runner.execution import Executor, Job, Surroundings
from bi_harness.runner.local import UnitTask, run_unit
from bi_harness.runner.localizing import FirstFailure, localize_failure, localized
from bi_harness.runner.needs import host_free, how_many, shares, to_localize
from bi_harness.runner.side_by_side import Place, Turn, side_by_side

LOCAL, RAY = "local", "ray"


def executor_named(name: str) -> Executor:
    """The executor of that name. Ray is imported for its own alone.

    Raises:
        UsageError: what it needs is not installed.
        ValueError: there is none of that name.
    """
    if name == LOCAL:
        return LocalExecutor()
    if name == RAY:
        from bi_harness.runner.on_ray.executor import RayExecutor

        return RayExecutor()
    raise ValueError(f"no executor {name}")


class LocalExecutor:
    """Units on this host, each a process of its own."""

    def find(self, device: str, devices: Mapping[str, DeviceLike], python: str | None) -> Surroundings:
        """See ``Executor``."""
        host = detect()
        found = match_device(device, devices, host)
        gpus = len(host.gpus) if devices[found].kind == "cuda" else None
        return Surroundings(found, host, probe_engine(python), gpus)

    def run(
        self,
        job: Job,
        task: Callable[[str], UnitTask],
        emit: Callable[[Event], None],
        stopped: Callable[[], bool],
    ) -> None:
        """See ``Executor``."""
        jobs = how_many(job.jobs, job.host, job.kind)
        cores = shares(sorted(os.sched_getaffinity(0)), jobs) if job.kind == "cpu" and jobs > 1 else ()

        def run_one(unit: str, place: Place, turn: Turn) -> None:
            ready = task(unit)
            environ = dict(job.environ)
            if cores:
                ready = replace(ready, context=replace(ready.context, cores=cores[place[0]]))
            elif len(job.host.gpus) > len(place) > 0:
                environ["CUDA_VISIBLE_DEVICES"] = ",".join(job.host.gpus[gpu].uuid for gpu in place)
            first = FirstFailure(emit)
            run_unit(ready, first, environ, stopped=turn)
            if job.localize and first.result is not None and not turn():
                turn.takes(to_localize(job.needs[unit]))
                emit(localized(localize_failure(ready, first.result, environ, stopped=turn)))

        side_by_side(job.needs, host_free(job.host, job.kind, jobs), jobs, run_one, stopped)

    def close(self) -> None:
        """Nothing to leave."""
