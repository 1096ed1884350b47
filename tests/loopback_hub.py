"""A model hub on the loopback that speaks the Hugging Face Hub's protocol as far as `xbuslib publish` and hf:// use it.

Repositories, commits of plain and large (LFS) files, revisions, and the error codes of the hub's headers. Nothing
leaves the machine; what was asked of it stands in `Hub.asked`.
"""

import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOKEN = "hf_loopback"


class Hub:
    """The server, its repositories {name: [(commit, {path: bytes})]}, and its log."""

    def __init__(self):
        self.repositories, self.large, self.asked, self.private, self.closed = {}, {}, [], {}, False
        hub = self

        class Handler(_Handler):
            state = hub

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        """No more answers, on connections that are open either."""
        self.closed = True
        self.server.shutdown()
        self.server.server_close()

    def commit(self, name, files, deleted=()):
        commits = self.repositories[name]
        whole = {path: content for path, content in (commits[-1][1] if commits else {}).items() if path not in deleted}
        whole |= files
        digest = hashlib.sha1(repr(sorted(whole.items())).encode()).hexdigest()
        commits.append((digest, whole))
        return digest

    def at(self, name, revision):
        """(commit, files) of a revision; None: there is none."""
        commits = self.repositories.get(name, [])
        return commits[-1] if revision == "main" and commits else next(
            (commit for commit in commits if commit[0] == revision), None)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: Hub

    def log_message(self, *_):
        pass

    def parse_request(self):
        if self.state.closed:
            self.close_connection = True
            return False
        return super().parse_request()

    def body(self):
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline().strip() or b"0", 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def answer(self, status, content=b"", **headers):
        content = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for key, value in ({"Content-Type": "application/json", "Content-Length": str(len(content))} | headers).items():
            self.send_header(key.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def refuse(self, status, code):
        self.answer(status, {"error": code}, X_Error_Code=code)

    def writes(self):
        """Whether the request may write; answers it if not."""
        if self.headers.get("Authorization") == f"Bearer {TOKEN}":
            return True
        self.body()
        self.answer(401, {"error": "Invalid username or password."})
        return False

    def do_GET(self):
        path = self.path.partition("?")[0]
        self.state.asked.append((self.command, path))
        if found := re.fullmatch(r"/api/models/([\w.-]+/[\w.-]+)(?:/revision/(.+))?", path):
            name, revision = found.groups()
            if name not in self.state.repositories:
                return self.refuse(404, "RepoNotFound")
            at = self.state.at(name, revision or "main") or (None if revision else ("", {}))  # new: no commit yet
            if at is None:
                return self.refuse(404, "RevisionNotFound")
            return self.answer(200, {"id": name, "sha": at[0], "private": self.state.private.get(name, False),
                                     "tags": [], "downloads": 0, "likes": 0,
                                     "siblings": [{"rfilename": file} for file in sorted(at[1])]})
        if found := re.fullmatch(r"/api/models/([\w.-]+/[\w.-]+)/tree/([^/]+)/?", path):
            at = self.state.at(*found.groups())
            files = at[1] if at else {}  # a new repository has none
            return self.answer(200, [{"type": "file", "path": file, "size": len(content),
                                      "oid": hashlib.sha1(content).hexdigest()} for file, content in files.items()])
        if found := re.fullmatch(r"/([\w.-]+/[\w.-]+)/resolve/([^/]+)/(.+)", path):
            return self.file(*found.groups())
        return self.refuse(404, "EntryNotFound")

    do_HEAD = do_GET

    def file(self, name, revision, path):
        if name not in self.state.repositories:
            return self.refuse(404, "RepoNotFound")
        at = self.state.at(name, revision)
        if at is None:
            return self.refuse(404, "RevisionNotFound")
        if path not in at[1]:
            return self.answer(404, {"error": "EntryNotFound"}, X_Error_Code="EntryNotFound", X_Repo_Commit=at[0])
        content = at[1][path]
        return self.answer(200, content, ETag=f'"{hashlib.sha256(content).hexdigest()}"', X_Repo_Commit=at[0],
                           Content_Type="application/octet-stream")

    def do_PUT(self):
        content = self.body()
        self.state.asked.append(("PUT", self.path))
        self.state.large[hashlib.sha256(content).hexdigest()] = content
        self.answer(200)

    def do_POST(self):
        path = self.path.partition("?")[0]
        self.state.asked.append(("POST", path))
        if path == "/api/validate-yaml":
            self.body()
            return self.answer(200, {"errors": [], "warnings": []})
        if not self.writes():
            return None
        content = self.body()
        if path == "/api/repos/create":
            return self.create(json.loads(content))
        if found := re.fullmatch(r"/api/models/(.+?/.+?)/preupload/main", path):
            return self.answer(200, {"files": [
                {"path": file["path"], "shouldIgnore": False,
                 "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular"}
                for file in json.loads(content)["files"]]})
        if found := re.fullmatch(r"/(.+?/.+?)\.git/info/lfs/objects/batch", path):
            return self.answer(200, {"transfer": "basic", "objects": [
                {"oid": item["oid"], "size": item["size"],
                 "actions": {"upload": {"href": f"{self.state.url}/large/{item['oid']}", "header": {}}}}
                for item in json.loads(content)["objects"]]}, Content_Type="application/vnd.git-lfs+json")
        if found := re.fullmatch(r"/api/models/(.+?/.+?)/commit/main", path):
            return self.write(found[1], [json.loads(line) for line in content.splitlines() if line.strip()])
        return self.refuse(404, "EntryNotFound")

    def create(self, wanted):
        name = f"{wanted['organization']}/{wanted['name']}" if wanted.get("organization") else wanted["name"]
        there = name in self.state.repositories
        if not there:
            self.state.repositories[name] = []
            self.state.private[name] = wanted.get("private") or wanted.get("visibility") == "private"
        self.answer(409 if there else 200, {"url": f"{self.state.url}/{name}", "name": name, "id": name})

    def write(self, name, lines):
        files = {}
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.state.large[value["oid"]]
        deleted = {line["value"]["path"] for line in lines if line["key"] == "deletedFile"}
        digest = self.state.commit(name, files, deleted)
        address = f"{self.state.url}/{name}/commit/{digest}"
        self.answer(200, {"success": True, "commitOid": digest, "commitUrl": address})
