"""A small Hugging Face Hub on loopback: enough of its HTTP interface for the real client, faults on demand.

Repositories with branches and commits, private and gated ones, preupload, LFS upload to a second host name (as to a
CDN), resolve with ETag, X-Repo-Commit and Range, tokens, and the Hub's error codes. Faults: a status for the next
matching requests, a connection cut after some bytes of the body, or a pause there. What is asked is kept in `requests`,
with headers and bodies in `sent`; `test_hub_server.py` holds the answers against what the real client sends and takes.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

LFS_SUFFIXES = (".safetensors", ".png")


@dataclass(frozen=True)
class File:
    """A file at a commit."""

    data: bytes
    lfs: bool

    @property
    def oid(self) -> str:
        """The id by which the Hub names the content: SHA-256 of LFS files, git's SHA-1 of the others."""
        if self.lfs:
            return hashlib.sha256(self.data).hexdigest()
        return hashlib.sha1(b"blob %d\0" % len(self.data) + self.data).hexdigest()


@dataclass
class Repo:
    """Branches point to commits, commits are whole sets of files."""

    private: bool
    gated: bool = False
    branches: dict[str, str] = field(default_factory=dict)
    commits: dict[str, dict[str, File]] = field(default_factory=dict)

    def commit(self, branch: str, files: dict[str, File]) -> str:
        parts = [
            self.branches.get(branch, ""),
            *(f"{path} {file.oid}" for path, file in sorted(files.items())),
        ]
        sha = hashlib.sha1("\n".join(parts).encode()).hexdigest()
        self.commits[sha] = files
        self.branches[branch] = sha
        return sha


@dataclass
class Fault:
    """What happens to the next `times` requests whose "METHOD /path" matches."""

    pattern: re.Pattern[str]
    times: int
    status: int | None = None
    cut_after: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    pause: float = 0.0


@dataclass
class Sent:
    """A request: "METHOD /path", with its headers and body."""

    request: str
    headers: dict[str, str]
    body: bytes


class HubServer:
    """The server and its state; `endpoint` is what HF_ENDPOINT must say."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.objects: dict[str, bytes] = {}
        self.users = {"hf_alice": "alice", "hf_bob": "bob"}
        self.faults: list[Fault] = []
        self.requests: list[str] = []
        self.sent: list[Sent] = []
        self.lock = threading.RLock()
        self.port = 0
        self._server: ThreadingHTTPServer | None = None
        self.start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def cdn(self) -> str:
        """Another host name of the same server: the client must not send its token there."""
        return f"http://localhost:{self.port}"

    def start(self) -> None:
        """Listen, on the same port as before."""
        hub = self

        class Handler(_Handler):
            pass

        Handler.hub = hub
        self._server = _Server(("127.0.0.1", self.port), Handler)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        """Refuse connections until `start`."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server.close_connections()
            self._server = None

    def fail(self, pattern: str, status: int, times: int = 1, headers: dict[str, str] | None = None) -> None:
        """Answer the next matching requests with a status."""
        self.faults.append(Fault(re.compile(pattern), times, status=status, headers=headers or {}))

    def cut(self, pattern: str, after: int, times: int = 1, pause: float = 0.0) -> None:
        """Close the connection of the next matching requests after some bytes of the body, and a pause of seconds."""
        self.faults.append(Fault(re.compile(pattern), times, cut_after=after, pause=pause))

    def asked(self, pattern: str) -> list[Sent]:
        """The requests whose "METHOD /path" matches."""
        return [sent for sent in self.sent if re.search(pattern, sent.request)]

    def take_fault(self, request: str) -> Fault | None:
        with self.lock:
            for fault in self.faults:
                if fault.times > 0 and fault.pattern.search(request):
                    fault.times -= 1
                    return fault
        return None

    def files(self, repo_id: str, revision: str = "main") -> dict[str, bytes]:
        """The contents of a repository."""
        repo = self.repos[repo_id]
        files = repo.commits[repo.branches.get(revision, revision)]
        return {path: file.data for path, file in files.items()}


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, *args: Any) -> None:
        self.connections: set[Any] = set()
        super().__init__(*args)

    def process_request(self, request: Any, client_address: Any) -> None:
        self.connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self.connections.discard(request)
        super().shutdown_request(request)

    def close_connections(self) -> None:
        for connection in list(self.connections):
            self.shutdown_request(connection)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is nothing to print."""


class _HttpError(Exception):
    def __init__(
        self, status: int, code: str | None = None, message: str = "refused", headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.headers = status, code, message, headers or {}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: HubServer

    def log_message(self, *args: Any) -> None:
        pass

    # ------------------------------------------------------------------------------------------- plumbing

    def _handle(self) -> None:
        body = self._read_body()
        url = urlsplit(self.path)
        path = unquote(url.path)
        request = f"{self.command} {path}"
        self.hub.requests.append(f"{request} {'token' if self.headers.get('Authorization') else 'anonymous'}")
        self.hub.sent.append(Sent(request, {key.lower(): value for key, value in self.headers.items()}, body))
        self.fault = self.hub.take_fault(request)
        try:
            if self.fault is not None and self.fault.status is not None:
                raise _HttpError(self.fault.status, message="injected", headers=self.fault.headers)
            for method, pattern, action in ROUTES:
                match = re.fullmatch(pattern, path)
                if match and self.command in method.split():
                    # A pause must not keep the others waiting.
                    with nullcontext() if self.fault and self.fault.pause else self.hub.lock:
                        action(self, body, *match.groups())
                    return
            raise _HttpError(404, message=f"no route for {request}")
        except _HttpError as error:
            headers = {"X-Error-Message": error.message, **error.headers}
            if error.code:
                headers["X-Error-Code"] = error.code
            self._send(error.status, {"error": error.message}, headers)

    do_GET = do_HEAD = do_POST = do_PUT = _handle

    def _read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            chunks = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                chunks.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(chunks)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _send(self, status: int, body: object = b"", headers: dict[str, str] | None = None) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(data)))
        if self.fault is not None and self.fault.cut_after is not None:
            self.close_connection = True
            data = data[: self.fault.cut_after]
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)
        if self.fault is not None and self.fault.pause:
            self.wfile.flush()
            time.sleep(self.fault.pause)

    # ------------------------------------------------------------------------------------------- who, what

    def _user(self) -> str | None:
        header = self.headers.get("Authorization")
        if header is None:
            return None
        user = self.hub.users.get(header.removeprefix("Bearer "))
        if user is None:
            raise _HttpError(401, message="Invalid credentials in Authorization header")
        return user

    def _repo(self, repo_id: str, write: bool = False) -> Repo:
        user, repo = self._user(), self.hub.repos.get(repo_id)
        owner = repo_id.split("/")[0]
        if repo is None or (repo.private and user != owner):
            # The Hub does not tell an anonymous client whether a repository exists, and gives no code then.
            if user is None:
                raise _HttpError(401, message="Invalid username or password.")
            raise _HttpError(404, "RepoNotFound", "Repository not found")
        if write and user != owner:
            raise _HttpError(403, message="You don't have the rights to write here")
        return repo

    def _commit(self, repo: Repo, revision: str) -> str:
        sha = repo.branches.get(revision, revision)
        if sha not in repo.commits:
            raise _HttpError(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return sha

    # ------------------------------------------------------------------------------------------- routes

    def create_repo(self, body: bytes) -> None:
        request, user = json.loads(body), self._user()
        owner = request.get("organization") or user
        repo_id = f"{owner}/{request['name']}"
        if user is None or owner != user:
            raise _HttpError(401 if user is None else 403, message="You cannot create a repository here")
        url = {"url": f"{self.hub.endpoint}/{repo_id}"}
        if repo_id in self.hub.repos:
            self._send(409, url)
            return
        repo = Repo(private=request.get("private") is True or request.get("visibility") == "private")
        repo.commit("main", {".gitattributes": File(b"*.safetensors filter=lfs\n", lfs=False)})
        self.hub.repos[repo_id] = repo
        self._send(200, url)

    def create_branch(self, body: bytes, repo_id: str, branch: str) -> None:
        repo = self._repo(repo_id, write=True)
        if branch in repo.branches:
            raise _HttpError(409, message="Reference already exists")
        repo.branches[branch] = repo.branches["main"]
        self._send(200, {})

    def validate_yaml(self, body: bytes) -> None:
        self._send(200, {"errors": [], "warnings": []})

    def preupload(self, body: bytes, repo_id: str, revision: str) -> None:
        repo = self._repo(repo_id, write=True)
        present = repo.commits[self._commit(repo, revision)]
        files = []
        for item in json.loads(body)["files"]:
            path = item["path"]
            mode = "lfs" if path.endswith(LFS_SUFFIXES) else "regular"
            oid = present[path].oid if path in present else None
            files.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self._send(200, {"files": files})

    def lfs_batch(self, body: bytes, repo_id: str) -> None:
        self._repo(repo_id, write=True)
        objects = []
        for item in json.loads(body)["objects"]:
            entry = {"oid": item["oid"], "size": item["size"]}
            if item["oid"] not in self.hub.objects:
                upload = {"href": f"{self.hub.cdn}/lfs/{item['oid']}", "header": {}}
                verify = {"href": f"{self.hub.endpoint}/verify/{item['oid']}", "header": {}}
                entry["actions"] = {"upload": upload, "verify": verify}
            objects.append(entry)
        self._send(200, {"transfer": "basic", "objects": objects})

    def lfs_put(self, body: bytes, oid: str) -> None:
        if hashlib.sha256(body).hexdigest() != oid:
            raise _HttpError(400, message="the content is not the object's")
        self.hub.objects[oid] = body
        self._send(200)

    def lfs_verify(self, body: bytes, oid: str) -> None:
        if len(self.hub.objects.get(oid, b"")) != json.loads(body)["size"]:
            raise _HttpError(404, message="no such object")
        self._send(200, {})

    def lfs_get(self, body: bytes, oid: str) -> None:
        if self.headers.get("Authorization"):
            raise _HttpError(400, message="a token does not belong here")
        self._send_file(File(self.hub.objects[oid], lfs=True), {})

    def push_commit(self, body: bytes, repo_id: str, revision: str) -> None:
        repo = self._repo(repo_id, write=True)
        files = dict(repo.commits[self._commit(repo, revision)])
        for line in body.splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "file":
                files[value["path"]] = File(base64.b64decode(value["content"]), lfs=False)
            elif item["key"] == "lfsFile":
                files[value["path"]] = File(self.hub.objects[value["oid"]], lfs=True)
            elif item["key"] == "deletedFile":
                if value["path"] not in files:
                    raise _HttpError(404, "EntryNotFound", "A file with this name doesn't exist")
                del files[value["path"]]
        sha = repo.commit(revision, files)
        self._send(200, {"commitUrl": f"{self.hub.endpoint}/{repo_id}/commit/{sha}", "commitOid": sha})

    def model_info(self, body: bytes, repo_id: str, revision: str | None) -> None:
        repo = self._repo(repo_id)
        sha = self._commit(repo, revision or "main")
        siblings = [{"rfilename": path} for path in sorted(repo.commits[sha])]
        info = {"_id": repo_id, "id": repo_id, "sha": sha, "private": repo.private, "siblings": siblings}
        gated = "auto" if repo.gated else False
        self._send(200, {**info, "modelId": repo_id, "gated": gated, "tags": [], "downloads": 0, "likes": 0})

    def tree(self, body: bytes, repo_id: str, revision: str) -> None:
        repo = self._repo(repo_id)
        self._send(200, _entries(repo.commits[self._commit(repo, revision)]))

    def paths_info(self, body: bytes, repo_id: str, revision: str) -> None:
        repo = self._repo(repo_id)
        files = repo.commits[self._commit(repo, revision)]
        paths = json.loads(body)["paths"]
        self._send(200, _entries({path: file for path, file in files.items() if path in paths}))

    def resolve(self, body: bytes, repo_id: str, revision: str, path: str) -> None:
        repo = self._repo(repo_id)
        user = self._user()
        if repo.gated and user != repo_id.split("/")[0]:
            # What a gated repository is, everybody may ask; its files are for those who were let in.
            raise _HttpError(401 if user is None else 403, "GatedRepo", f"Access to model {repo_id} is restricted")
        sha = self._commit(repo, revision)
        file = repo.commits[sha].get(path)
        if file is None:
            raise _HttpError(404, "EntryNotFound", "Entry not found")
        headers = {"X-Repo-Commit": sha}
        if file.lfs:
            headers["X-Linked-Etag"] = f'"{file.oid}"'
            headers["X-Linked-Size"] = str(len(file.data))
            headers["Location"] = f"{self.hub.cdn}/lfs/{file.oid}"
            self._send(302, b"", headers)
        else:
            self._send_file(file, headers)

    def _send_file(self, file: File, headers: dict[str, str]) -> None:
        headers = {**headers, "ETag": f'"{file.oid}"', "Accept-Ranges": "bytes"}
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if wanted is None:
            self._send(200, file.data, headers)
            return
        start, size = int(wanted[1]), len(file.data)
        stop = min(int(wanted[2]) + 1, size) if wanted[2] else size
        if start >= size:
            raise _HttpError(416, message="out of range")
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
        self._send(206, file.data[start:stop], headers)


def _entries(files: dict[str, File]) -> list[dict[str, Any]]:
    entries = []
    for path, file in sorted(files.items()):
        entry: dict[str, Any] = {"type": "file", "path": path, "size": len(file.data), "oid": file.oid}
        if file.lfs:
            entry["lfs"] = {"oid": file.oid, "size": len(file.data), "pointerSize": 130}
        entries.append(entry)
    return entries


_REPO = r"([\w.-]+/[\w.-]+)"
ROUTES: list[tuple[str, str, Callable[..., None]]] = [
    ("POST", "/api/repos/create", _Handler.create_repo),
    ("POST", "/api/validate-yaml", _Handler.validate_yaml),
    ("POST", f"/api/models/{_REPO}/branch/(.+)", _Handler.create_branch),
    ("POST", f"/api/models/{_REPO}/preupload/(.+)", _Handler.preupload),
    ("POST", f"/api/models/{_REPO}/commit/(.+)", _Handler.push_commit),
    ("POST", f"/api/models/{_REPO}/paths-info/(.+)", _Handler.paths_info),
    ("GET", f"/api/models/{_REPO}/tree/(.+)", _Handler.tree),
    ("GET", f"/api/models/{_REPO}(?:/revision/(.+))?", _Handler.model_info),
    ("POST", rf"/{_REPO}\.git/info/lfs/objects/batch", _Handler.lfs_batch),
    ("PUT", "/lfs/([0-9a-f]{64})", _Handler.lfs_put),
    ("GET HEAD", "/lfs/([0-9a-f]{64})", _Handler.lfs_get),
    ("POST", "/verify/([0-9a-f]{64})", _Handler.lfs_verify),
    ("GET HEAD", f"/{_REPO}/resolve/([^/]+)/(.+)", _Handler.resolve),
]
