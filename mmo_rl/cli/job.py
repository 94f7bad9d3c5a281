"""One job: validates a composed config, runs its task, and keeps the run folder's status up to date."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import logging
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, open_dict

from mmo_rl.cli.event_loop import run_to_end
from mmo_rl.cli.launchers import in_this_process
from mmo_rl.command_line import command_line
from mmo_rl.config.extensions import Source, changed_sources, use_search_path
from mmo_rl.config.project import hidden_choices, project_root
from mmo_rl.errors import ConfigError, MmoRlError, NotReady

if TYPE_CHECKING:
    from mmo_rl.config.inputs import Input
    from mmo_rl.config.settings import Settings
    from mmo_rl.report.run_folder import RunFolder, Status
    from mmo_rl.terminal import Terminal

log = logging.getLogger(__name__)


@dataclass
class Outcome:
    """Result of the single run of this process, or its error: Hydra would print an exception of a single job itself.
    ``folder`` is the run's, None for tasks that leave none."""

    result: object = None
    error: BaseException | None = None
    folder: Path | None = None


outcome = Outcome()


def job(cfg: DictConfig) -> object:
    """Runs one job for Hydra, once or for every job of a sweep; returns what sweepers optimise.

    Raises in a sweep; in a single run the error goes to `outcome`.
    """
    hydra_config = HydraConfig.get()
    output_dir, overrides = Path(hydra_config.runtime.output_dir), tuple(hydra_config.overrides.task)
    swept = hydra_config.mode == RunMode.MULTIRUN
    outcome.folder = None if _leaves_no_folder(output_dir) else output_dir
    try:
        sources = hydra_config.runtime.config_sources
        use_search_path(Source(source.provider, source.schema, source.path) for source in sources)
        if not swept and hydra_config.sweeper.get("params"):
            raise _needs_multirun(overrides, dict(hydra_config.sweeper.params))
        outcome.result = _run(cfg, output_dir, overrides)
    except Exception as error:
        _remove_empty(output_dir)
        if swept and _is_aside():
            from mmo_rl.config.explain import explain

            # Back to the sweep through a pickle, which not every exception survives; its traceback is in the log.
            raise explain(error, list(overrides)) from None
        if swept:
            raise
        outcome.error = error
        return None
    return outcome.result


def check_task(settings: Settings, overrides: tuple[str, ...]) -> None:
    """Runs the checks of the command as it was typed, and the one that only the task can make. Raises `ConfigError`."""
    from mmo_rl.commands import command_of
    from mmo_rl.config.spelling import refuse_joined_digits

    refuse_joined_digits(settings.tree(), overrides)

    if (check := command_of(settings.task).check) is not None:
        check(settings, overrides)


def _is_aside() -> bool:
    """True for a job of a sweep in a process of its own, beside others: its output goes to its log."""
    config = HydraConfig.get()
    return config.mode == RunMode.MULTIRUN and not in_this_process(config.launcher)


def _leaves_no_folder(output_dir: Path) -> bool:
    return output_dir.resolve() == project_root()


LOOKS = ("check", "plan")
"""Tasks that write nothing: where there is no database yet they leave none."""


@contextlib.contextmanager
def _without_traces(cfg: DictConfig) -> Iterator[DictConfig]:
    """Gives a task that only looks an embedded database in a temporary folder, where the home has none yet: it would
    leave a server's files in whatever folder one stands in."""
    home, database = Path(str(cfg.get("home"))), cfg.get("database")
    embedded = database is not None and "home" in database and database.get("dsn_env") is None
    if cfg.get("task") not in LOOKS or not embedded or (home / "postgres").exists():
        yield cfg
        return
    existed = home.exists()
    with tempfile.TemporaryDirectory(prefix="mmo_rl-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)  # as root the server runs as another user
        seen = copy.deepcopy(cfg)
        with open_dict(seen):
            seen.database.home = folder
        told = True
        try:
            yield seen
        except NotReady:
            raise
        except BaseException:
            told = False  # its traceback is in the log
            raise
        finally:
            if told and not existed:
                with contextlib.suppress(OSError):
                    (home / "log.txt").unlink(missing_ok=True)
                    home.rmdir()


def _run(cfg: DictConfig, output_dir: Path, overrides: tuple[str, ...]) -> object:
    with _without_traces(cfg) as seen:
        return _run_job(seen, output_dir, overrides)


def _run_job(cfg: DictConfig, output_dir: Path, overrides: tuple[str, ...]) -> object:
    from mmo_rl.cli.run_log import logging_to
    from mmo_rl.config.fingerprint import Identity
    from mmo_rl.config.inputs import refuse_mixture
    from mmo_rl.config.settings import config_sha256, validate
    from mmo_rl.terminal import Terminal

    settings = validate(cfg)
    console = Terminal(quiet=_is_aside() and not _leaves_no_folder(output_dir))
    if HydraConfig.get().mode != RunMode.MULTIRUN:  # a sweep says it once
        for line in hidden_choices(HydraConfig.get().runtime.choices):
            Terminal(stderr=True).say(line)
    if _leaves_no_folder(output_dir):
        check_task(settings, overrides)
        with logging_to(settings.home / "log.txt"):
            return _told(settings.task, _perform(settings, console, None, overrides), console)

    from mmo_rl.report.run_folder import RunFolder, move_aside

    folder, sha256 = RunFolder(output_dir), config_sha256(settings)
    status = folder.status()
    identity = Identity.of(folder, settings)
    known = identity.same_config(status)
    changed = identity.changed_inputs(folder) if known and status is not None else []
    if status is not None and status["status"] == "done" and known and not changed:
        return _show_finished(folder, status, console)
    check_task(settings, overrides)
    if status is not None and status["status"] != "running" and not known:
        console.print("The configuration has changed since this run.")
        console.say(f"The old folder is now {move_aside(folder.path)}")
    elif status is not None and status["status"] == "done":
        for line in changed:
            console.say(line)
        console.say(f"It is done again; the finished run is now {move_aside(folder.path)}")
    else:
        refuse_mixture(folder, changed)
    return _perform_in(folder, sha256, identity.inputs, settings, console, overrides)


def _told(task: str, result: object, console: Terminal) -> object:
    """Prints the result of a task that leaves the printing to its ``tell``; a sweep prints those of all jobs at
    once."""
    from mmo_rl.commands import command_of

    tell = command_of(task).tell
    if tell is not None and HydraConfig.get().mode != RunMode.MULTIRUN:
        tell([("this run", result)], console)
    return result


def _perform_in(
    folder: RunFolder,
    sha256: str,
    inputs: Mapping[str, Input],
    settings: Settings,
    console: Terminal,
    overrides: tuple[str, ...],
) -> object:
    """Runs the task inside its folder, which it takes for this process. A wrong configuration that only the task could
    find leaves nothing in it."""
    from mmo_rl.cli.run_log import console_of_log, logging_to
    from mmo_rl.config.inputs import write_inputs
    from mmo_rl.config.settings import masked

    if console.quiet:
        console = console_of_log()
    new, theirs = False, set(folder.path.iterdir()) if folder.path.is_dir() else set()
    try:
        with folder.locked(), logging_to(folder.log_path):
            before = (folder.status() or {}).get("status")
            new = before is None
            if before == "running":  # the lock is ours: who wrote this was killed
                before = "interrupted"
            if before in ("failed", "interrupted"):
                console.say(f"This run was {before} before; it continues in {folder.path}")
            folder.set_status("running", config_sha256=sha256)
            folder.write_config(masked(settings))
            folder.write_overrides(overrides)
            write_inputs(folder, inputs)
            return _performed_in(folder, settings, console, overrides)
    except ConfigError:
        if new and not any(folder.read(name) for name in ("checkpoints", "metrics")):
            # Nothing was started: a key, a variable or a package is missing. What was there before is somebody's.
            for ours in set(folder.path.iterdir()) - theirs:
                shutil.rmtree(ours) if ours.is_dir() and not ours.is_symlink() else ours.unlink()
        raise


def _performed_in(folder: RunFolder, settings: Settings, console: Terminal, overrides: tuple[str, ...]) -> object:
    """Runs the task inside its folder, which this process holds, and writes its end to status.json in any case."""
    try:
        result = _perform(settings, console, folder, overrides)
    except (KeyboardInterrupt, asyncio.CancelledError):
        with contextlib.suppress(OSError):  # a full disk; without it the folder reads as interrupted too
            folder.set_status("interrupted", error="interrupted")
        raise
    except (SystemExit, BrokenPipeError) as error:
        if not _reader_left(error):
            told = MmoRlError(f"its code left with sys.exit({getattr(error, 'code', '')})")
            folder.set_status("failed", error=str(told))
            log.info("the task %s failed", settings.task, exc_info=True)
            raise told from None
        finished = folder.summary() is not None
        folder.set_status("done" if finished else "interrupted", error=None if finished else "the output was closed")
        raise BrokenPipeError from None
    except Exception as error:
        with contextlib.suppress(OSError):  # where the disk is full the run's own error says more
            folder.set_status("failed", error=str(error) or type(error).__name__)
        raise
    folder.set_status("done", result=result)
    return result


def _reader_left(error: BaseException) -> bool:
    """True where the reader of the output has gone; rich answers that with an exit."""
    return isinstance(error, BrokenPipeError) or isinstance(error.__context__, BrokenPipeError)


def _perform(settings: Settings, console: Terminal, folder: RunFolder | None, overrides: tuple[str, ...]) -> object:
    from mmo_rl.commands import command_of
    from mmo_rl.commands.base import Context
    from mmo_rl.config.composition import Session, compose

    async def perform() -> object:
        async with Session(compose(settings, run_folder=folder)) as session:
            context = Context(settings=settings, session=session, console=console, folder=folder, overrides=overrides)
            return await command_of(settings.task).run(context, settings.options)

    try:
        return run_to_end(perform())
    except NotReady:  # an answer, not a failure
        raise
    except Exception:
        # At this level it goes to log.txt and not to the terminal, where `main` tells it in one line.
        log.info("the task %s failed", settings.task, exc_info=True)
        raise


def _show_finished(folder: RunFolder, status: Status, console: Terminal) -> object:
    from mmo_rl.loop.results import tell_checkpoint_of
    from mmo_rl.report.comparison import is_comparison, print_comparison
    from mmo_rl.report.judged_page import print_judged
    from mmo_rl.report.summary import is_judging
    from mmo_rl.report.table import print_summary

    summary = folder.summary() or {}
    if is_comparison(summary) and ((folder.config() or {}).get("evaluate") or {}).get("format") == "json":
        print_comparison(console, summary, folder.path, machine=True)
        return status.get("result")
    console.say(f"This run is finished ({status.get('ended')}); nothing is done again.")
    if is_comparison(summary):
        print_comparison(console, summary, folder.path)
    elif is_judging(summary):
        print_judged(console, folder)
    else:
        print_summary(console, summary, folder.path)
        tell_checkpoint_of(console, folder.overrides(), folder)
    recorded = (folder.provenance() or {}).get("outside") or {}
    for name, _, now in changed_sources(recorded.get("sources") or {}):
        state = "is not there any more" if now == "missing" else "has changed since this run"
        console.say(f"{name} {state}: the numbers are those of the code before.")
    console.print("To run it anew, give it another seed or name, or delete its folder.")
    return status.get("result")


def _remove_empty(folder: Path) -> None:
    """Removes the folder that Hydra makes before a job can refuse its config: where nothing was started, none is
    left. What lies outside of the project's ``runs`` is never touched."""
    runs = project_root() / "runs"
    if _leaves_no_folder(folder) or not folder.is_relative_to(runs):
        return
    with contextlib.suppress(OSError):
        for path in (folder, *folder.parents):  # a name may have slashes, before it is refused
            if path.exists():
                path.rmdir()
            if path == runs:
                break


def _needs_multirun(overrides: tuple[str, ...], params: dict[str, object]) -> MmoRlError:
    sweep = " ".join(f"{key}={value}" for key, value in params.items())
    return ConfigError(
        f"this experiment is a sweep ({sweep}), and without -m only one job of it would run",
        hint=command_line("-m", *overrides),
    )
