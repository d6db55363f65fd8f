"""Real HTTP servers on loopback: one that can cut, slow down and corrupt its answers, and a small Hugging Face Hub."""

import base64
import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


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


COMMIT = "0123456789abcdef0123456789abcdef01234567"


@contextmanager
def serve_hub(repositories: dict[str, dict[str, Path | bytes]]) -> Iterator[str]:
    """Serves ``{"owner/name": {"file": path or content}}``, takes what is pushed; gives the HF_ENDPOINT."""

    class Handler(Quiet):
        def do_HEAD(self) -> None:
            self.file(body=False)

        def do_GET(self) -> None:
            self.file(body=True)

        def file(self, body: bool) -> None:
            repository, _, rest = self.path.lstrip("/").partition("/resolve/")
            content = repositories.get(repository, {}).get(rest.partition("/")[2].partition("?")[0])
            if content is None:
                error = "EntryNotFound" if repository in repositories else "RepoNotFound"
                self.answer(404, b"", {"X-Error-Code": error})
                return
            data = content if isinstance(content, bytes) else content.read_bytes()
            self.answer(200, data, {"ETag": f'"{hashlib.sha256(data).hexdigest()}"'}, body=body)

        def do_POST(self) -> None:
            """The Hub's protocol for files that are not large: create, preupload, commit."""
            sent = self.rfile.read(int(self.headers["Content-Length"])).decode()
            said: dict[str, Any] = {}
            if self.headers.get("Authorization") != "Bearer hf_secret":
                self.answer(401, b"{}", {})
                return
            if self.path == "/api/repos/create":
                made = json.loads(sent)
                name = f"{made['organization']}/{made['name']}"
                repositories.setdefault(name, {})
                said = {"url": f"http://{self.headers['Host']}/{name}"}
            elif "/preupload/" in self.path:
                files = json.loads(sent)["files"]
                said["files"] = [
                    {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in files
                ]
            elif "/commit/" in self.path:
                name = self.path.removeprefix("/api/models/").partition("/commit/")[0]
                for line in map(json.loads, sent.splitlines()):
                    if line["key"] == "file":
                        repositories[name][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                said = {"commitUrl": f"http://{self.headers['Host']}/{name}/commit/{COMMIT}", "commitOid": COMMIT}
            self.answer(200, json.dumps(said).encode(), {})

        def answer(self, status: int, data: bytes, headers: dict[str, str], *, body: bool = True) -> None:
            self.send_response(status)
            for key, value in {"X-Repo-Commit": COMMIT, "Content-Length": str(len(data)), **headers}.items():
                self.send_header(key, value)
            self.end_headers()
            if body:
                self.wfile.write(data)

    with serving(Handler) as address:
        yield address
