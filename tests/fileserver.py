"""A real HTTP server on loopback that can misbehave: cut, stall, corrupt, refuse, go on without end."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class FileServer:
    """Serves `files` by their path.

    `statuses`, `cuts` (close the connection after so many bytes) and `stalls` (be silent there) are used up, one a
    request.
    """

    files: Mapping[str, bytes]
    address: str = ""
    ranges: bool = True
    corrupt: bool = False
    endless: bool = False
    delay: float = 0.0  # seconds, between 64 kB
    statuses: list[int] = field(default_factory=list)
    cuts: list[int] = field(default_factory=list)
    stalls: list[int] = field(default_factory=list)
    stall_seconds: float = 3.0
    requests: list[tuple[str, str | None]] = field(default_factory=list)  # path, Range


@contextmanager
def serve_files(files: Mapping[str, bytes]) -> Iterator[FileServer]:
    state = FileServer(files)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            state.requests.append((self.path, self.headers.get("Range")))
            data = state.files.get(self.path)
            status = state.statuses.pop(0) if state.statuses else 200 if data is not None else 404
            if status != 200 or data is None:
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            if state.corrupt:
                data = data[:-1] + bytes([data[-1] ^ 1])
            start, asked = 0, re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
            if asked and state.ranges:
                start = int(asked[1])
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
            else:
                self.send_response(200)
            if state.endless:
                self.close_connection = True
            else:
                self.send_header("Content-Length", str(len(data) - start))
            self.end_headers()
            self.send_body(data[start:])

        def send_body(self, body: bytes) -> None:
            cut = state.cuts.pop(0) if state.cuts else None
            stall = state.stalls.pop(0) if state.stalls else None
            sent = 0
            try:
                while sent < len(body) or state.endless:
                    if cut is not None and sent >= cut:
                        self.close_connection = True
                        return
                    if stall is not None and sent >= stall:
                        time.sleep(state.stall_seconds)
                        stall = None
                    self.wfile.write(body[sent : sent + 65536] or bytes(65536))
                    sent += 65536
                    time.sleep(state.delay)
            except (BrokenPipeError, ConnectionResetError):  # the client has gone
                self.close_connection = True

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    state.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
