"""Task view: runs, windows, judgments and trajectories to look at, in a browser, as files or in the terminal."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

from mmo_rl.commands.base import Command, Context
from mmo_rl.config.project import project_root
from mmo_rl.config.settings import Settings, masked
from mmo_rl.config.tasks import ViewOptions
from mmo_rl.errors import ConfigError
from mmo_rl.report.runs import Listed, find_runs, list_runs
from mmo_rl.terminal import Terminal, progress_bars
from mmo_rl.view.library import Library
from mmo_rl.wording import counted

if TYPE_CHECKING:
    from contextlib import _GeneratorContextManager

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def check(settings: Settings, overrides: Sequence[str]) -> None:
    """Raises `ConfigError` where a package or the token is missing, or no window is named."""
    options = cast(ViewOptions, settings.options)
    if options.do == "window":
        if options.window is None:
            raise ConfigError(
                "view.do=window prints one window, and none is named",
                hint="view.window=2026-01-31T18:00; task=check lists the windows",
            )
        return
    for package in ("fastapi", "uvicorn"):
        if importlib.util.find_spec(package) is None:
            raise ConfigError(f"task=view needs {package}, which isn't installed", hint="pip install 'mmo-rl[serve]'")
    if options.output is None and options.host not in LOOPBACK and options.token_env is None:
        raise ConfigError(
            f"view.host={options.host} can be reached by others, and no token is asked for",
            hint="export VIEW_TOKEN=...; view.token_env=VIEW_TOKEN",
        )
    _token(options.token_env)


async def run(context: Context, options: ViewOptions) -> None:
    """Shows pages until Ctrl-C, writes them as files, or prints one window."""
    components = context.components
    for database in components.databases:
        await database.open()
    library = Library(
        root=project_root(),
        source=components.source,
        vocabulary=components.vocabulary,
        rules=components.sampler.rules,
        judge=components.judge,
        judged_by=cast("dict[str, object]", masked(context.settings).get("judge") or {}),
    )
    if options.do == "window":
        await _print(library, options, context.console)
    elif options.output is not None:
        await _write(library, options, context.console)
    else:
        await _serve(library, options, context.console)


async def _print(library: Library, options: ViewOptions, console: Terminal) -> None:
    from mmo_rl.view.text import print_trajectory, print_window
    from mmo_rl.view.trajectory import trajectory_view
    from mmo_rl.view.window import window_view

    assert options.window is not None
    chosen = _chosen(options.runs) if options.runs else []
    if len(chosen) > 1:
        raise ConfigError(f"view.runs names {len(chosen)} runs, and one is asked for", hint="name one run's folder")
    if chosen:
        seen = await library.judged_group((chosen[0].name, chosen[0].path.name), options.window)
    else:
        seen = await library.recorded_group(options.window)
    if options.agent is None:
        print_window(console, window_view(seen, library.vocabulary))
    else:
        print_trajectory(console, trajectory_view(seen, options.agent, library.vocabulary))


async def _write(library: Library, options: ViewOptions, console: Terminal) -> None:
    from mmo_rl.view.static import write_static

    assert options.output is not None
    output = Path(options.output).expanduser()
    output = output if output.is_absolute() else project_root() / output
    runs = _chosen(options.runs)
    written = 0
    with progress_bars(console) as bars:
        bar = bars.add_task("pages", total=None)
        async for _ in write_static(library, runs, output):
            written += 1
            bars.update(bar, completed=written)
    console.say(f"{counted(written, 'file')} of {counted(len(runs), 'run')}: {output / 'index.html'}")


async def _serve(library: Library, options: ViewOptions, console: Terminal) -> None:
    import uvicorn

    from mmo_rl.serve.app import listen
    from mmo_rl.view.app import create_app

    class Server(uvicorn.Server):
        def capture_signals(self) -> _GeneratorContextManager[None]:
            """Leaves signals alone: uvicorn raises them again at its end, so that a stop looks like a failure."""
            return _no_signals()

    token = _token(options.token_env)
    try:
        listening = listen(options.host, options.port)
    except OSError as error:
        raise ConfigError(
            f"cannot listen at {options.host} port {options.port}: {error.strerror or error}",
            hint=f"view.port={options.port + 1}, or view.port=0 for a free one",
        ) from None
    hosts = frozenset(LOOPBACK) if options.host in LOOPBACK else None
    with listening:
        app = create_app(library, token=token, hosts=hosts)
        server = Server(uvicorn.Config(app, log_config=None, access_log=False, timeout_graceful_shutdown=5))
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, lambda: setattr(server, "should_exit", True))
        port = listening.getsockname()[1]
        shown = f"[{options.host}]" if ":" in options.host else options.host
        asked = "" if token is None else f"?token=${options.token_env}"
        console.say(f"pages at http://{shown}:{port}/{asked} (Ctrl-C stops)")
        console.file.flush()
        await server.serve([listening])
    console.say("stopped")


@contextlib.contextmanager
def _no_signals() -> Iterator[None]:
    yield


def _token(variable: str | None) -> str | None:
    if variable is None:
        return None
    token = os.environ.get(variable, "").strip()
    if not token:
        raise ConfigError(f"{variable} is not set", hint=f"export {variable}=...; or view.token_env=null asks for none")
    return token


def _chosen(patterns: str | list[str] | None) -> list[Listed]:
    """The runs that patterns name, newest first; all without one."""
    root = project_root()
    listed = list_runs(root)
    if not patterns:
        return listed
    named = [patterns] if isinstance(patterns, str) else patterns
    kept = {Path(found.location) for found in find_runs(named, roots=[Path.cwd(), root])}
    return [run for run in listed if run.path.resolve() in kept]


COMMAND = Command(run=run, check=check)
