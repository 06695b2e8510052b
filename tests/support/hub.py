"""A model hub on loopback, with the few endpoints that a push by `huggingface_hub` calls."""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_of_the_trainer"


class Hub:
    """What it holds, and the moods that tests give it."""

    def __init__(self) -> None:
        self.url = ""
        self.private: dict[str, bool] = {}
        self.files: dict[str, dict[str, bytes]] = {}
        self.commits: list[str] = []
        self.asked: list[str] = []
        # The status that every call is answered with, in place of what it asks for.
        self.refuses = 0
        # Set when an upload has begun; it goes on once `goes_on` is set.
        self.uploading, self.goes_on = threading.Event(), threading.Event()
        self.goes_on.set()
        self._objects: dict[str, bytes] = {}

    def create(self, asked: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        repo = f"{asked['organization']}/{asked['name']}"
        if repo in self.private:
            return 409, {"error": "You already created this model repo", "url": f"{self.url}/{repo}"}
        self.private[repo], self.files[repo] = asked.get("visibility") == "private", {}
        return 200, {"url": f"{self.url}/{repo}", "name": repo}

    def put(self, oid: str, content: bytes) -> None:
        self.uploading.set()
        self.goes_on.wait(60)
        assert hashlib.sha256(content).hexdigest() == oid
        self._objects[oid] = content

    def commit(self, repo: str, lines: list[dict[str, Any]]) -> dict[str, Any]:
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                self.commits.append(value["summary"])
            elif line["key"] == "file":
                self.files[repo][value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                self.files[repo][value["path"]] = self._objects[value["oid"]]
        oid = f"{len(self.commits):040x}"
        return {"commitUrl": f"{self.url}/{repo}/commit/{oid}", "commitOid": oid}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Keep quiet."""

    def do_GET(self) -> None:
        if repo := self._begun(r"/api/models/([^/]+/[^/]+)"):
            known = self.hub.private.get(repo[1])
            found: dict[str, Any] = {"id": repo[1], "private": known, "tags": [], "siblings": []}
            self._answer(404 if known is None else 200, found)

    def do_PUT(self) -> None:
        content = self._body()
        assert "authorization" not in self.headers  # an upload's address is signed; the token is not for it
        self.hub.put(self.path.rpartition("/")[2], content)
        self._answer(200, {})

    def do_POST(self) -> None:
        body = self._body()
        if self._begun(r"/api/repos/create"):
            self._answer(*self.hub.create(json.loads(body)))
        elif self._begun(r"/api/validate-yaml"):
            self._answer(200, {"errors": [], "warnings": []})
        elif self._begun(r"/api/models/[^/]+/[^/]+/preupload/main"):
            self._answer(200, {"files": [_mode(file) for file in json.loads(body)["files"]]})
        elif self._begun(r"/[^/]+/[^/]+\.git/info/lfs/objects/batch"):
            self._answer(200, {"transfer": "basic", "objects": [self._place(o) for o in json.loads(body)["objects"]]})
        elif repo := self._begun(r"/api/models/([^/]+/[^/]+)/commit/main"):
            self._answer(200, self.hub.commit(repo[1], [json.loads(line) for line in body.splitlines()]))

    def _begun(self, path: str) -> re.Match[str] | None:
        """The match if that is what is asked for, and it is not answered already."""
        found = re.fullmatch(path, self.path.partition("?")[0])
        if found is None:
            return None
        self.hub.asked.append(self.path)
        if self.hub.refuses:
            self._answer(self.hub.refuses, {"error": f"not with {self.headers.get('authorization')}"})
            return None
        if self.headers.get("authorization") != f"Bearer {TOKEN}":
            self._answer(401, {"error": "Invalid username or password."})
            return None
        return found

    def _place(self, asked: dict[str, Any]) -> dict[str, Any]:
        return {**asked, "actions": {"upload": {"href": f"{self.hub.url}/lfs/{asked['oid']}"}}}

    def _body(self) -> bytes:
        if length := self.headers.get("content-length"):
            return self.rfile.read(int(length))
        content = b""
        while size := int(self.rfile.readline(), 16):
            content += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return content

    def _answer(self, status: int, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _mode(file: dict[str, Any]) -> dict[str, Any]:
    mode = "lfs" if file["path"].endswith(".safetensors") else "regular"
    return {"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": None}


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that is killed in the middle is no error here."""


@contextmanager
def running() -> Iterator[Hub]:
    """A hub that answers for the time of the block."""
    hub = Hub()
    with _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub})) as server:
        hub.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield hub
        hub.goes_on.set()
        server.shutdown()
        thread.join()
