"""A real HTTP server on loopback that can refuse, cut, slow down and corrupt its answers."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class FileServer:
    """Serves `files` by their path. `statuses` are used up, one a request; 200 closes the connection half-way."""

    files: Mapping[str, bytes]
    address: str = ""
    corrupt: bool = False
    delay: float = 0.0  # seconds before an answer
    statuses: list[int] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


@contextmanager
def serve_files(files: Mapping[str, bytes]) -> Iterator[FileServer]:
    state = FileServer(files)

    class Handler(Quiet):
        def do_GET(self) -> None:
            state.requests.append(self.path)
            data = state.files.get(self.path, b"")
            status = state.statuses.pop(0) if state.statuses else 0
            time.sleep(state.delay)
            self.send_response(status or (200 if data else 404))
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if state.corrupt:
                data = data[:-1] + bytes([data[-1] ^ 1])
            self.wfile.write(data[: len(data) // 2] if status else data)
            self.close_connection = True

    with serving(Handler) as state.address:
        yield state


class Quiet(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def serving(handler: Callable[..., BaseHTTPRequestHandler]) -> Iterator[str]:
    """Runs a server; gives its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
