"""``bi-harness dashboard``: from the kept runs to a site, by the command."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest

from bi_harness.cli import main as cli
from bi_harness.report.dashboard import pages
from tests.kept import kept_folders, kept_run

CPU = kept_run("cpu/20261121T110032Z-796804")
H200 = kept_run("h200/0.25.1/20261121T090556Z-b9ea69")
DAY = ("--as-of", "2026-11-21")
NEWEST = max(date.fromisoformat(folder.name[:8]) for folder in kept_folders())
# A kept run is never stale here: the kept runs of one device may be much older than those of another.
LAST = ("--as-of", NEWEST.isoformat(), "--stale-days", "3660")
LATER = ("--as-of", (NEWEST + timedelta(days=4)).isoformat())


def digests(site: Path) -> dict[str, str]:
    return {
        str(path.relative_to(site)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(site.rglob("*"))
        if path.is_file() and path.name != ".seen.json"
    }


def build(*args: object, code: int = 0) -> None:
    assert cli.main(["dashboard", "build", *map(str, args)]) == code


def told(capsys: pytest.CaptureFixture[str], *args: object, code: int = 0) -> dict[str, Any]:
    capsys.readouterr()
    build(*args, "--json", code=code)
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_the_kept_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    site, kept = tmp_path / "site", kept_folders()
    found = told(capsys, *kept, "--out", site, *LAST)
    assert found["certificates"] == found["verified_now"] == len(kept)
    assert found["not_counted"] == []
    verdicts = {one["device"]: one["verdict"] for one in found["devices"]}
    assert verdicts.keys() == {"cpu", "h200"}
    assert verdicts["h200"] == "NOT_CERTIFIED"
    assert found["first_bad"] > 0
    first = digests(site)
    again = told(capsys, *kept, "--out", site, *LAST)
    assert again["verified_now"] == 0
    assert digests(site) == first, "from the history"
    build(*kept, "--out", tmp_path / "other", *LAST)
    assert digests(tmp_path / "other") == first, "anew"
    build(*kept, "--out", site, *LAST, "--rebuild")
    assert digests(site) == first
    capsys.readouterr()
    build(*kept, "--out", site, *LATER)
    assert "h200: STALE" in capsys.readouterr().out
    assert digests(site) != first


def test_each_device_has_its_verdict_until_it_is_stale(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def verdicts(day: str) -> dict[str, str]:
        found = told(capsys, CPU, H200, "--out", tmp_path / "site", "--as-of", day)
        return {one["device"]: one["verdict"] for one in found["devices"]}

    assert verdicts("2026-11-21") == {"cpu": "CERTIFIED", "h200": "NOT_CERTIFIED"}
    assert verdicts("2026-11-25") == {"cpu": "STALE", "h200": "STALE"}


def test_the_order_of_what_is_given_changes_nothing(tmp_path: Path) -> None:
    runs = [*kept_folders("cpu"), *kept_folders("h200")]
    build(*runs, "--out", tmp_path / "a", *DAY)
    build(*reversed(runs), "--out", tmp_path / "b", *DAY)
    assert digests(tmp_path / "a") == digests(tmp_path / "b")


def test_what_was_changed_after_it_was_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(H200, tmp_path / "reports" / "run")
    site = tmp_path / "site"
    assert told(capsys, tmp_path / "reports", "--out", site, *DAY)["certificates"] == 1
    file = tmp_path / "reports" / "run" / "certificate.json"
    file.write_text(file.read_text().replace('"NOT_CERTIFIED"', '"CERTIFIED"'))
    found = told(capsys, tmp_path / "reports", "--out", site, *DAY, code=5)
    assert found["certificates"] == 0
    assert found["not_counted"][0]["path"] == "reports/run"
    assert "No certificate counts." in (site / "index.html").read_text()


def test_keep(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    site = tmp_path / "site"
    build(CPU, H200, "--out", site, *DAY)
    assert told(capsys, H200, "--out", site, *DAY, "--keep")["certificates"] == 2
    assert told(capsys, H200, "--out", site, *DAY)["certificates"] == 1


def test_a_history_elsewhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    history = tmp_path / "kept" / "h.parquet"
    build(CPU, "--out", tmp_path / "site", *DAY, "--history", history)
    assert history.is_file()
    assert not (tmp_path / "site" / "history.parquet").exists()
    found = told(capsys, H200, "--out", tmp_path / "new", *DAY, "--history", history, "--keep")
    assert (found["certificates"], found["verified_now"]) == (2, 1)
    history.write_text("damaged")
    capsys.readouterr()
    build(CPU, "--out", tmp_path / "site", *DAY, "--history", history, code=4)
    assert "--rebuild" in capsys.readouterr().err
    build(CPU, "--out", tmp_path / "site", *DAY, "--history", history, "--rebuild")


def test_signatures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    key, other = tmp_path / "k.pem", tmp_path / "o.pem"
    for path in (key, other):
        assert cli.main(["key", "new", "--out", str(path)]) == 0
    run = tmp_path / "reports" / CPU.name
    shutil.copytree(CPU, run)
    shutil.copytree(H200, tmp_path / "reports" / H200.name)
    assert cli.main(["report", str(run), "--sign-key", str(key)]) == 0
    site = tmp_path / "site"
    args = (tmp_path / "reports", "--out", site, *DAY)

    def page() -> str:
        return (site / "index.html").read_text()

    build(*args)
    assert "1 signed and not checked, 1 unsigned" in page()
    build(*args, "--public-key", f"{key}.pub")
    assert "1 signed by a given key" in page()
    found = told(capsys, *args, "--public-key", f"{key}.pub", "--signed-only")
    assert found["certificates"] == 1
    assert found["not_counted"][0]["why"] == "none of the given keys signed it"
    found = told(capsys, *args, "--public-key", f"{other}.pub", "--signed-only", code=5)
    assert found["certificates"] == 0
    envelope = json.loads((run / "certificate.dsse.json").read_text())
    envelope["signatures"][0]["sig"] = envelope["signatures"][0]["sig"][::-1].lstrip("=") + "=="
    (run / "certificate.dsse.json").write_text(json.dumps(envelope))
    found = told(capsys, *args, "--public-key", f"{key}.pub")
    assert found["certificates"] == 1
    assert found["not_counted"][0]["path"].endswith(CPU.name)


NO_URLS = (
    "http://[",
    "http://[::1",
    "http://[zz]/",
    "http://h:99999/",
    "http://h:port/",
    "http://h:-1/",
    "http://:80/",
    "http://",
    "//h/",
    "http:///x",
    "https://user:secret@h/",
    "https://user@h/",
    "http://h/#a",
    "http://h\n.example.org/",
    "http://h\t/",
    "http://h/a b",
    "http://h/\x1b[31m",
    "http://h/\udcff",
    'http://h/"><script>',
    "http://é/",
    f"http://{'h' * 2_000}/",
    "x",
)
NO_DAYS = (
    "",
    "0000-01-01",
    "10000-01-01",
    "-001-01-01",
    "2026-02-30",
    "2026-13-01",
    "20260101",
    "2026-W01-1",
    "2026-1-1",
    "2026-01-01T00:00:00",
    "٢٠٢٦-01-01",
    "9" * 5_000,
    "\udcff",
    "tomorrow\x1b[31m",
)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["nowhere"], "no file or folder"),
        ([], "REPORTS"),
        ([str(CPU), "--as-of", "tomorrow"], "not a day"),
        ([str(CPU), "--url", "javascript:alert(1)"], "not the address"),
        ([str(CPU), "--url", "http://x/?a"], "not the address"),
        *(([str(CPU), "--url", url], "not the address") for url in NO_URLS),
        *(([str(CPU), "--as-of", text], "not a day") for text in NO_DAYS),
        ([str(CPU), "--as-of", "0001-01-01"], "before the year 1"),
        ([str(CPU), "--as-of", "0001-12-31"], "before the year 1"),
        ([str(CPU), "--as-of", "0010-12-31", "--nights", "3660"], "before the year 1"),
        ([str(CPU), "--signed-only"], "--public-key"),
        ([str(CPU), "--public-key", "nowhere"], "nowhere"),
        ([str(CPU), "--nights", "0"], "nights"),
    ],
)
def test_mistakes(tmp_path: Path, args: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    build(*args, "--out", tmp_path / "site", code=4)
    said = capsys.readouterr().err
    assert words in re.sub(r"\s+", " ", said)
    assert "Traceback" not in said
    assert "\x1b" not in said
    assert not (tmp_path / "site").exists()


def test_address_of_a_site_is_taken(tmp_path: Path) -> None:
    for number, url in enumerate(("http://h", "https://h:8443/a%20b/", "http://[::1]/bi/")):
        build(CPU, "--out", tmp_path / str(number), *DAY, "--url", url)
        slashed = url if url.endswith("/") else f"{url}/"
        assert f'href="{slashed}feed.xml"' in (tmp_path / str(number) / "feed.xml").read_text()


def _huge(text: str) -> str:
    """The evidence and the control of its passes are of 10^400 prompts."""
    return re.sub(r'"prompts": \d+,', f'"prompts": {10**400},', text)


def _times(text: str) -> str:
    return re.sub(r'"started": "[^"]*"', '"started": "0001-01-01T00:00:00+14:00"', text)


BAD: dict[str, Callable[[str], str | bytes]] = {
    "counts of 10^400": _huge,
    "a number of 5,000 digits": lambda text: re.sub(r'"seed": \d+', f'"seed": {"7" * 5_000}', text),
    "NaN": lambda text: re.sub(r'"seed": \d+', '"seed": NaN', text),
    "a start before the calendar": _times,
    "checkpoints that are a text": lambda text: re.sub(
        r'"checkpoints": \{[^}]*\}', '"checkpoints": "x"', text
    ),
    "another verdict": lambda text: text.replace('"verdict": "CERTIFIED"', '"verdict": "NOT_CERTIFIED"'),
    "cut off": lambda text: text[: len(text) // 2],
    "a flipped bit": lambda text: text.replace('"pass"', '"qass"', 1),
    "not UTF-8": lambda text: text.encode().replace(b'"pass"', b'"p\xffss"', 1),
    "empty": lambda text: "",
    "a newer schema": lambda text: text.replace("bi-harness/certificate/1", "bi-harness/certificate/9"),
}


@pytest.mark.parametrize("damage", BAD)
def test_bad_certificate_is_named_and_counts_against_its_device_alone(
    tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    reports, site = tmp_path / "reports", tmp_path / "site"
    for source in (CPU, H200):
        shutil.copytree(source, reports / source.name, ignore=shutil.ignore_patterns("logs"))
    shutil.copytree(CPU, reports / "bad", ignore=shutil.ignore_patterns("logs"))
    file = reports / "bad" / "certificate.json"
    content = BAD[damage](file.read_text())
    assert content != file.read_text()
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    found = told(capsys, reports, "--out", site, *DAY, "-j", "1")
    assert found["certificates"] == 2
    assert [one["path"] for one in found["not_counted"]] == ["reports/bad"]
    verdicts = {one["device"]: one["verdict"] for one in found["devices"]}
    assert verdicts == {"cpu": "INCONCLUSIVE", "h200": "NOT_CERTIFIED"}
    assert "reports/bad" in (site / "index.html").read_text()
    assert "#22773f" not in (site / "badges" / "cpu.svg").read_text()
    # From the history, too.
    assert told(capsys, reports, "--out", site, *DAY)["devices"] == found["devices"]


def test_examination_that_raises_is_one_file_that_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from bi_harness.report.dashboard import rows

    real = rows.row_of

    def row_of(examined: Any, digest: str, path: str, **options: Any) -> Any:
        if path.endswith(CPU.name):
            raise RecursionError("too \x1b[31mdeep")
        return real(examined, digest, path, **options)

    monkeypatch.setattr(rows, "row_of", row_of)
    found = told(capsys, CPU, H200, "--out", tmp_path / "site", *DAY, "-j", "1")
    assert found["certificates"] == 1
    assert found["not_counted"] == [{"path": CPU.name, "why": "cannot be examined: RecursionError: too deep"}]


def test_a_folder_of_somebody_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "thesis.txt").write_text("all of it")
    build(CPU, "--out", tmp_path, code=4)
    assert "not empty" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_page_that_cannot_be_rendered_leaves_the_old_site(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / "site"
    build(CPU, "--out", site, *DAY)
    before = digests(site)

    def broken(*_: object) -> bytes:
        raise RuntimeError

    monkeypatch.setattr(pages, "render_feed", broken)
    build(CPU, H200, "--out", site, *DAY, code=3)
    assert digests(site) == before


def test_serve_refuses_what_is_no_site(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["dashboard", "serve", str(tmp_path)]) == 4
    assert "no site" in capsys.readouterr().err


def test_place_that_was_not_read_is_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reports, site = tmp_path / "reports", tmp_path / "site"
    shutil.copytree(CPU, reports / os.fsdecode(b"caf\xe9"))
    (reports / "h200").symlink_to(H200)
    for _ in range(2):
        found = told(capsys, reports, "--out", site, *DAY)
        assert found["certificates"] == 1
        (refused,) = found["not_counted"]
        assert refused["path"] == "reports/h200"
        assert refused["why"].startswith(f"not read: a link to {H200}")
    build(reports, "--out", site, *DAY)
    assert "not counted: reports/h200: not read: a link to" in capsys.readouterr().err
    assert "not read: a link to" in (site / "index.html").read_text()
    # Once it is read it is not listed any more, not even where rows of earlier builds are kept.
    found = told(capsys, reports, H200, "--out", site, "--keep", *DAY)
    assert (found["certificates"], found["not_counted"]) == (2, [])


def test_file_that_cannot_be_read_does_not_spoil_the_history(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reports, site = tmp_path / "reports", tmp_path / "site"
    shutil.copytree(CPU, reports / "good")
    (reports / "bad").mkdir()
    os.mkfifo(reports / "bad" / "certificate.json")
    for _ in range(2):
        found = told(capsys, reports, "--out", site, *DAY)
        assert (found["certificates"], found["verified_now"]) in ((1, 2), (1, 1))
        assert [one["path"] for one in found["not_counted"]] == ["reports/bad"]
    (reports / "bad" / "certificate.json").unlink()
    shutil.copytree(H200, reports / "bad", dirs_exist_ok=True)
    found = told(capsys, reports, "--out", site, *DAY)
    assert (found["certificates"], found["not_counted"]) == (2, [])


@pytest.mark.parametrize("path", ["x" * 300, "x/" * 3_000, "loop", "caf\udce9"])
def test_path_that_cannot_be_read(tmp_path: Path, path: str, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "loop").symlink_to("loop")
    code = cli.main(["dashboard", "build", str(tmp_path / path), "--out", str(tmp_path / "site"), *DAY])
    assert code == (5 if path == "loop" else 4)
    assert "Traceback" not in capsys.readouterr().err
