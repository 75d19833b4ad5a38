"""Whatever is in a file that the harness reads: a result or a refusal that says where, soon and cheaply.

``python -m benchmarks.trust fuzz`` does the same for longer, and with coverage to guide it.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, event, example, given, settings
from hypothesis import strategies as st

from benchmarks.trust import bombs, oracle, targets
from benchmarks.trust.bombs import survive
from bi_harness.cli import main as cli
from bi_harness.errors import SpecError, UsageError
from bi_harness.runner.journal import JOURNAL, read
from tests.certificate import journals as made

patiently = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


@pytest.mark.parametrize("name", targets.TARGETS)
def test_mutated_files(name: str) -> None:
    target = targets.TARGETS[name]

    @patiently
    @given(st.integers(0, len(target.seeds()) - 1), st.integers(0, 2**32))
    def mutated(which: int, seed: int) -> None:
        data = target.mutate(target.seeds()[which], random.Random(seed))
        event(targets.attempt(target, data))

    mutated()


@pytest.mark.parametrize("name", targets.TARGETS)
def test_any_bytes(name: str) -> None:
    target = targets.TARGETS[name]

    @patiently
    @given(st.one_of(st.binary(max_size=300), st.text(max_size=100).map(str.encode)))
    @example(b"")
    @example(b"\xff" * 40)
    @example(b"\0" * 40)
    @example(b"\xef\xbb\xbf{}\r\n")
    def anything(data: bytes) -> None:
        assert targets.attempt(target, data) in ("refused", "accepted", "not genuine", "not met")

    anything()


@pytest.mark.parametrize("name", targets.TARGETS)
def test_a_target_takes_its_own_seeds(name: str) -> None:
    target = targets.TARGETS[name]
    assert "refused" not in {targets.attempt(target, seed) for seed in target.seeds()}


BOMBS = (
    "duplicate keys behind aliases",
    "billion laughs",
    "open lists",
    "a key of 250,000 letters",
    "30,000 keys",
)


@pytest.mark.parametrize("name", BOMBS)
def test_a_yaml_bomb(name: str) -> None:
    seen = survive(lambda: targets.attempt(targets.TARGETS["yaml"], bombs.yaml_bombs()[name]))
    assert seen.good, seen


def test_every_yaml_bomb_is_small_enough_to_be_read() -> None:
    from bi_harness.spec.yamlsource import MAX_BYTES

    assert {name for name, raw in bombs.yaml_bombs().items() if len(raw) > MAX_BYTES} == set()


def test_a_long_name_is_not_told_with_each_of_its_mistakes() -> None:
    small = targets.small_spec()
    file, text = bombs.spec_bombs(
        small["models.yaml"], small["hardware.yaml"], small["suites/core/suite.yaml"]
    )["a long name with 10,000 mistakes"]
    with pytest.raises(SpecError, match="a key of more than 400 characters") as caught:
        targets.load_with(file, text.encode())
    assert len(str(caught.value)) < 1_000


def test_of_very_many_mistakes_the_first_are_told() -> None:
    text = targets.small_spec()["models.yaml"]
    many = "".join(f"    a{i:x}: 1\n" for i in range(5_000))
    with pytest.raises(SpecError) as caught:
        targets.load_with("models.yaml", text.replace("tiny:\n", f"tiny:\n{many}", 1).encode())
    lines = str(caught.value).splitlines()
    assert len(lines) == 101
    assert ":3: models.tiny.a0: unknown key" in lines[0]
    assert lines[-1] == "... and 4,900 more problems"


@pytest.mark.parametrize(
    ("pattern", "what"), [("((((", "not a reg"), ("a{99999999999}", "not a reg"), ("a" * 201, "200")]
)
def test_a_pattern_that_python_cannot_have(pattern: str, what: str) -> None:
    text = targets.small_spec()["hardware.yaml"].replace("[A100]", f"['{pattern}']")
    with pytest.raises(SpecError, match=rf"hardware.yaml:15: devices.gpu.match.0: .*{what}"):
        targets.load_with("hardware.yaml", text.encode())


@pytest.mark.parametrize("name", ["a plan of a million nothings", "500,000 unknown keys", "lists in lists"])
def test_a_journal_bomb(name: str) -> None:
    sound = targets.journal_seeds()[0]
    raw = bombs.journal_bombs(sound.splitlines()[0], sound.splitlines()[-1])[name]
    seen = survive(lambda: targets.attempt(targets.TARGETS["journal"], raw))
    assert seen.good, seen


@pytest.mark.parametrize("key", ["digests", "vllm", "checkpoints"])
@pytest.mark.parametrize("value", [None, 0, "x", [1], {"x": 1}, {"record_sha256": 5}])
def test_a_provenance_of_another_shape_is_refused_with_its_line(
    tmp_path: Path, key: str, value: object
) -> None:
    event_ = made.started()
    changed = event_.model_copy(update={"provenance": {key: value}})
    (tmp_path / JOURNAL).write_text(f"{changed.model_dump_json()}\n")
    if (key, value) == ("vllm", {"x": 1}):  # what it does not look up is free
        assert read(tmp_path / JOURNAL)
        return
    with pytest.raises(UsageError, match=rf"^{JOURNAL}:1: not an event of a journal: .*{key}"):
        read(tmp_path / JOURNAL)


@pytest.mark.parametrize(
    "name", ["a FIFO", "/dev/zero", "a link to itself", "a folder", "a terabyte of nothing"]
)
def test_what_is_no_file_is_refused_at_once(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = bombs.file_bombs(tmp_path, b"")[name]
    with pytest.raises(UsageError, match="cannot read the journal"):
        read(path)
    assert cli.main(["plan", "--device", "cpu", "--models-file", str(path)]) == 4
    assert cli.main(["verify", str(path)]) in (1, 4)
    (tmp_path / "run").mkdir()
    os.symlink(path, tmp_path / "run" / JOURNAL)
    assert cli.main(["report", str(tmp_path / "run")]) == 4
    assert "Traceback" not in capsys.readouterr().err


def test_the_oracle_can_say_no() -> None:
    good = targets.journal_seeds()[0]
    assert oracle.may_be_certified(good)
    assert not any(oracle.may_be_certified(other) for other in targets.journal_seeds()[1:4])
    for old, new in (
        (b'"differing_steps":0', b'"differing_steps":1'),
        (b'"outcome":"completed"', b'"outcome":"crashed"'),
        (b'"interrupted":false', b'"interrupted":true'),
        (b'"max_requests":2', b'"max_requests":1'),
    ):
        assert old in good
        assert not oracle.may_be_certified(good.replace(old, new, 1))
    assert oracle.certificate_may_be_certified(targets.certificate_seeds()[0])
    assert not oracle.certificate_may_be_certified(targets.certificate_seeds()[1])


def test_a_wrong_certified_would_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    real = targets.build
    monkeypatch.setattr("bi_harness.certificate.build.verdict", lambda *a, **k: ("CERTIFIED", "all is well"))
    assert real is targets.build
    with pytest.raises(targets.Broken, match="CERTIFIED without the evidence"):
        targets.attempt(targets.TARGETS["journal"], targets.journal_seeds()[1])
