"""A hub on the loopback: what huggingface_hub asks of huggingface.co, over HTTP, with its headers and its errors.

Repositories with branches and commits, files in git or by LFS, tokens, private and gated repositories. It keeps all in
memory, and does what a test asks of it to one of the next requests: answer with a status, break off, wait.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

WRITES, READS = "hf_of_ann", "hf_of_bob"  # tokens: of ann, who may write below ann/, and of bob, who may write nowhere
MAIN = "main"


@dataclass
class Repository:
    private: bool = False
    gated: bool = False
    branches: dict[str, str] = field(default_factory=dict)  # name -> commit
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)  # commit -> its files
    messages: dict[str, str] = field(default_factory=dict)

    def commit(self, files: dict[str, bytes], branch: str = MAIN, message: str = "") -> str:
        """Put these files on a branch, in the place of all that are there."""
        parts = [f"{len(self.commits)} {branch} {message}".encode(), *(p.encode() + files[p] for p in sorted(files))]
        name = hashlib.sha1(b"\0".join(parts)).hexdigest()
        self.commits[name], self.branches[branch], self.messages[name] = dict(files), name, message
        return name

    def files(self, branch: str = MAIN) -> dict[str, bytes]:
        return self.commits[self.branches[branch]]


def oid(path: str, content: bytes) -> str:
    """What names the content of a file: sha256 where it is by LFS, else git's."""
    if by_lfs(path):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def by_lfs(path: str) -> bool:
    return path.endswith((".safetensors", ".bin", ".ckpt"))


class Hub(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.lock = threading.RLock()
        self.go = threading.Event()  # what waits, waits for it
        self.forget()

    def forget(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.objects: dict[str, bytes] = {}  # by LFS, with or without a commit
        self.asked: list[str] = []  # METHOD path
        self.faults: list[
            tuple[str, Any]
        ] = []  # a part of METHOD path -> a status, "break", "wait", "truncate", or what is done first

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    @property
    def store(self) -> str:
        """Where large files lie: another host, which is told no token."""
        return f"http://localhost:{self.server_address[1]}/lfs"

    def holds(self, name: str, files: dict[str, bytes], **options: Any) -> Repository:
        """A repository with these files in its first commit."""
        repository = self.repositories[name] = Repository(**options)
        repository.commit({".gitattributes": b"*.safetensors filter=lfs\n"} | files)
        return repository

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # a connection that was broken off

    @contextmanager
    def serving(self) -> Iterator["Hub"]:
        thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self.go.set()
            self.shutdown()
            self.server_close()
            thread.join()


class Answer(Exception):
    """What is sent in the place of what was asked for."""

    def __init__(self, status: int, code: str = "", message: str = ""):
        super().__init__(status)
        self.status = status
        self.headers = {k: v for k, v in (("X-Error-Code", code), ("X-Error-Message", message)) if v}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub  # pyright: ignore[reportIncompatibleVariableOverride]

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self._answer()

    # ---- the answer

    def _answer(self) -> None:
        split = urlsplit(self.path)
        path, self.query = unquote(split.path), parse_qs(split.query)
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            self.body = self._chunks()
        self.truncate = False
        said = f"{self.command} {path}"
        with self.server.lock:
            self.server.asked.append(said)
            fault = next((f for f in self.server.faults if f[0] in said), None)
            if fault:
                self.server.faults.remove(fault)
        try:
            if fault:
                self._fail(fault[1])
            with self.server.lock:
                self._route(split.path)
        except Answer as e:
            self._send(e.status, json.dumps({"error": str(e)}).encode(), e.headers)

    def _fail(self, how: Any) -> None:
        if how == "wait":
            self.server.go.wait(20)
            raise Answer(503)
        if how == "break":
            self.close_connection = True
            self.connection.shutdown(2)
            raise ConnectionAbortedError
        if callable(how):
            how()
        elif how == "truncate":
            self.truncate = True
        else:
            raise Answer(how)

    def _chunks(self) -> bytes:
        found = b""
        while size := int(self.rfile.readline(), 16):
            found += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return found

    def _send(self, status: int, content: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[: len(content) // 2] if self.truncate else content)
            if self.truncate:
                self.wfile.flush()
                self.close_connection = True

    def _say(self, values: Any) -> None:
        self._send(200, json.dumps(values).encode(), {"Content-Type": "application/json"})

    @property
    def values(self) -> Any:
        return json.loads(self.body)

    # ---- who asks, and for what

    @property
    def user(self) -> str | None:
        said = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if said and said not in (WRITES, READS):
            raise Answer(401, message="Invalid credentials in Authorization header")
        return {WRITES: "ann", READS: "bob"}.get(said)

    def _repository(self, name: str, *, write: bool = False) -> Repository:
        found, owner = self.server.repositories.get(name), name.partition("/")[0]
        if found is None or (found.private and self.user != owner):
            raise Answer(404 if self.user else 401, "RepoNotFound", "Repository not found")
        if write and self.user != owner:
            raise Answer(403 if self.user else 401, message="Forbidden: you may not write here")
        return found

    def _at(self, repository: Repository, revision: str) -> str:
        commit = repository.branches.get(revision, revision)
        if commit not in repository.commits:
            raise Answer(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return commit

    def _route(self, raw: str) -> None:
        if digest := re.fullmatch(r"/lfs/([0-9a-f]{64})", raw):
            if "Authorization" in self.headers:
                raise Answer(400, message="a token was given away")
            return self._put(digest[1]) if self.command == "PUT" else self._object(digest[1])
        self.user  # noqa: B018, a token that is nobody's is not taken anywhere
        for pattern, answer in ROUTES:
            if found := re.fullmatch(pattern, raw):
                return answer(self, *(MAIN if g is None else unquote(g) for g in found.groups()))
        raise Answer(404)

    # ---- reading

    def _info(self, name: str, revision: str) -> None:
        repository = self._repository(name)
        commit = self._at(repository, revision)
        files = repository.commits[commit].items()
        siblings: list[dict[str, Any]] = [{"rfilename": path} for path, _ in files]
        if "blobs" in self.query:
            siblings = [{"rfilename": p, "size": len(c), "blobId": oid(p, c)} | _lfs(p, c) for p, c in files]
        about = {"id": name, "modelId": name, "sha": commit, "private": repository.private, "tags": ["lowerbound"]}
        self._say(about | {"gated": "auto" if repository.gated else False, "siblings": siblings, "downloads": 0})

    def _tree(self, name: str, revision: str) -> None:
        repository = self._repository(name)
        files = repository.commits[self._at(repository, revision)].items()
        entries = [{"type": "file", "path": p, "size": len(c), "oid": oid(p, c)} | _lfs(p, c, "oid") for p, c in files]
        self._say(entries)

    def _resolve(self, name: str, revision: str, path: str) -> None:
        repository = self._repository(name)
        if repository.gated and self.user != name.partition("/")[0]:
            raise Answer(403 if self.user else 401, "GatedRepo", f"Access to model {name} is restricted")
        commit = self._at(repository, revision)
        if (content := repository.commits[commit].get(path)) is None:
            raise Answer(404, "EntryNotFound", "Entry not found")
        headers = {"X-Repo-Commit": commit, "ETag": f'"{oid(path, content)}"'}
        if by_lfs(path):
            linked = {"X-Linked-Size": str(len(content)), "X-Linked-ETag": headers["ETag"]}
            self.server.objects[oid(path, content)] = content
            self._send(302, b"", headers | linked | {"Location": f"{self.server.store}/{oid(path, content)}"})
        else:
            self._send(200, content, headers)

    def _object(self, digest: str) -> None:
        content, asked = self.server.objects[digest], self.headers.get("Range", "")
        if begun := re.fullmatch(r"bytes=(\d+)-", asked):
            first, size = int(begun[1]), len(content)
            self._send(206, content[first:], {"Content-Range": f"bytes {first}-{size - 1}/{size}"})
        else:
            self._send(200, content)

    # ---- writing

    def _create(self) -> None:
        name = f"{self.values['organization']}/{self.values['name']}"
        if self.user != self.values["organization"]:
            raise Answer(403 if self.user else 401, message="You don't have the rights to create a model here")
        if name in self.server.repositories:
            raise Answer(409)
        private = bool(self.values.get("private")) or self.values.get("visibility") == "private"
        self.server.holds(name, {}, private=private)
        self._say({"url": f"{self.server.url}/{name}", "name": name})

    def _branch(self, name: str, branch: str) -> None:
        repository = self._repository(name, write=True)
        if branch in repository.branches:
            raise Answer(409)
        repository.branches[branch] = repository.branches[MAIN]
        self._say({})

    def _validate(self) -> None:
        head = re.match(r"---\n(.*?)\n---\n", self.values["content"], re.DOTALL)
        found = yaml.safe_load(head[1]) if head else None
        warned = [] if isinstance(found, dict) else [{"message": "empty or missing yaml metadata in repo card"}]
        self._say({"errors": [], "warnings": warned})

    def _preupload(self, name: str, revision: str) -> None:
        repository = self._repository(name, write=True)
        there = repository.commits[self._at(repository, revision)]
        files = []
        for f in self.values["files"]:
            path = f["path"]
            more = {"oid": oid(path, there[path])} if path in there else {}
            files.append(
                {"path": path, "uploadMode": "lfs" if by_lfs(path) else "regular", "shouldIgnore": False} | more
            )
        self._say({"files": files})

    def _batch(self, name: str) -> None:
        self._repository(name, write=True)
        objects = []
        for o in self.values["objects"]:
            links = {"upload": {"href": f"{self.server.store}/{o['oid']}"}}
            objects.append(o | ({} if o["oid"] in self.server.objects else {"actions": links}))
        self._say({"transfer": "basic", "objects": objects})

    def _put(self, digest: str) -> None:
        if hashlib.sha256(self.body).hexdigest() != digest:
            raise Answer(400)
        self.server.objects[digest] = self.body
        self._send(200)

    def _commit(self, name: str, branch: str) -> None:
        repository = self._repository(name, write=True)
        files = dict(repository.commits[self._at(repository, branch)])
        lines = [json.loads(line) for line in self.body.splitlines()]
        header = lines[0]["value"]
        if header.get("parentCommit") not in (None, repository.branches[branch]):
            raise Answer(412, message="A commit has happened since. Please refresh and try again.")
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.server.objects[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        commit = repository.commit(files, branch, header["summary"])
        url = f"{self.server.url}/{name}/commit/{commit}"
        self._say({"success": True, "commitOid": commit, "commitUrl": url})


def _lfs(path: str, content: bytes, key: str = "sha256") -> dict[str, Any]:
    if not by_lfs(path):
        return {}
    return {"lfs": {key: oid(path, content), "size": len(content), "pointerSize": 130}}


_NAME = r"([^/]+/[^/]+)"
ROUTES: list[tuple[str, Any]] = [
    (rf"/api/models/{_NAME}(?:/revision/([^/]+))?", Handler._info),
    (rf"/api/models/{_NAME}/tree/([^/]+)", Handler._tree),
    (rf"/api/models/{_NAME}/branch/([^/]+)", Handler._branch),
    (rf"/api/models/{_NAME}/preupload/([^/]+)", Handler._preupload),
    (rf"/api/models/{_NAME}/commit/([^/]+)", Handler._commit),
    (r"/api/repos/create", Handler._create),
    (r"/api/validate-yaml", Handler._validate),
    (rf"/{_NAME}\.git/info/lfs/objects/batch", Handler._batch),
    (rf"/{_NAME}/resolve/([^/]+)/(.+)", Handler._resolve),
]
