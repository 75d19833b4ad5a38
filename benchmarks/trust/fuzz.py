"""Readers of files under inputs that somebody made to break them: ``python -m benchmarks.trust.fuzz``.

Three ways: files that are known to be hard (``bombs``), mutated files in great number, and, with atheris
(requirements/trust.txt), inputs that libFuzzer finds by the coverage of the code. Each reader must end with a
result or with a refusal that says where, within limits of time and memory, and never says CERTIFIED of what
``oracle`` would not.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import random
import re
import resource
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from benchmarks.trust.bombs import (
    HANGS_S,
    LIMIT_MB,
    LIMIT_S,
    Survived,
    certificate_bombs,
    file_bombs,
    journal_bombs,
    spec_bombs,
    survive,
    yaml_bombs,
)
from benchmarks.trust.figures import Figure, all_of, as_dict, below, none_of

MUTATED_S = 12.0
"""Seconds of mutation for each target."""

GUIDED_S = 30
"""Seconds of libFuzzer for each target."""

AT_LEAST, GUIDED_AT_LEAST = 500, 100
"""Inputs of a target below which a run of it shows nothing. Coverage is counted at a tenth of the speed."""


def mutated(name: str, seconds: float, seed: int = 0) -> tuple[Counter[str], list[str]]:
    """Mutate a target's seeds for some time.

    Returns:
        How many inputs had each outcome, and the defects, each as a text with the input.
    """
    from benchmarks.trust.targets import TARGETS, attempt

    target, rng = TARGETS[name], random.Random(seed)
    seeds = target.seeds()
    outcomes: Counter[str] = Counter()
    defects: list[str] = []
    for one in seeds:
        if (outcome := attempt(target, one)) == "refused":
            defects.append(f"a seed is refused: {one[:200]!r}")
        outcomes[outcome] += 1
    deadline = time.monotonic() + seconds
    # On a busy host a slow target gets the time that it needs, within reason.
    latest = deadline + 5 * seconds
    while (now := time.monotonic()) < deadline or (outcomes.total() < AT_LEAST and now < latest):
        data = target.mutate(rng.choice(seeds), rng)
        try:
            outcomes[attempt(target, data)] += 1
        except Exception:
            outcomes["broken"] += 1
            defects.append(f"{traceback.format_exc(limit=-3)}\n{data[:2_000]!r}")
    return outcomes, defects


def guided(name: str, seconds: int) -> dict[str, object]:
    """Let libFuzzer look for inputs of a target, in a process of its own.

    Returns:
        ``runs``, ``coverage`` (edges), ``seconds``, and ``defects``: what it found.
    """
    with tempfile.TemporaryDirectory(prefix="bi-fuzz-") as folder:
        command = [sys.executable, "-m", "benchmarks.trust.fuzz", "--guided", name, "--folder", folder]
        done = subprocess.run(
            [*command, "--seconds", str(seconds)],
            env={**os.environ, "TMPDIR": folder},  # libFuzzer ends without a chance to clear up
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
        output = f"{done.stdout}\n{done.stderr}"
        runs = re.search(r"stat::number_of_executed_units:\s*(\d+)", output)
        covered = re.findall(r"\bcov: (\d+)", output)
        found = [path for path in sorted(Path(folder).iterdir()) if path.is_file()]
        defects = [f"{path.name}: {path.read_bytes()[:2_000]!r}" for path in found]
        if done.returncode or not runs:
            defects.append(output[-3_000:])
        return {
            "runs": int(runs[1]) if runs else 0,
            "coverage": int(covered[-1]) if covered else 0,
            "seconds": seconds,
            "defects": defects,
        }


def _fuzz(name: str, folder: Path, seconds: int) -> None:
    """The process of ``guided``. libFuzzer ends it."""
    import atheris

    with atheris.instrument_imports(include=["bi_harness", "yaml", "packaging"]):
        from benchmarks.trust.targets import TARGETS, attempt

    target = TARGETS[name]
    corpus = folder / "corpus"
    corpus.mkdir()
    for number, one in enumerate(target.seeds()):
        (corpus / str(number)).write_bytes(one)

    def one_input(data: bytes) -> None:
        attempt(target, data)

    def change(data: bytes, most: int, seed: int) -> bytes:
        rng = random.Random(seed)
        # Half by what the file is made of, half by libFuzzer's own ways.
        found = target.mutate(data, rng) if rng.randrange(2) else atheris.Mutate(data, most)
        return found[:most]

    flags = [
        # Its time is the wall's, and the host may be busy: CPU time is held to its limit by ``attempt``.
        *(f"-max_total_time={seconds}", f"-timeout={HANGS_S:.0f}", f"-rss_limit_mb={LIMIT_MB}"),
        *("-max_len=65536", "-print_final_stats=1", f"-artifact_prefix={folder}/"),
    ]
    atheris.Setup([sys.argv[0], *flags, str(corpus)], one_input, custom_mutator=change)
    atheris.Fuzz()


def hard_files() -> dict[str, Survived]:
    """Every bomb, each in a process of its own."""
    from benchmarks.trust import targets
    from bi_harness.cli.examined import examined
    from bi_harness.runner.journal import read, read_text
    from bi_harness.spec.yamlsource import load_yaml, parse_yaml

    readers: dict[str, Callable[[], str]] = {}
    targets.load_with("models.yaml", targets.small_spec()["models.yaml"].encode())  # one folder for all forks

    def add(name: str, reader: Callable[[], object]) -> None:
        readers[name] = lambda: f"gave {str(reader())[:60]}"

    for name, raw in yaml_bombs().items():
        add(f"yaml: {name}", lambda raw=raw: parse_yaml(raw, "f.yaml"))  # type: ignore[misc]
    small = targets.small_spec()
    models, hardware, suite = (small[n] for n in ("models.yaml", "hardware.yaml", "suites/core/suite.yaml"))
    for name, (file, text) in spec_bombs(models, hardware, suite).items():
        add(f"spec: {name}", lambda f=file, t=text: targets.load_with(f, t.encode()))  # type: ignore[misc]
    sound = targets.journal_seeds()[0]
    start, end = sound.splitlines()[0], sound.splitlines()[-1]
    for name, raw in journal_bombs(start, end).items():

        def journal(raw: bytes = raw) -> object:
            statement = targets.certificate(raw)
            targets.see_reports(statement)
            return statement

        add(f"journal: {name}", journal)
    certificate, envelope = targets.certificate_seeds()[0], targets.envelope_seeds()[0]
    for name, raw in certificate_bombs(certificate, envelope).items():
        add(f"certificate: {name}", lambda raw=raw: targets.TARGETS["verify"].run(raw))  # type: ignore[misc]
        add(f"envelope: {name}", lambda raw=raw: targets.TARGETS["envelope"].run(raw))  # type: ignore[misc]
    with tempfile.TemporaryDirectory() as folder:
        for name, path in file_bombs(Path(folder), b"a: 1\n").items():
            add(f"yaml file: {name}", lambda path=path: load_yaml(path))  # type: ignore[misc]
            add(f"journal file: {name}", lambda path=path: read(path))  # type: ignore[misc]
            add(f"certificate file: {name}", lambda path=path: examined(path, ()).genuine)  # type: ignore[misc]
        found = {name: survive(reader) for name, reader in readers.items()}
    assert read_text(sound, "events.jsonl")
    return found


def measure(seconds: float = MUTATED_S, guided_seconds: int = GUIDED_S) -> dict[str, object]:
    """Every target in all three ways.

    Args:
        seconds: of mutation, for each target.
        guided_seconds: of libFuzzer, for each target.
    """
    from benchmarks.trust.targets import TARGETS

    figures: list[Figure] = []
    defects: list[str] = []
    survived = hard_files()
    defects += [f"{name}: {one.outcome}" for name, one in survived.items() if not one.good]
    figures += [
        all_of("hard files ended well", sum(one.good for one in survived.values()), len(survived), 100),
        below("slowest of them, CPU time", max(one.seconds for one in survived.values()), LIMIT_S, "s"),
        below(
            "largest of them, peak memory", max(one.megabytes for one in survived.values()), LIMIT_MB, "MB"
        ),
    ]
    for name in TARGETS:
        outcomes, found = mutated(name, seconds)
        defects += found
        total = outcomes.total()
        told = ", ".join(f"{many:,} {outcome}" for outcome, many in outcomes.most_common())
        figures.append(none_of(f"{name}: defects in mutated files ({told})", len(found), total, AT_LEAST))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    figures.append(below("peak memory over all of these", peak, LIMIT_MB, "MB"))
    coverage = {}
    if importlib.util.find_spec("atheris") is None:
        figures.append(Figure("libFuzzer", "atheris is not installed", "requirements/trust.txt", False))
    else:
        for name in TARGETS:
            told_ = guided(name, guided_seconds)
            bad = told_["defects"]
            assert isinstance(bad, list)
            defects += bad
            coverage[name] = told_
            figures.append(
                none_of(
                    f"{name}: defects that libFuzzer found ({told_['coverage']} edges)",
                    len(bad),
                    int(str(told_["runs"])),
                    GUIDED_AT_LEAST,
                )
            )
    return as_dict(figures, defects=defects[:20], guided=coverage)


def main() -> None:
    """One target for as long as you like, or the process of ``guided``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("target", nargs="?", help="mutate the files of this target")
    parser.add_argument("--guided", metavar="TARGET", help="libFuzzer on this target, in this process")
    parser.add_argument("--folder", type=Path, help="of libFuzzer's files")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.guided:
        folder = arguments.folder or Path(tempfile.mkdtemp(prefix="bi-fuzz-"))
        _fuzz(arguments.guided, folder, arguments.seconds)
        return
    outcomes, defects = mutated(arguments.target or "journal", arguments.seconds, arguments.seed)
    sys.stdout.write(f"{dict(outcomes)}\n")
    for defect in defects[:10]:
        sys.stdout.write(f"{defect}\n")
    sys.exit(1 if defects else 0)


if __name__ == "__main__":
    main()
