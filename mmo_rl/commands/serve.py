"""Task serve: an OpenAI-compatible endpoint for trained policies, until it is interrupted."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import importlib.util
import json
import os
import shlex
import signal
import socket
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, cast

from mmo_rl.commands.base import Command, Context
from mmo_rl.config.served import served_models
from mmo_rl.config.settings import Settings
from mmo_rl.config.tasks import ServeOptions
from mmo_rl.errors import ConfigError
from mmo_rl.lm.load import load_version, require_device
from mmo_rl.lm.model import require_whole
from mmo_rl.serve.versions import Catalogue, ServedModel, ServedVersion
from mmo_rl.terminal import Terminal
from mmo_rl.types import Message, PolicyVersion
from mmo_rl.wording import counted

if TYPE_CHECKING:
    from contextlib import _GeneratorContextManager

    import uvicorn
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from mmo_rl.serve.engine import Engine

GRACE_S = 60
"""Largest time, in seconds, that answers under way may take when the server is asked to stop."""
CONNECTIONS = 1024
"""Connections beside those of waiting requests; more are answered with 503."""
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def check(settings: Settings, overrides: Sequence[str]) -> None:
    """Raises `ConfigError` where a package is missing, a run is none, or the key is not set."""
    for package, extra in (("fastapi", "serve"), ("uvicorn", "serve"), ("torch", "local"), ("transformers", "local")):
        if importlib.util.find_spec(package) is None:
            raise ConfigError(
                f"task=serve needs {package}, which isn't installed", hint=f"pip install 'mmo-rl[{extra}]'"
            )
    options = cast(ServeOptions, settings.options)
    served_models(options.runs, settings.nodes["model"], home=settings.home)
    _key(options.api_key_env)


async def run(context: Context, options: ServeOptions) -> None:
    """Listens at ``host``:``port`` and answers until Ctrl-C or SIGTERM; then what is under way is finished.

    Raises `ConfigError` where the address cannot be had.
    """
    import uvicorn

    from mmo_rl.serve.app import Api, create_app
    from mmo_rl.serve.engine import Engine
    from mmo_rl.serve.gate import TimedProtocol

    class Server(uvicorn.Server):
        def capture_signals(self) -> _GeneratorContextManager[None]:
            """Leaves signals alone: uvicorn raises them again at its end, so that a stop looks like a failure."""
            return _no_signals()

    console = context.console
    key = _key(options.api_key_env)
    models = served_models(options.runs, context.settings.nodes["model"], home=context.home)
    require_device(options.device)
    listening = _listen(options.host, options.port)

    def load(version: ServedVersion) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        spec = version.spec
        require_whole(PolicyVersion(spec.name, 0, version.path), spec)
        return load_version(version.path, spec, device=options.device)

    engine = Engine(
        load=load,
        max_batch=options.max_batch,
        max_loaded=options.max_loaded,
        max_queue=options.max_queue,
        max_completion_tokens=options.max_completion_tokens,
    )
    note = (lambda line: console.print(line)) if options.verbose else None
    with listening, engine:
        hosts = frozenset(LOOPBACK) if options.host in LOOPBACK else None
        max_body = int(options.max_body_mb * 1e6)
        app = create_app(Api(engine, Catalogue(models), key=key, hosts=hosts, max_body=max_body, note=note))
        config = uvicorn.Config(
            app,
            http=TimedProtocol,
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=GRACE_S,
            limit_concurrency=2 * options.max_queue + CONNECTIONS,
        )
        server = Server(config)
        prompt = context.components.arena.example_prompt()
        port = listening.getsockname()[1]
        _tell(console, models, options.host, port, prompt, key_variable=options.api_key_env)
        _stop_on_signals(server, engine, console)
        await server.serve([listening])
    console.print("stopped")


@contextlib.contextmanager
def _no_signals() -> Iterator[None]:
    yield


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


def _stop_on_signals(server: uvicorn.Server, engine: Engine, console: Terminal) -> None:
    def stop() -> None:
        if server.should_exit:
            server.force_exit = True
            return
        server.should_exit = True
        state = engine.state()
        waiting = state["running"] + state["queued"]
        if waiting:
            console.print(
                f"stopping when {counted(waiting, 'answer is', 'answers are')} finished; Ctrl-C again stops at once"
            )

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop)


def _tell(
    console: Terminal,
    models: Sequence[ServedModel],
    host: str,
    port: int,
    prompt: Sequence[Message],
    *,
    key_variable: str | None,
) -> None:
    shown = f"[{host}]" if ":" in host else host
    url = f"http://{shown}:{port}/v1"
    name = models[0].name
    newest = list(models[0].versions().values())[-1].id  # so that what is recorded names the version that played
    body = shlex.quote(json.dumps({"model": name, "messages": list(prompt)}))
    bearer = f' -H "authorization: Bearer ${key_variable}"' if key_variable else ""
    key = f'os.environ["{key_variable}"]' if key_variable else '"none"'
    lines = [
        f"serving at {url} (Ctrl-C stops)",
        *(f"  {model.name}: {', '.join(v.id for v in model.versions().values())}" for model in models),
        f"  curl {url}/chat/completions -H 'content-type: application/json'{bearer} -d {body}",
        f'  openai.OpenAI(base_url="{url}", api_key={key}).chat.completions.create(model="{name}", messages=[...])',
        f"  mmo-rl task=collect policy=endpoint policy.endpoint.base_url={url} policy.model={newest}",
    ]
    if host not in LOOPBACK and key_variable is None:
        lines.append("  anybody who reaches this address can use it; serve.api_key_env=NAME asks for a key")
    for line in lines:
        console.say(line)
    console.file.flush()


COMMAND = Command(run=run, check=check)
