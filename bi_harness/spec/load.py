"""From the YAML files to one checked ``Spec``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

import bi_harness
from bi_harness.errors import SpecError
from bi_harness.spec.errors import block, problems
from bi_harness.spec.execution import ExecutionSpec
from bi_harness.spec.hardware import DeviceSpec, HardwareFile, RuleSpec
from bi_harness.spec.models import ModelsFile, ModelSpec
from bi_harness.spec.references import dangling, dangling_startup
from bi_harness.spec.selection import SelectionSpec
from bi_harness.spec.startup import StartupFile
from bi_harness.spec.suites import SuiteSpec
from bi_harness.spec.types import SpecModel
from bi_harness.spec.yamlsource import YamlSource, load_yaml

ENV_MODELS = "BI_HARNESS_MODELS"
ENV_HARDWARE = "BI_HARNESS_HARDWARE"
ENV_SUITES = "BI_HARNESS_SUITES"

EXPECTED = "expected.yaml"
"""In a suite's folder, for a suite whose checks judge what starts count."""

SELECTION = "selection.yaml"
"""In a suite's folder, for a suite whose checks judge which kernel vLLM selects."""

_File = TypeVar("_File", bound=SpecModel)


@dataclass(frozen=True, slots=True)
class SpecPaths:
    """Where the spec is.

    Attributes:
        models: ``models.yaml``.
        hardware: ``hardware.yaml``.
        suites: the folder with a folder for each suite.
    """

    models: Path
    hardware: Path
    suites: Path


@dataclass(frozen=True, slots=True)
class Spec:
    """Everything the YAML files say, checked, by id and in the files' order.

    Attributes:
        models, devices, suites: by id.
        rules: in the order in which they are tried.
        execution: what modes need and what ``default`` is, in the order in which entries are tried.
        reference_vllm: the release that is assumed where none is installed and none is given.
        paths: where it was read.
        digests: ``sha256:...`` of the bytes of ``models.yaml``, ``hardware.yaml`` and each
            ``suites/<id>/suite.yaml``, ``expected.yaml`` and ``selection.yaml``, by these names.
        startup: what starts count, by suite; for those that have an ``expected.yaml``.
        selection: which kernels are right, by suite; for those that have a ``selection.yaml``.
    """

    models: Mapping[str, ModelSpec]
    devices: Mapping[str, DeviceSpec]
    rules: tuple[RuleSpec, ...]
    suites: Mapping[str, SuiteSpec]
    reference_vllm: str
    paths: SpecPaths
    digests: Mapping[str, str]
    startup: Mapping[str, StartupFile] = field(default_factory=dict)
    selection: Mapping[str, SelectionSpec] = field(default_factory=dict)
    execution: tuple[ExecutionSpec, ...] = ()

    def reference(self, device: str) -> str:
        """The release that is assumed for ``device`` where none is installed and none is given."""
        return self.devices[device].reference_vllm or self.reference_vllm


def default_paths(
    models: str | os.PathLike[str] | None = None,
    hardware: str | os.PathLike[str] | None = None,
    suites: str | os.PathLike[str] | None = None,
    *,
    environ: Mapping[str, str] | None = None,
) -> SpecPaths:
    """Where the spec is: what is given, else the environment, else the checkout, else the package's own.

    Each of the three is looked up by itself. An empty variable counts as unset.
    """
    env = os.environ if environ is None else environ
    package = Path(bi_harness.__file__).resolve().parent
    checkout = package.parent
    # A wheel puts its parent at site-packages: only hardware.yaml beside the package makes a checkout.
    root = checkout if (checkout / "hardware.yaml").is_file() else package / "_data"

    def pick(given: str | os.PathLike[str] | None, variable: str, name: str) -> Path:
        return Path(given or env.get(variable) or root / name)

    return SpecPaths(
        models=pick(models, ENV_MODELS, "models.yaml"),
        hardware=pick(hardware, ENV_HARDWARE, "hardware.yaml"),
        suites=pick(suites, ENV_SUITES, "suites"),
    )


def load_spec(models_path: Path, hardware_path: Path, suites_dir: Path) -> Spec:
    """Read and check everything.

    Raises:
        SpecError: something is wrong; the message has one line for each problem of all the files.
    """
    wrong: list[str] = []
    models = _load(models_path, ModelsFile, wrong, keyed=("models",))
    hardware = _load(hardware_path, HardwareFile, wrong, keyed=("devices", "rules", "execution"))
    suites: dict[str, tuple[SuiteSpec, YamlSource]] = {}
    startup: dict[str, tuple[StartupFile, YamlSource]] = {}
    selection: dict[str, tuple[SelectionSpec, YamlSource]] = {}
    for path in _suite_files(suites_dir, wrong):
        suite = _load(path, SuiteSpec, wrong)
        if suite is None:
            continue
        folder = path.parent.name
        if suite[0].id != folder:
            wrong.append(
                block(suite[1], ("id",), f'"{suite[0].id}" must be the name of its folder, "{folder}"')
            )
        suites[folder] = suite
        expected = path.with_name(EXPECTED)
        if expected.is_file() and (
            starts := _load(expected, StartupFile, wrong, keyed=("expectations", "exceptions"))
        ):
            startup[folder] = starts
        table = path.with_name(SELECTION)
        if table.is_file() and (kernels := _load(table, SelectionSpec, wrong)):
            selection[folder] = kernels
    if models and hardware and not wrong:
        wrong += dangling(models, hardware, suites)
        wrong += [problem for file in startup.values() for problem in dangling_startup(models, *file)]
    if wrong or models is None or hardware is None:
        raise SpecError("\n".join(wrong))
    return Spec(
        models=models[0].models,
        devices=hardware[0].devices,
        rules=tuple(hardware[0].rules.values()),
        suites={name: suite for name, (suite, _) in suites.items()},
        reference_vllm=hardware[0].reference_vllm,
        paths=SpecPaths(models_path, hardware_path, suites_dir),
        digests={
            "models.yaml": models[1].digest,
            "hardware.yaml": hardware[1].digest,
            **{f"suites/{name}/suite.yaml": source.digest for name, (_, source) in suites.items()},
            **{f"suites/{name}/{EXPECTED}": source.digest for name, (_, source) in startup.items()},
            **{f"suites/{name}/{SELECTION}": source.digest for name, (_, source) in selection.items()},
        },
        startup={name: file for name, (file, _) in startup.items()},
        selection={name: file for name, (file, _) in selection.items()},
        execution=tuple(hardware[0].execution.values()),
    )


def load_data(path: Path, model: type[_File]) -> _File:
    """A file of its own, beside the spec (a policy, waivers), checked.

    Raises:
        SpecError: something is wrong in it; the message has one line for each problem, with file and line.
    """
    return load_file(path, model)[0]


def load_file(path: Path, model: type[_File]) -> tuple[_File, YamlSource]:
    """As ``load_data``, with where everything stands in the file.

    Raises:
        SpecError: see ``load_data``.
    """
    wrong: list[str] = []
    found = _load(path, model, wrong)
    if found is None or wrong:
        raise SpecError("\n".join(wrong))
    return found


def _suite_files(folder: Path, wrong: list[str]) -> list[Path]:
    try:
        found = sorted(entry / "suite.yaml" for entry in folder.iterdir() if (entry / "suite.yaml").is_file())
    except (OSError, ValueError) as e:
        wrong.append(f"{_name(folder)}: cannot be read: {getattr(e, 'strerror', None) or e}")
        return []
    if not found:
        wrong.append(f"{_name(folder)}: has no suite (no */suite.yaml)")
    return found


def _load(
    path: Path, model: type[_File], wrong: list[str], keyed: tuple[str, ...] = ()
) -> tuple[_File, YamlSource] | None:
    """The file's content, or ``None`` with its problems added to ``wrong``.

    Args:
        keyed: the mappings whose entries get their key as ``id``.
    """
    try:
        source = load_yaml(path, _name(path))
    except SpecError as e:
        wrong.append(str(e))
        return None
    if not isinstance(source.data, dict):
        wrong.append(f"{source.name}:1: must be a mapping with the keys {', '.join(model.model_fields)}")
        return None
    # Keys x-... are for anchors to share.
    data: dict[str, Any] = {key: value for key, value in source.data.items() if not key.startswith("x-")}
    inner: list[str] = []
    for group in keyed:
        if isinstance(data.get(group), dict):
            data[group] = {
                name: _with_id(source, (group, name), entry, inner) for name, entry in data[group].items()
            }
    try:
        content = model.model_validate(data)
    except ValidationError as e:
        wrong += [*inner, *problems(e, source, model)]
        return None
    wrong += inner
    return content, source


def _with_id(source: YamlSource, route: tuple[str, str], entry: object, wrong: list[str]) -> object:
    if not isinstance(entry, dict):
        return entry
    if "id" in entry:
        wrong.append(
            block(source, (*route, "id"), 'unknown key "id": the id is the key of the entry', key=True)
        )
    return {**entry, "id": route[-1]}


def _name(path: Path) -> str:
    """The path as messages show it: relative where that is shorter than absolute."""
    full = Path(os.path.abspath(path))  # noqa: PTH100 - resolve() would follow links and rename the file
    try:
        return str(full.relative_to(Path.cwd()))
    except (ValueError, OSError):
        return str(full)
