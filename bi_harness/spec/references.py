"""What no file can check alone: that the ids which one file names exist in the others."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, islice

from bi_harness.spec.errors import block
from bi_harness.spec.hardware import HardwareFile
from bi_harness.spec.models import ModelsFile
from bi_harness.spec.startup import StartupFile
from bi_harness.spec.suggest import did_you_mean, listed
from bi_harness.spec.suites import KNOWN_SUITES, SuiteSpec
from bi_harness.spec.types import Conditions
from bi_harness.spec.yamlsource import MAX_PROBLEMS, Route, YamlSource, shortened


def dangling(
    models: tuple[ModelsFile, YamlSource],
    hardware: tuple[HardwareFile, YamlSource],
    suites: Mapping[str, tuple[SuiteSpec, YamlSource]],
) -> list[str]:
    """One block for each reference that leads nowhere or contradicts; of very many the first."""
    check = _References(
        models=list(models[0].models),
        devices=list(hardware[0].devices),
        suites=[*suites, *(name for name in KNOWN_SUITES if name not in suites)],
        backends=sorted(
            {name for device in hardware[0].devices.values() for kind in device.backends for name in kind[1]}
        ),
    )
    found = chain(
        _of_models(check, *models),
        _of_rules(check, *hardware),
        _of_execution(check, *hardware),
        *(_of_suite(check, suite, source) for suite, source in suites.values()),
        _of_sharing(suites),
    )
    return list(islice(found, MAX_PROBLEMS))


def dangling_startup(
    models: tuple[ModelsFile, YamlSource], file: StartupFile, source: YamlSource
) -> list[str]:
    """One block for each model of an ``expected.yaml`` that there is not; of very many the first."""
    check = _References(models=list(models[0].models), devices=[], suites=[], backends=[])
    places = [
        *((("expectations", name, "models"), entry.models) for name, entry in file.expectations.items()),
        *((("exceptions", name, "models"), entry.models) for name, entry in file.exceptions.items()),
    ]
    found = chain.from_iterable(check.check(source, route, "model", models) for route, models in places)
    return list(islice(found, MAX_PROBLEMS))


class _References:
    def __init__(
        self, *, models: list[str], devices: list[str], suites: list[str], backends: list[str]
    ) -> None:
        self._valid = {"model": models, "device": devices, "suite": suites, "backend": backends}

    def check(
        self, source: YamlSource, route: Route, kind: str, names: Iterable[str] | None
    ) -> Iterator[str]:
        valid = self._valid[kind]
        for i, name in enumerate(names or ()):
            if name not in valid:
                near = did_you_mean(name, valid)
                what = f'there is no {kind} "{shortened(name)}".{near} There are: {listed(valid)}'
                # One name may stand for a list of one; then there is no place of index 0.
                place = (*route, i) if (*route, i) in source.values else route
                yield block(source, place, what)

    def conditions(self, source: YamlSource, route: Route, when: Conditions) -> Iterator[str]:
        yield from self.check(source, (*route, "device"), "device", when.device)
        yield from self.check(source, (*route, "model"), "model", when.model)
        yield from self.check(source, (*route, "suite"), "suite", when.suite)
        yield from self.check(source, (*route, "backend"), "backend", when.backend)


def _of_models(check: _References, file: ModelsFile, source: YamlSource) -> Iterator[str]:
    for name, model in file.models.items():
        route: Route = ("models", name)
        yield from check.check(source, (*route, "suites"), "suite", model.suites)
        yield from check.check(source, (*route, "devices"), "device", model.devices)


def _of_execution(check: _References, file: HardwareFile, source: YamlSource) -> Iterator[str]:
    for name, entry in file.execution.items():
        yield from check.check(source, ("execution", name, "when", "device"), "device", entry.when.device)


def _of_rules(check: _References, file: HardwareFile, source: YamlSource) -> Iterator[str]:
    for name, rule in file.rules.items():
        yield from check.conditions(source, ("rules", name, "when"), rule.when)


def _of_suite(check: _References, suite: SuiteSpec, source: YamlSource) -> Iterator[str]:
    first: dict[str, int] = {}
    for i, spec in enumerate(suite.checks):
        route: Route = ("checks", i)
        if spec.id in first:
            line = source.key_at(("checks", first[spec.id])).line
            what = f'duplicate check "{spec.id}"; it is first given at {source.name}:{line}'
            yield block(source, (*route, "id"), what)
        first.setdefault(spec.id, i)
        yield from check.conditions(source, (*route, "needs"), spec.needs)
        for number, conditions in enumerate(spec.unless):
            yield from check.conditions(source, (*route, "unless", number), conditions)


def _of_sharing(suites: Mapping[str, tuple[SuiteSpec, YamlSource]]) -> Iterator[str]:
    """Suites that share an engine must ask for the same one."""
    shared = [(suite, source) for suite, source in suites.values() if suite.engine == "shared"]
    for suite, source in shared[1:]:
        if suite.engine_args != shared[0][0].engine_args:
            what = (
                f"differs from that of {shared[0][1].name}, and both have engine: shared. "
                "Suites that share an engine need the same engine_args; or give this one engine: own"
            )
            yield block(source, ("engine_args",), what, key=True)
