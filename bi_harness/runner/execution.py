"""What an executor is: where units run, and what is known of that place before they do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from bi_harness.certificate.events import Event
from bi_harness.device.engine_probe import EngineFacts
from bi_harness.device.facts import HostFacts
from bi_harness.device.match import DeviceLike
from bi_harness.runner.local import UnitTask
from bi_harness.runner.schedule import Need


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Where units will run.

    Attributes:
        device: the id that the place answers to.
        host: the host; of several alike, one of them.
        engine: what the interpreter with vLLM has there.
        gpus: of the host with the most of them, which is what one unit may have; ``None`` on a CPU.
        nodes: each host's facts where they are several, in JSON's types; empty for this host.
    """

    device: str
    host: HostFacts
    engine: EngineFacts
    gpus: int | None
    nodes: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class Job:
    """What is to run.

    Attributes:
        needs: what each unit takes, in the order of the plan.
        host: see ``Surroundings``.
        kind: ``cpu`` or ``cuda``.
        jobs: units at once, at most; ``None`` for as many as there is room for.
        environ: of the process that was asked.
        localize: whether the first failure of each unit is traced to where it begins. On this host alone.
    """

    needs: Mapping[str, Need]
    host: HostFacts
    kind: str
    jobs: int | None
    environ: Mapping[str, str]
    localize: bool = False


class Executor(Protocol):
    """Runs units somewhere, and passes on what they tell."""

    def find(self, device: str, devices: Mapping[str, DeviceLike], python: str | None) -> Surroundings:
        """Look at the place.

        Args:
            device: the id that was asked for, or ``auto``.
            devices: of ``hardware.yaml``.
            python: the interpreter that has vLLM; ``None`` for the one of bi-harness.

        Raises:
            WrongDevice: it is not that device.
            UsageError: it cannot be used as it is.
            InfrastructureError: it does not answer.
        """

    def run(
        self,
        job: Job,
        task: Callable[[str], UnitTask],
        emit: Callable[[Event], None],
        stopped: Callable[[], bool],
    ) -> None:
        """Run all units; those that wait are left out once it is stopped.

        Args:
            job: the units.
            task: makes one ready.
            emit: takes the events, one at a time.
            stopped: whether to stop; asked all the time.

        Raises:
            InfrastructureError: a unit could not be run to its end, for reasons that are not its own.
        """

    def close(self) -> None:
        """Leave the place."""
