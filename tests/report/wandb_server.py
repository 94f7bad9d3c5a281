"""The part of W&B's server that a run talks to, on loopback: what a client sends is kept, uploads included."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "0123456789abcdef0123456789abcdef01234567"


class WandbServer:
    """``rows`` are the history rows of all runs in order, ``configs`` and ``summaries`` by run id, ``artifacts`` by
    name with their uploaded files, ``bodies`` everything that came, for searching."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.runs: dict[str, dict[str, Any]] = {}
        self.summaries: list[dict[str, Any]] = []
        self.artifacts: dict[str, dict[str, Any]] = {}
        self.files: dict[str, bytes] = {}
        self.bodies: list[bytes] = []
        self.unknown: list[str] = []
        self.url = ""

    # --- what is answered -------------------------------------------------------------------------------------------

    def graphql(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        """The data of one operation; an unknown one is noted and refused."""
        found = re.search(r"(?:query|mutation)\s+(\w+)", query)
        name = found[1] if found else ""
        answer = getattr(self, f"on_{name}", None)
        if answer is None:
            self.unknown.append(name)
            return {"errors": [{"message": f"{name} is not known here"}]}
        return {"data": answer(variables)}

    def on_Viewer(self, _: dict[str, Any]) -> Any:
        teams = {"edges": [{"node": {"name": "team"}}]}
        return {"viewer": {"id": "u", "entity": "team", "username": "u", "flags": "{}", "teams": teams}}

    def on_ServerFeaturesQuery(self, _: dict[str, Any]) -> Any:
        return {"serverInfo": {"features": []}}

    def on_OrganizationCoreWeaveOrganizationID(self, _: dict[str, Any]) -> Any:
        return {"entity": {"organization": {"coreWeaveOrganizationId": None}}}

    def on_UpsertBucket(self, variables: dict[str, Any]) -> Any:
        run = self.runs.setdefault(variables["name"], {})
        run |= {k: v for k, v in variables.items() if v is not None}
        bucket = {
            "id": f"bucket-{variables['name']}",
            "name": variables["name"],
            "displayName": variables.get("displayName"),
            "config": variables.get("config") or "{}",
            "sweepName": None,
            "historyLineCount": 0,
            "project": {"id": "p", "name": variables.get("project"), "entity": {"id": "e", "name": "team"}},
        }
        return {"upsertBucket": {"bucket": bucket, "inserted": True}}

    def on_RunStatusAndResume(self, _: dict[str, Any]) -> Any:
        return {"model": {"id": "p", "name": "mmo-rl", "entity": {"id": "e", "name": "team"}, "bucket": None}}

    on_RunResumeStatus = on_RunStatusAndResume

    def on_CreateRunFiles(self, variables: dict[str, Any]) -> Any:
        files = [{"name": name, "uploadUrl": self._upload(f"run/{name}")} for name in variables["files"]]
        return {"createRunFiles": {"runID": "r", "uploadHeaders": [], "files": files}}

    def on_CreateArtifact(self, variables: dict[str, Any]) -> Any:
        flat = variables.get("input", variables)
        name = flat.get("artifactCollectionName") or flat.get("artifactCollectionNames", ["?"])[0]
        self.artifacts[name] = {"type": flat.get("artifactTypeName"), "metadata": flat.get("metadata")}
        artifact = {"id": name, "digest": "d", "state": "PENDING", "aliases": [], "artifactSequence": {"id": "s"}}
        artifact["artifactSequence"] = {"id": "s", "name": name, "latestArtifact": None}
        return {"createArtifact": {"artifact": artifact}}

    def on_CreateArtifactManifest(self, variables: dict[str, Any]) -> Any:
        name = variables.get("artifactID", "?")
        file = {"id": "f", "name": "m", "displayName": "m", "uploadUrl": self._upload(f"manifest/{name}")}
        manifest = {"id": "m", "file": {**file, "uploadHeaders": []}}
        return {"createArtifactManifest": {"artifactManifest": manifest}}

    on_UpdateArtifactManifest = on_CreateArtifactManifest

    def on_CreateArtifactFiles(self, variables: dict[str, Any]) -> Any:
        edges = []
        for spec in variables.get("input", variables)["artifactFiles"]:
            url = self._upload(f"artifact/{spec['artifactID']}/{spec['name']}")
            node = {"id": "f", "name": spec["name"], "displayName": spec["name"], "uploadUrl": url}
            node |= {"uploadHeaders": [], "uploadMultipartUrls": None, "storagePath": "s", "artifact": {"id": "a"}}
            edges.append({"node": node})
        return {"createArtifactFiles": {"files": {"edges": edges}}}

    def on_ArtifactType(self, variables: dict[str, Any]) -> Any:
        return {"project": {"artifact": None, "artifactType": {"id": "t", "name": variables.get("name")}}}

    def on_CommitArtifact(self, variables: dict[str, Any]) -> Any:
        self.artifacts[variables["artifactID"]]["committed"] = True
        return {"commitArtifact": {"artifact": {"id": variables["artifactID"], "digest": "d"}}}

    def _upload(self, name: str) -> str:
        return f"{self.url}/upload/{base64.urlsafe_b64encode(name.encode()).decode()}"

    # --- what is taken ------------------------------------------------------------------------------------------------

    def stream(self, content: dict[str, Any]) -> None:
        files = content.get("files") or {}
        for name, chunk in files.items():
            lines = chunk["content"]
            if name == "wandb-history.jsonl":
                self.rows += [json.loads(line) for line in lines]
            elif name == "wandb-summary.json":
                self.summaries += [json.loads(line) for line in lines]


@contextmanager
def serving() -> Iterator[WandbServer]:
    """A server on a free port of loopback."""
    state = WandbServer()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _body(self) -> bytes:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.headers.get("Content-Encoding") == "gzip":
                import gzip

                body = gzip.decompress(body)
            state.bodies.append(body)
            return body

        def _answer(self, content: Any, status: int = 200) -> None:
            data = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def do_POST(self) -> None:
            body = self._body()
            if base64.b64encode(f"api:{KEY}".encode()).decode() not in self.headers.get("Authorization", ""):
                self._answer({"errors": [{"message": "bad key"}]}, 401)
            elif self.path == "/graphql":
                asked = json.loads(body)
                self._answer(state.graphql(asked["query"], asked.get("variables") or {}))
            elif self.path.endswith("/file_stream"):
                state.stream(json.loads(body))
                self._answer({"exitcode": None, "limits": {}})
            else:
                self._answer({})

        def do_GET(self) -> None:
            self._answer({})

        def do_PUT(self) -> None:
            body = self._body()
            state.files[base64.urlsafe_b64decode(self.path.rpartition("/")[2]).decode()] = body
            digest = base64.b64encode(hashlib.md5(body).digest()).decode()
            self.send_response(200)
            self.send_header("ETag", digest)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None: ...

    class Server(ThreadingHTTPServer):
        def handle_error(self, *_: Any) -> None:
            """A client that leaves is no error."""

    server = Server(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
