"""Requests and tokens a second of `task=serve`, against asking one at a time and against the bare policy.

    python benchmarks/serve.py [--requests 256] [--model FOLDER] [--device cpu] [--json]

One run, one machine, the same prompts throughout; the server has a process of its own. ``sequential`` is one client
that waits for each answer; ``clients_8`` and ``clients_64`` send as many at once; ``floor`` is `LocalPolicy.complete`
of all prompts without a server, 64 at a time. Compare the ratios: absolute numbers belong to the machine.

2026-11-23, the shipped model, two cores: 8 clients 2.4x and 64 clients 1.7x of sequential (44 requests a second). With
a model that small the client is what limits 64 of them: httpcore walks through all its connections at every request
(encode/httpcore#1035).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

from mmo_rl.chat.endpoint import Endpoint
from mmo_rl.lm.load import load_model
from mmo_rl.lm.model import SHIPPED, ModelSpec
from mmo_rl.market.arena import MarketArena
from mmo_rl.market.spec import MarketSpec
from mmo_rl.policy.endpoint import EndpointPolicy
from mmo_rl.policy.local import LocalPolicy
from mmo_rl.serve.engine import Engine
from mmo_rl.serve.versions import Catalogue, ServedModel
from mmo_rl.types import Message

CLIENTS = (1, 8, 64)


def serve(model: str, device: str, port: Connection) -> None:
    """A server in a process of its own; tells where it listens."""
    import uvicorn

    from mmo_rl.serve.app import Api, create_app, listen

    spec = ModelSpec(name="tiny", base_model=model, context_length=512, max_completion_tokens=24)
    engine = Engine(
        load=lambda version: load_model(version.path, device=device), max_batch=64, max_loaded=1, max_queue=4096
    )
    with listen("127.0.0.1", 0) as listening, engine:
        app = create_app(Api(engine, Catalogue([ServedModel("tiny", spec)])))
        port.send(listening.getsockname()[1])
        uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False)).run([listening])


@contextmanager
def serving(model: str, device: str) -> Iterator[str]:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    server = context.Process(target=serve, args=(model, device, there), daemon=True)
    server.start()
    there.close()
    try:
        yield f"http://127.0.0.1:{here.recv()}/v1"
    finally:
        server.terminate()
        server.join()


class Recording:
    """Plays with another policy and keeps the prompts."""

    name, version = "tiny", 0

    def __init__(self, inner: LocalPolicy) -> None:
        self._inner = inner
        self.prompts: list[Sequence[Message]] = []

    async def complete(self, prompts: Sequence[Sequence[Message]], **options: Any) -> Any:
        self.prompts += prompts
        return await self._inner.complete(prompts, **options)


async def timed(policy: Any, prompts: Sequence[Sequence[Message]]) -> tuple[float, int]:
    began = time.perf_counter()
    answers = await policy.complete(prompts, temperature=1.0, seed=0)
    seconds = time.perf_counter() - began
    assert all(answer.error is None for answer in answers)
    return seconds, sum(len(answer.token_ids) for answer in answers)


async def measure(requests: int, location: str, device: str, repetitions: int) -> dict[str, float]:
    model, tokenizer = load_model(location, device=device)
    local = LocalPolicy(
        model=model, tokenizer=tokenizer, name="tiny", version=0, max_completion_tokens=24, batch_size=64
    )
    recording = Recording(local)
    await MarketArena(spec=MarketSpec()).play(
        recording, market_seeds=range(max(1, requests // 16)), seats=[None] * 2, temperature=1.0, seed=0
    )
    prompts = recording.prompts[-requests:]
    results: dict[str, float] = {"requests": len(prompts)}
    best: dict[str, tuple[float, int]] = {}
    with serving(location, device) as url:
        for _ in range(1 + repetitions):  # the first warms up
            for name, clients in (("floor", 0), *((f"clients_{n}", n) for n in CLIENTS)):
                if not clients:
                    took = await timed(local, prompts)
                else:
                    async with EndpointPolicy(
                        model="tiny",
                        endpoint=Endpoint(base_url=url, api_key_env=None, concurrency=clients),
                        max_completion_tokens=24,
                    ) as policy:
                        took = await timed(policy, prompts)
                best[name] = min(best.get(name, took), took)
            if "warm" not in results:
                results["warm"] = 1
                best.clear()
    del results["warm"]
    for name, (seconds, tokens) in best.items():
        results[f"{name}_requests_per_s"] = round(len(prompts) / seconds, 1)
        results[f"{name}_tokens_per_s"] = round(tokens / seconds, 1)
    for clients in CLIENTS[1:]:
        results[f"clients_{clients}_over_sequential"] = round(best["clients_1"][0] / best[f"clients_{clients}"][0], 2)
    results["clients_64_over_floor"] = round(best["floor"][0] / best["clients_64"][0], 2)
    return results


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=256)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--model", default=str(SHIPPED / "tiny"), help="a folder in Hugging Face format")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    results = asyncio.run(measure(arguments.requests, arguments.model, arguments.device, arguments.repetitions))
    if arguments.json:
        print(json.dumps(results))
    else:
        for name, value in results.items():
            print(f"{name:32} {value:>10,.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
