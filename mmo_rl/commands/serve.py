"""Serves trained policies as an OpenAI-compatible endpoint, until it is interrupted."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import importlib.util
import json
import os
import signal
import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from mmo_rl.errors import ConfigError
from mmo_rl.types import PolicyVersion

if TYPE_CHECKING:
    from rich.console import Console

    from mmo_rl.config.components import Context
    from mmo_rl.config.settings import Settings
    from mmo_rl.serve.versions import ServedModel, ServedVersion

GRACE_S = 60
"""So long the answers under way may take when the server is asked to stop."""
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def check_config(settings: Settings, overrides: Sequence[str]) -> None:
    """Raises `ConfigError` where a package is missing, a run is none, or the key is not set."""
    from mmo_rl.config.served import served_models

    for package, extra in (("fastapi", "serve"), ("uvicorn", "serve"), ("torch", "local"), ("transformers", "local")):
        if importlib.util.find_spec(package) is None:
            raise ConfigError(
                f"task=serve needs {package}, which isn't installed", hint=f"pip install 'mmo-rl[{extra}]'"
            )
    served_models(settings.options["runs"], settings.nodes["model"], home=settings.home)
    _key(settings.options["api_key_env"])


async def run(
    context: Context,
    *,
    runs: list[str],
    host: str = "127.0.0.1",
    port: Annotated[int, Field(ge=0, le=65535)] = 8000,
    device: Literal["cpu", "cuda"] = "cpu",
    max_batch: Annotated[int, Field(ge=1)] = 64,
    max_loaded: Annotated[int, Field(ge=1)] = 2,
    max_queue: Annotated[int, Field(ge=1)] = 1024,
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None,
    api_key_env: str | None = None,
    verbose: bool = False,
) -> None:
    """Listens at ``host``:``port`` and answers until Ctrl-C or SIGTERM; then what is under way is finished.

    Raises `ConfigError` where the address cannot be had.
    """
    import uvicorn

    from mmo_rl.config.served import served_models
    from mmo_rl.lm.load import load_version
    from mmo_rl.lm.model import require_whole
    from mmo_rl.serve.app import Api, create_app
    from mmo_rl.serve.engine import Engine
    from mmo_rl.serve.versions import Catalogue

    class Server(uvicorn.Server):
        def capture_signals(self) -> Any:
            """Its own handlers would raise the signal again when all is done: a stop would look like a failure."""
            return contextlib.nullcontext()

    console = context.console
    key = _key(api_key_env)
    models = served_models(runs, context.settings.nodes["model"], home=context.home)
    listening = _listen(host, port)

    def load(version: ServedVersion) -> tuple[Any, Any]:
        spec = version.spec
        require_whole(PolicyVersion(spec.name, 0, version.path), spec)
        return load_version(version.path, spec, device=device)

    engine = Engine(
        load=load,
        max_batch=max_batch,
        max_loaded=max_loaded,
        max_queue=max_queue,
        max_completion_tokens=max_completion_tokens,
    )
    note = (lambda line: console.print(line, markup=False, highlight=False)) if verbose else None
    with listening, engine:
        app = create_app(Api(engine, Catalogue(models), key=key, note=note))
        config = uvicorn.Config(app, log_config=None, access_log=False, timeout_graceful_shutdown=GRACE_S)
        server = Server(config)
        _tell(console, models, host, listening.getsockname()[1], key_variable=api_key_env)
        _stop_on_signals(server, engine, console)
        await server.serve([listening])
    console.print("stopped")


def _key(variable: str | None) -> str | None:
    if variable is None:
        return None
    key = os.environ.get(variable, "").strip()
    if not key:
        raise ConfigError(
            f"{variable} is not set", hint=f"export {variable}=...; or serve.api_key_env=null asks for none"
        )
    return key


def _listen(host: str, port: int) -> socket.socket:
    from mmo_rl.serve.app import listen

    try:
        return listen(host, port)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ConfigError(
                f"port {port} of {host} is in use", hint=f"serve.port={port + 1}, or serve.port=0 for a free one"
            ) from None
        raise ConfigError(
            f"cannot listen at {host} port {port}: {error.strerror or error}",
            hint="serve.host=127.0.0.1 serve.port=8000; ports below 1024 are the system's",
        ) from None


def _stop_on_signals(server: Any, engine: Any, console: Console) -> None:
    def stop() -> None:
        if server.should_exit:
            server.force_exit = True
            return
        server.should_exit = True
        state = engine.state()
        waiting = state["running"] + state["queued"]
        if waiting:
            console.print(f"stopping when {waiting} answers are finished; Ctrl-C again stops at once")

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop)


def _tell(console: Console, models: Sequence[ServedModel], host: str, port: int, *, key_variable: str | None) -> None:
    shown = f"[{host}]" if ":" in host else host
    url = f"http://{shown}:{port}/v1"
    name = models[0].name
    newest = list(models[0].versions().values())[-1].id  # so that what is recorded names the version that played
    body = json.dumps({"model": name, "messages": [{"role": "user", "content": "news NOVA soars @wire"}]})
    bearer = f' -H "authorization: Bearer ${key_variable}"' if key_variable else ""
    key = f'os.environ["{key_variable}"]' if key_variable else '"none"'
    lines = [
        f"serving at {url} (Ctrl-C stops)",
        *(f"  {model.name}: {', '.join(v.id for v in model.versions().values())}" for model in models),
        f"  curl {url}/chat/completions -H 'content-type: application/json'{bearer} -d '{body}'",
        f'  openai.OpenAI(base_url="{url}", api_key={key}).chat.completions.create(model="{name}", messages=[...])',
        f"  mmo-rl task=collect policy=endpoint policy.base_url={url} policy.model={newest}",
    ]
    if host not in LOOPBACK and key_variable is None:
        lines.append("  anybody who reaches this address can use it; serve.api_key_env=NAME asks for a key")
    for line in lines:
        console.print(line, soft_wrap=True, markup=False, highlight=False)
    console.file.flush()
