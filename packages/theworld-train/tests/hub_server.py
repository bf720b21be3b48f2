"""A stand-in for the Hugging Face hub: as much of its HTTP as pushing and loading use, on a loopback port.

A process of its own, because the client reads its endpoint when it is imported. Usage: ``python hub_server.py FOLDER``;
it prints its port, and ends when its standard input does. ``FOLDER/requests`` gets every request's line and body,
``FOLDER/state.json`` tells the repositories, ``FOLDER/blobs`` holds what is in them. Tokens: ``hf_writer`` may write,
``hf_reader`` may read, all others are unknown.
"""

import base64
import hashlib
import json
import os
import re
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

FOLDER = Path(sys.argv[1])
RIGHTS = {"hf_writer": "write", "hf_reader": "read"}
repos: dict[str, dict] = {}
"""Of each: whether it is private, its branches, and its commits as path -> digest."""
blobs: dict[str, bytes] = {}
lock = threading.Lock()


class Refused(Exception):
    def __init__(self, status: int, code: str = "", message: str = "") -> None:
        self.status, self.code, self.message = status, code, message


def put(content: bytes) -> str:
    digest = hashlib.sha256(content).hexdigest()
    blobs[digest] = content
    (FOLDER / "blobs" / digest).write_bytes(content)
    return digest


def commit(repo: dict, branch: str, files: dict[str, str], message: str) -> str:
    oid = hashlib.sha1(json.dumps([files, message, len(repo["commits"])]).encode()).hexdigest()
    repo["commits"][oid] = {"files": files, "message": message}
    repo["branches"][branch] = oid
    (FOLDER / "state.json").write_text(json.dumps(repos))
    return oid


class Hub(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.answer()

    do_HEAD = do_POST = do_PUT = do_GET

    def log_message(self, *_: object) -> None:
        """Not to standard error."""

    def answer(self) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.url = unquote(urlsplit(self.path).path)
        with lock:
            with (FOLDER / "requests").open("ab") as file:
                file.write(f"{self.command} {self.path}\n".encode() + self.body + b"\n")
            try:
                status, headers, content = 200, {}, self.content()
                if isinstance(content, tuple):
                    headers, content = content
            except Refused as refused:
                status, content = refused.status, refused.message.encode()
                headers = {"X-Error-Code": refused.code, "X-Error-Message": refused.message}
                if status == 409:
                    content = {"url": f"{self.home}/{refused.message}"}
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    @property
    def token(self) -> str:
        return self.headers.get("Authorization", "").removeprefix("Bearer ")

    @property
    def home(self) -> str:
        return f"http://{self.headers['Host']}"

    def may(self, right: str) -> None:
        if self.token and self.token not in RIGHTS:
            raise Refused(401, message="Invalid credentials in Authorization header")
        if right == "write" and RIGHTS.get(self.token) != "write":
            raise Refused(403, message="You don't have the rights to do this")

    def repo(self, name: str, right: str) -> dict:
        self.may(right)
        if name not in repos or (repos[name]["private"] and not self.token):
            raise Refused(401 if not self.token else 404, "RepoNotFound", "Repository not found")
        return repos[name]

    def files(self, repo: dict, revision: str) -> tuple[str, dict[str, str]]:
        oid = repo["branches"].get(revision, revision)
        if oid not in repo["commits"]:
            raise Refused(404, "RevisionNotFound", "Invalid rev id")
        return oid, repo["commits"][oid]["files"]

    def content(self):
        url, post = self.url, self.command == "POST"
        if post and url == "/api/repos/create":
            self.may("write")
            asked = json.loads(self.body)
            name = f"{asked['organization']}/{asked['name']}"
            if name in repos:
                raise Refused(409, message=name)
            private = asked.get("visibility") == "private" or bool(asked.get("private"))
            repos[name] = {"private": private, "branches": {}, "commits": {}}
            commit(repos[name], "main", {".gitattributes": put(b"*.safetensors filter=lfs\n")}, "initial commit")
            return {"url": f"{self.home}/{name}"}
        if post and url == "/api/validate-yaml":
            good = json.loads(self.body)["content"].startswith("---\n")
            return {"errors": [], "warnings": [] if good else [{"message": "no metadata"}]}
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/branch/(.+)", url):
            repo = self.repo(found[1], "write")
            if found[2] in repo["branches"]:
                raise Refused(409, message=found[1])
            repo["branches"][found[2]] = repo["branches"]["main"]
            return {}
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/preupload/(.+)", url):
            _, files = self.files(self.repo(found[1], "write"), found[2])
            modes = []
            for one in json.loads(self.body)["files"]:
                lfs, there = one["path"].endswith(".safetensors"), files.get(one["path"])
                if there and not lfs:
                    there = hashlib.sha1(b"blob %d\0" % len(blobs[there]) + blobs[there]).hexdigest()
                mode = "lfs" if lfs else "regular"
                modes.append({"path": one["path"], "uploadMode": mode, "shouldIgnore": False, "oid": there})
            return {"files": modes}
        if post and url.endswith(".git/info/lfs/objects/batch"):
            self.may("write")
            objects = []
            for one in json.loads(self.body)["objects"]:
                upload = {"actions": {"upload": {"href": f"{self.home}/lfs/{one['oid']}"}}}
                objects.append({**one, **({} if one["oid"] in blobs else upload)})
            return {"transfer": "basic", "objects": objects}
        if self.command == "PUT" and url.startswith("/lfs/"):
            return {"stored": put(self.body)}
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/(.+)", url):
            return self.new_commit(found[1], found[2])
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", url):
            repo = self.repo(found[1], "read")
            oid, files = self.files(repo, found[2] or "main")
            siblings = [{"rfilename": name} for name in files]
            return {"id": found[1], "sha": oid, "private": repo["private"], "siblings": siblings, "tags": []}
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/([^/]+)(?:/(.+))?", url):
            _, files = self.files(self.repo(found[1], "read"), found[2])
            under = f"{found[3]}/" if found[3] else ""
            if under and not any(name.startswith(under) for name in files):
                raise Refused(404, "EntryNotFound", "Entry not found")
            sizes = {name: len(blobs[digest]) for name, digest in files.items() if name.startswith(under)}
            return [{"type": "file", "path": name, "size": size, "oid": files[name]} for name, size in sizes.items()]
        if found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", url):
            oid, files = self.files(self.repo(found[1], "read"), found[2])
            if found[3] not in files:
                raise Refused(404, "EntryNotFound", "Entry not found")
            digest = files[found[3]]
            return {"X-Repo-Commit": oid, "ETag": f'"{digest}"'}, blobs[digest]
        raise Refused(404, message=f"{self.command} {url} is not part of this stand-in")

    def new_commit(self, name: str, branch: str) -> dict:
        repo = self.repo(name, "write")
        files, message = dict(self.files(repo, branch)[1]), ""
        for line in self.body.splitlines():
            key, value = (one := json.loads(line))["key"], one["value"]
            if key == "header":
                message = value["summary"]
            elif key == "file":
                files[value["path"]] = put(base64.b64decode(value["content"]))
            elif key == "lfsFile":
                assert value["oid"] in blobs
                files[value["path"]] = value["oid"]
            elif key == "deletedFile":
                del files[value["path"]]
        oid = commit(repo, branch, files, message)
        return {"commitUrl": f"{self.home}/{name}/commit/{oid}", "commitOid": oid, "pullRequestUrl": None}


(FOLDER / "blobs").mkdir()
server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
sys.stdout.write(f"{server.server_port}\n")
sys.stdout.flush()
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()  # ends with its parent
server.serve_forever()
