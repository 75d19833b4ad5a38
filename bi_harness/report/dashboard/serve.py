"""A site over HTTP, on loopback alone: for a browser that does not open files, or one behind a tunnel."""

from __future__ import annotations

from functools import partial
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from bi_harness.errors import InfrastructureError

HOST: Final = "127.0.0.1"
_NAMES: Final = frozenset(("127.0.0.1", "localhost"))


class _Handler(SimpleHTTPRequestHandler):
    server_version = "bi-harness"
    sys_version = ""
    extensions_map: Final = {  # type: ignore[misc]
        ".html": "text/html; charset=utf-8",
        ".svg": "image/svg+xml",
        ".xml": "application/atom+xml; charset=utf-8",
        ".parquet": "application/octet-stream",
        "": "application/octet-stream",
    }
    timeout = 30

    def send_head(self) -> Any:
        # A name that somebody made to lead to this host (DNS rebinding) is not ours.
        if _host(self.headers.get("Host", "")) not in _NAMES:
            self.send_error(HTTPStatus.FORBIDDEN, "this server is for loopback alone")
            return None
        if not _within(self.directory, self.translate_path(self.path)):
            self.send_error(HTTPStatus.NOT_FOUND)
            return None
        return super().send_head()

    def list_directory(self, path: Any) -> None:
        self.send_error(HTTPStatus.NOT_FOUND)

    def end_headers(self) -> None:
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        self.send_header(
            "Content-Security-Policy", "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
        )
        self.send_header("Cache-Control", "no-cache")
        super().end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Silent: what is asked for is of no interest, and could drive a terminal."""


def _host(header: str) -> str | None:
    try:
        return urlsplit(f"//{header}").hostname
    except ValueError:
        return None


def _within(root: str, path: str) -> bool:
    """Whether a path is in the folder, links followed, and no part of it is hidden."""
    try:
        below = Path(path).resolve().relative_to(Path(root).resolve())
    except ValueError:
        return False
    return not any(part.startswith(".") for part in below.parts)


def server(site: Path, port: int) -> ThreadingHTTPServer:
    """A server of the folder on 127.0.0.1; it takes requests once ``serve_forever`` is called.

    Args:
        port: 0 for a free one; ``server_port`` tells which.

    Raises:
        InfrastructureError: the port is taken.
    """
    try:
        found = ThreadingHTTPServer((HOST, port), partial(_Handler, directory=str(site)))
    except OSError as error:
        raise InfrastructureError(
            f"cannot listen on {HOST}:{port}: {error.strerror or error}\n"
            "What to do: give another --port (0: a free one)"
        ) from error
    found.daemon_threads = True
    return found
