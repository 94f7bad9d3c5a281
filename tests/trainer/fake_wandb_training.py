"""W&B Training on a real socket: the routes that its client uses, with a key, models, checkpoints, jobs and answers."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

KEY = "a-key-of-forty-letters-0123456789abcdef0"
PAGE = 3
"""Events a page: fewer than a job has, so that they are paged through."""


@dataclass
class Fake:
    """``hold`` keeps jobs from ending; ``fail`` is the reason that they fail with; ``steps`` their gradient steps;
    ``answers`` are (status, headers, body) sent to the next requests whose path holds the key, ``drop`` closes the
    connection after such a request was carried out. ``publishes`` False: jobs make no checkpoint."""

    url: str = ""
    hold: threading.Event = field(default_factory=threading.Event)
    fail: str | None = None
    steps: int = 4
    publishes: bool = True
    answers: dict[str, list[tuple[int, dict[str, str]]]] = field(default_factory=dict)
    drop: set[str] = field(default_factory=set)
    models: dict[str, dict[str, Any]] = field(default_factory=dict)
    jobs: list[dict[str, Any]] = field(default_factory=list)
    chats: list[dict[str, Any]] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    # --- routes -------------------------------------------------------------------------------------------------------

    def create_model(self, body: dict[str, Any]) -> dict[str, Any]:
        model_id = f"m-{body['name']}"
        with self.lock:
            model = self.models.setdefault(
                model_id,
                {
                    "id": model_id,
                    "entity": body["entity"] or "team",
                    "project": body["project"],
                    "name": body["name"],
                    "base_model": body["base_model"],
                    "run_id": None,
                    "steps": [],
                },
            )
        return {k: v for k, v in model.items() if k != "steps"}

    def checkpoints(self, model_id: str) -> dict[str, Any]:
        steps = sorted(self.models[model_id]["steps"], reverse=True)[:1]
        rows = [{"id": f"c{step}", "step": step, "metrics": {"loss": 0.5}} for step in steps]
        return {"data": rows, "has_more": False}

    def create_job(self, body: dict[str, Any]) -> dict[str, Any]:
        with self.lock:
            self.jobs.append(body)
            return {"id": f"job-{len(self.jobs)}"}

    def events(self, job_id: str, after: str | None) -> dict[str, Any]:
        job = self.jobs[int(job_id.removeprefix("job-")) - 1]
        found = [{"id": "e0", "type": "training_started", "data": {"num_sequences": self.steps}}]
        done = self.steps // 2 if self.hold.is_set() else self.steps
        found += [
            {"id": f"e{n + 1}", "type": "gradient_step", "data": {"policy_loss": 0.5 - n / 10, "grad_norm": 1.0}}
            for n in range(done)
        ]
        if not self.hold.is_set():
            if self.fail is not None:
                found.append({"id": "end", "type": "training_failed", "data": {"error_message": self.fail}})
            else:
                found.append({"id": "end", "type": "training_ended", "data": {}})
                self.finish(job)
        ids = [event["id"] for event in found]
        rest = found[ids.index(after) + 1 :] if after else found
        return {"data": rest[:PAGE], "has_more": len(rest) > PAGE}

    def finish(self, job: dict[str, Any]) -> None:
        """Publishes a job's checkpoint, once."""
        steps = self.models[job["model_id"]]["steps"]
        if self.publishes and not job.get("ended"):
            job["ended"] = True
            steps.append(max(steps, default=0) + 1)

    def chat(self, body: dict[str, Any]) -> dict[str, Any]:
        """A model that buys where the news are good, and the more so the more it was trained."""
        prompt = str(body["messages"][-1]["content"])
        step = int(re.findall(r":step(\d+)$", body["model"])[0])
        with self.lock:
            self.chats.append({"model": body["model"]})
            number = len(self.chats)
        ticker = (re.findall(r"^([A-Z]{2,6}) ", prompt, re.MULTILINE) or ["NOVA"])[number % 2 - 1]
        verb = ("BUY", "SELL", "HOLD", "BUY")[(number + step) % 4]
        text = json.dumps({"ticker": ticker, "action": verb, "size": 1 + number % 3})
        ids = [1 + ord(letter) % 97 for letter in text]
        content = [{"token": f"token_id:{i}", "logprob": -0.5, "bytes": None, "top_logprobs": []} for i in ids]
        return {
            "id": "x",
            "object": "chat.completion",
            "created": 0,
            "model": body["model"],
            "choices": [
                {
                    "index": 0,
                    "finish_reason": "stop",
                    "message": {"role": "assistant", "content": text},
                    "logprobs": {"content": content} if body.get("logprobs") else None,
                }
            ],
            "usage": {"prompt_tokens": 50, "completion_tokens": len(ids), "total_tokens": 50 + len(ids)},
        }

    def route(self, method: str, path: str, query: dict[str, list[str]], body: Any) -> Any:
        if (method, path) == ("POST", "/v1/preview/models"):
            return self.create_model(body)
        if (method, path) == ("POST", "/v1/preview/training-jobs"):
            return self.create_job(body)
        if (method, path) == ("POST", "/v1/chat/completions"):
            return self.chat(body)
        if found := re.fullmatch(r"/v1/preview/models/([^/]+)/checkpoints", path):
            return self.checkpoints(found[1])
        if found := re.fullmatch(r"/v1/preview/training-jobs/([^/]+)/events", path):
            return self.events(found[1], query.get("after", [None])[0])
        return None

    def scripted(self, path: str) -> tuple[int, dict[str, str]] | None:
        for part, answers in self.answers.items():
            if part in path and answers:
                return answers.pop(0)
        return None


@contextmanager
def serving(fake: Fake) -> Iterator[Fake]:
    """Serves ``fake`` on a free port of this machine."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self, method: str) -> None:
            parts = urlsplit(self.path)
            body = json.loads(self.rfile.read(int(self.headers.get("content-length") or 0)) or b"null")
            fake.requests.append(f"{method} {parts.path}")
            if self.headers["authorization"] != f"Bearer {KEY}":
                self.reply(401, {"error": {"message": "no such key"}}, {})
                return
            if (scripted := fake.scripted(parts.path)) is not None:
                self.reply(scripted[0], {"error": {"message": "scripted"}}, scripted[1])
                return
            found = fake.route(method, parts.path, parse_qs(parts.query), body)
            if any(part in parts.path for part in fake.drop):
                self.close_connection = True
                return
            self.reply(404 if found is None else 200, found or {"error": {"message": "no such route"}}, {})

        def reply(self, status: int, content: Any, headers: dict[str, str]) -> None:
            payload = json.dumps(content).encode()
            self.send_response(status)
            for name, value in {"content-type": "application/json", **headers}.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(payload)))
            self.end_headers()
            self.wfile.write(payload)

        def do_GET(self) -> None:
            self.answer("GET")

        def do_POST(self) -> None:
            self.answer("POST")

        def log_message(self, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    fake.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield fake
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
