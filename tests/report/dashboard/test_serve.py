"""On loopback alone: the site's files, and nothing else of the disk."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from bi_harness.errors import InfrastructureError
from bi_harness.report.dashboard.serve import server
from bi_harness.report.dashboard.site import write_site


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    site = tmp_path / "site"
    write_site(
        site,
        [("index.html", b"<p>"), ("cells/x.html", b"x"), ("feed.xml", b"<feed/>"), (".seen.json", b"{}")],
    )
    (tmp_path / "secret").write_text("secret")
    (site / "link").symlink_to(tmp_path / "secret")
    with server(site, 0) as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield running.server_port
        running.shutdown()
        thread.join()


def get(port: int, path: str, host: str = "127.0.0.1") -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.putrequest("GET", path, skip_host=True)
    connection.putheader("Host", host)
    connection.endheaders()
    answer = connection.getresponse()
    return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()


def test_it_serves(port: int) -> None:
    status, headers, body = get(port, "/")
    assert (status, body) == (200, b"<p>")
    assert headers["x-content-type-options"] == "nosniff"
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert get(port, "/cells/x.html", host=f"localhost:{port}")[0] == 200
    assert get(port, "/feed.xml")[1]["content-type"].startswith("application/atom+xml")


@pytest.mark.parametrize(
    "path",
    [
        "/../secret",
        "/%2e%2e/secret",
        "/..%2fsecret",
        "/link",
        "/cells/",
        "/.seen.json",
        "/cells/../.seen.json",
        "//etc/passwd",
        "/%00",
    ],
)
def test_nothing_else(port: int, path: str) -> None:
    status, _, body = get(port, path)
    assert status in (400, 403, 404)
    assert b"secret" not in body


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "", "0.0.0.0"])
def test_a_name_that_was_made_to_lead_here(port: int, host: str) -> None:
    assert get(port, "/", host=host)[0] == 403


def test_loopback_alone(tmp_path: Path) -> None:
    with server(tmp_path, 0) as running:
        assert running.server_address[0] == "127.0.0.1"
        with pytest.raises(InfrastructureError, match="cannot listen"):
            server(tmp_path, running.server_port)
