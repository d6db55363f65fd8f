"""A real HTTP server on loopback that answers like the Hugging Face Hub for small files, and takes uploads of them."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fileserver import Quiet, serving

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
