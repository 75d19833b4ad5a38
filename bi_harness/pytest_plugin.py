"""The pytest plugin that gives suites their fixtures and journals what each check found.

A suite is ordinary pytest: ``pytest suites/batch_invariance --bi-device cpu -k needle`` works by hand. The
runner starts the same thing for each unit, with ``--bi-unit-file``. Loaded in every pytest of an environment
that has bi-harness, so nothing heavy is imported before a suite is collected.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from bi_harness.engine.client import EngineClient
    from bi_harness.engine.config import ArmName
    from bi_harness.matrix.cells import Cell
    from bi_harness.runner.engines import Client, Driven
    from bi_harness.runner.starts import Starts
    from bi_harness.runner.suite_session import CheckRecorder, SuiteSession
    from bi_harness.workload.checkplan import CheckPlan
    from bi_harness.workload.plan import Workload

_SESSION = pytest.StashKey["SuiteSession | None"]()
_RECORDER = pytest.StashKey["CheckRecorder"]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """The ``--bi-*`` options; ``bi-harness run`` has the same without the prefix."""
    group = parser.getgroup("bi-harness", "batch invariance of a real vLLM")
    group.addoption("--bi-unit-file", metavar="FILE", help="what the runner wrote for this unit")
    group.addoption("--bi-localize", metavar="FILE", help="localize the failure that this file names")
    group.addoption("--bi-parent", metavar="PID", type=int, help="process that this one must not outlive")
    group.addoption("--bi-device", metavar="ID", help="device of hardware.yaml, or auto")
    group.addoption("--bi-model", metavar="ID", action="append", help="only this model (repeatable)")
    group.addoption("--bi-backend", metavar="NAME", action="append", help="only this attention backend")
    group.addoption("--bi-mode", metavar="MODE", action="append", help="only eager or only compile")
    group.addoption("--bi-profile", metavar="NAME", default="smoke", help="smoke, nightly or release")
    group.addoption("--bi-weights", metavar="KIND", default="named", help="named or synthetic")
    group.addoption("--bi-layers", metavar="N", type=int, help="shrink synthetic weights to N layers")
    group.addoption("--bi-seed", metavar="N", type=int, default=0, help="seed of the workload")
    group.addoption("--bi-engine-python", metavar="PATH", help="interpreter that has vLLM")


def pytest_configure(config: pytest.Config) -> None:
    """Open the session where one is asked for."""
    config.stash[_SESSION] = None
    if not (config.getoption("bi_unit_file") or config.getoption("bi_device")):
        return
    if config.getoption("bi_parent"):
        from bi_harness.engine.orphan import die_with_parent

        die_with_parent(config.getoption("bi_parent"))
    from bi_harness.errors import HarnessError
    from bi_harness.runner.suite_session import SuiteSession

    try:
        if config.getoption("bi_localize"):
            from bi_harness.runner.localize_session import LocalizeSession

            config.stash[_SESSION] = LocalizeSession.open(config.option)
            return
        config.stash[_SESSION] = SuiteSession.open(config.option)
    except HarnessError as error:
        raise pytest.UsageError(str(error)) from error


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Localize, where that is what the process is for."""
    own = session.config.stash.get(_SESSION, None)
    if own is not None and session.config.getoption("bi_localize"):
        own.finish()


def pytest_unconfigure(config: pytest.Config) -> None:
    """End what is still running."""
    session = config.stash.get(_SESSION, None)
    if session is not None:
        session.close()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Every cell of the suite that the check was selected for becomes a parameter."""
    definition = metafunc.definition
    # Others' tests may have a fixture of that name.
    if "cell" not in metafunc.fixturenames or not Path(definition.path).with_name("suite.yaml").is_file():
        return
    session = metafunc.config.stash.get(_SESSION, None)
    # Without a session it is refused when all is collected: raised here, it would be one module's error only.
    cells = session.cells_of(Path(definition.path), definition.name) if session is not None else []
    # Session scope makes pytest run a cell's checks side by side, so that its engines start once.
    metafunc.parametrize("cell", cells, ids=[cell.id for cell in cells], scope="session")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Drop the placeholders of checks that no cell was selected for; order the rest as the plan has them."""
    session = config.stash.get(_SESSION, None)
    if session is None:
        if any(Path(i.path).with_name("suite.yaml").is_file() and _needs_cell(i) for i in items):
            raise pytest.UsageError("a suite needs --bi-device ID (or auto): which device is it to certify?")
        return
    empty = [i for i in items if _needs_cell(i) and _cell(i) is None]
    if empty:
        items[:] = [i for i in items if i not in empty]
        config.hook.pytest_deselected(items=empty)
    seen = set()
    for item in items:
        cell = _cell(item)
        key = (cell, item.path, item.function.__name__)  # type: ignore[attr-defined]
        if cell is not None and key in seen:
            raise pytest.UsageError(f"{key[2]} would run more than once on {cell.id}: a check has one result")
        seen.add(key)

    def place(item: pytest.Item) -> tuple[int, ...]:
        cell = _cell(item)
        if cell is None:
            return ()
        return session.place(cell, Path(item.path), item.function.__name__)  # type: ignore[attr-defined]

    items.sort(key=place)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Journal the check: that it began, and, whatever happens in between, how it ended."""
    session, cell = item.config.stash.get(_SESSION, None), _cell(item)
    if session is None or cell is None:
        return (yield)
    recorder = session.recorder(cell, Path(item.path), item.function.__name__)  # type: ignore[attr-defined]
    item.stash[_RECORDER] = recorder
    recorder.begin()
    result = yield
    recorder.end()
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Tell the recorder what was raised."""
    report = yield
    recorder = item.stash.get(_RECORDER, None)
    if recorder is not None and call.excinfo is not None:
        recorder.raised(call.excinfo.value)
    return report


def _needs_cell(item: pytest.Item) -> bool:
    return "cell" in getattr(item, "fixturenames", ())


def _cell(item: pytest.Item) -> Cell | None:
    from bi_harness.matrix.cells import Cell

    callspec: Any = getattr(item, "callspec", None)
    value = callspec.params.get("cell") if callspec is not None else None
    return value if isinstance(value, Cell) else None


@pytest.fixture
def check(request: pytest.FixtureRequest) -> CheckRecorder:
    """Takes the evidence, and concludes."""
    return request.node.stash[_RECORDER]  # type: ignore[no-any-return]


@pytest.fixture
def workload(request: pytest.FixtureRequest, cell: Cell) -> Workload:
    """The seeded requests and the batch sizes of this run's profile."""
    return _session(request).engines.workload(cell)


@pytest.fixture
def engine(request: pytest.FixtureRequest, cell: Cell) -> Client:
    """A real vLLM with invariance on, shared by the checks of the unit."""
    return _engine(request, cell, "treatment")


@pytest.fixture
def control(request: pytest.FixtureRequest, cell: Cell, check: CheckRecorder) -> Callable[[], Client]:
    """Call it for a real vLLM with invariance off, shared likewise; it starts when first called.

    In a run without a control the check ends there, with what the treatment alone says: never a pass.
    """
    session = _session(request)

    def start() -> Client:
        if not session.controlled:
            check.conclude()
            raise AssertionError("a check passed without a control")
        return _engine(request, cell, "control")

    return start


@pytest.fixture
def against_plain(request: pytest.FixtureRequest, cell: Cell, check: CheckRecorder) -> Callable[..., None]:
    """Call it with a plan: its subjects run alone on the engine that the suite's checks share, its arms on
    the check's own; treatment and control both. ``view`` says how the arms' engine is spoken to where that is
    another way: ``against_plain(plan, view=lambda server: server.speaking(stream="always"))``."""
    session = _session(request)

    def compare(plan: CheckPlan, view: Callable[[Client], Driven] = lambda engine: engine) -> None:
        check.compare_with_plain(
            plan,
            arms=session.arms(),
            plain=lambda arm: session.plain(cell, arm),
            own=lambda arm: view(_engine(request, cell, arm)),
        )

    return compare


@pytest.fixture
def restarted(request: pytest.FixtureRequest, cell: Cell) -> Callable[[], Client]:
    """Call it for ``engine`` in a new process; the old one ends."""
    session = _session(request)
    return lambda: session.engines.restart(cell, "treatment")


@pytest.fixture
def kernel_choice(request: pytest.FixtureRequest, check: CheckRecorder) -> Callable[[Cell], None]:
    """Call it to have the check observe which NVFP4 kernels vLLM's selection takes, in both arms."""
    session = _session(request)
    return lambda cell: session.observe_choice(cell, check)


@pytest.fixture
def kernels(
    request: pytest.FixtureRequest, cell: Cell, check: CheckRecorder
) -> Callable[[EngineClient], None]:
    """Call it to have the check observe which NVFP4 kernels an engine's layers have."""
    session = _session(request)
    return lambda engine: session.observe_kernels(cell, engine, check)


@pytest.fixture
def operators(request: pytest.FixtureRequest, check: CheckRecorder) -> Callable[[Cell], None]:
    """Call it to have the check observe the operators of its family, measured one by one in both arms."""
    session = _session(request)
    item: Any = request.node
    return lambda cell: session.observe_ops(cell, Path(item.path), item.function.__name__, check)


@pytest.fixture
def modules(
    request: pytest.FixtureRequest, cell: Cell, check: CheckRecorder
) -> Callable[[EngineClient], None]:
    """Call it to have the check observe the modules of an engine's loaded model, each type by itself."""
    session = _session(request)
    return lambda engine: session.observe_modules(cell, engine, check)


@pytest.fixture
def starts(request: pytest.FixtureRequest, cell: Cell) -> Starts:
    """Starts engines of the check's own: cold, warm and eager, and tells what the starts counted."""
    item: Any = request.node
    return _session(request).starts(cell, Path(item.path), item.function.__name__)


def _session(request: pytest.FixtureRequest) -> SuiteSession:
    session = request.config.stash[_SESSION]
    assert session is not None
    return session


def _engine(request: pytest.FixtureRequest, cell: Cell, arm: ArmName) -> Client:
    item: Any = request.node
    return _session(request).engine(cell, Path(item.path), item.function.__name__, arm)
