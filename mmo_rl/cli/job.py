"""Execution of one job: validates its config, runs its task, and keeps the status in its run folder."""

from __future__ import annotations

import asyncio
import contextlib
import io
import logging
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from mmo_rl.config.project import project_root
from mmo_rl.errors import ConfigError, MmoRlError, NotReady

if TYPE_CHECKING:
    from rich.console import Console

    from mmo_rl.config.settings import Settings
    from mmo_rl.report.run_folder import RunFolder, Status

Result = Any
"""Result of a task: a number that sweepers optimise, an exit code, None, or the data that its ``tell`` prints."""
log = logging.getLogger(__name__)


@dataclass
class Outcome:
    """Outcome of this process's single run. An exception is handed over here, because Hydra would print it itself."""

    result: Result = None
    error: BaseException | None = None


outcome = Outcome()


def job(cfg: DictConfig) -> Result:
    """Runs the job of a config: Hydra calls it once, or for every job of a sweep. Sweepers optimise its result.

    Raises in a sweep; in a single run the error goes to `outcome`.
    """
    hydra_config = HydraConfig.get()
    swept = hydra_config.mode == RunMode.MULTIRUN
    try:
        if not swept and hydra_config.sweeper.get("params"):
            raise _needs_multirun(list(hydra_config.overrides.task), dict(hydra_config.sweeper.params))
        outcome.result = _run(cfg, Path(hydra_config.runtime.output_dir), tuple(hydra_config.overrides.task))
    except Exception as error:
        _remove_empty(Path(hydra_config.runtime.output_dir))
        if swept and _aside():
            from mmo_rl.config.explain import explain

            # The sweep gets it pickled, which fails for some exceptions; the traceback is in the log.
            raise explain(error, list(hydra_config.overrides.task)) from None
        if swept:
            raise
        outcome.error = error
        return None
    return outcome.result


def _aside() -> bool:
    """Checks for a job of a sweep in a process of its own, beside others: its output goes to its log."""
    config = HydraConfig.get()
    return config.mode == RunMode.MULTIRUN and not str(config.launcher.get("_target_")).endswith(".BasicLauncher")


def _run(cfg: DictConfig, output_dir: Path, overrides: tuple[str, ...]) -> Result:
    from rich.console import Console

    from mmo_rl.config.fingerprint import accepted_sha256, same_config
    from mmo_rl.config.settings import config_sha256, validate

    settings = validate(cfg)
    console = Console(quiet=_aside() and output_dir.resolve() != project_root())
    if output_dir.resolve() == project_root():  # a task that leaves no run folder
        check_task(settings, overrides)
        with _logging_to(settings.home / "log.txt"):
            return _told(settings.task, _perform(settings, console, None, overrides), console)

    from mmo_rl.report.run_folder import RunFolder, move_aside

    folder, sha256 = RunFolder(output_dir), config_sha256(settings)
    status = folder.status()
    known = same_config(status, accepted_sha256(folder, settings))
    if status is not None and status["status"] == "done" and known:
        return _show_finished(folder, status, console)
    check_task(settings, overrides)
    if status is not None and status["status"] != "running" and not known:
        console.print("The configuration has changed since this run.")
        console.print(f"The old folder is now {move_aside(folder.path)}", soft_wrap=True)
    return _perform_in(folder, sha256, settings, console, overrides)


def check_task(settings: Settings, overrides: tuple[str, ...]) -> None:
    """Runs the task's own check of its config. Raises `ConfigError`."""
    from mmo_rl.commands import command_of

    if (check := command_of(settings.task).check) is not None:
        check(settings, overrides)


def _told(task: str, result: Result, console: Console) -> Result:
    """Prints the result of a task that has a ``tell(jobs, console)``; a sweep prints all of its jobs at once by it."""
    from mmo_rl.commands import command_of

    tell = command_of(task).tell
    if tell is not None and HydraConfig.get().mode != RunMode.MULTIRUN:
        tell([("this run", result)], console)
    return result


def _perform_in(
    folder: RunFolder, sha256: str, settings: Settings, console: Console, overrides: tuple[str, ...]
) -> Result:
    """Runs the task inside its folder and records every way in which it ends in status.json."""
    from mmo_rl.config.settings import masked

    before = (folder.status() or {}).get("status")
    if console.quiet:
        console = _console_of_log()
    with folder.locked(), _logging_to(folder.log_path):
        if before in ("failed", "interrupted"):
            console.print(f"This run was {before} before; it continues in {folder.path}", soft_wrap=True)
        folder.set_status("running", config_sha256=sha256)
        folder.write_config(masked(settings))
        folder.write_overrides(overrides)
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
            folder.set_status(
                "done" if finished else "interrupted", error=None if finished else "the output was closed"
            )
            raise BrokenPipeError from None
        except Exception as error:
            with contextlib.suppress(OSError):  # where the disk is full the run's own error says more
                folder.set_status("failed", error=str(error) or type(error).__name__)
            raise
        folder.set_status("done", result=result)
        return result


def _reader_left(error: BaseException) -> bool:
    """Checks for a closed output pipe, at which rich exits the process."""
    return isinstance(error, BrokenPipeError) or isinstance(error.__context__, BrokenPipeError)


class _ToLog(io.TextIOBase):
    """File of a console that logs every line."""

    def __init__(self) -> None:
        self._rest = ""

    def write(self, text: str) -> int:
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            if line.strip():
                log.info("%s", line.rstrip())
        return len(text)


def _console_of_log() -> Console:
    from rich.console import Console

    return Console(file=_ToLog(), width=120, force_terminal=False, color_system=None)  # type: ignore[arg-type]


def _perform(settings: Settings, console: Console, folder: RunFolder | None, overrides: tuple[str, ...]) -> Result:
    from mmo_rl.commands import command_of
    from mmo_rl.commands.base import Context
    from mmo_rl.config.composition import Session, compose

    async def perform() -> Result:
        async with Session(compose(settings, run_folder=folder)) as session:
            context = Context(settings=settings, session=session, console=console, folder=folder, overrides=overrides)
            return await command_of(settings.task).run(context, settings.options)

    try:
        return asyncio.run(perform())
    except NotReady:  # a result of task=check, no failure
        raise
    except Exception:
        # At this level it goes to log.txt and not to the terminal, on which `main` prints one line.
        log.info("the task %s failed", settings.task, exc_info=True)
        raise


def _show_finished(folder: RunFolder, status: Status, console: Console) -> Result:
    from mmo_rl.report.comparison import is_comparison, print_comparison
    from mmo_rl.report.judged_page import print_judged
    from mmo_rl.report.summary import is_judging
    from mmo_rl.report.table import print_summary

    summary = folder.summary() or {}
    if is_comparison(summary) and ((folder.config() or {}).get("evaluate") or {}).get("format") == "json":
        print_comparison(console, summary, folder.path, machine=True)
        return status.get("result")
    console.print(f"This run is finished ({status.get('ended')}); nothing is done again.", soft_wrap=True)
    if is_comparison(summary):
        print_comparison(console, summary, folder.path)
    elif is_judging(summary):
        print_judged(console, folder)
    else:
        print_summary(console, summary, folder.path)
    console.print("To run it anew, give it another seed or name, or delete its folder.")
    return status.get("result")


def _remove_empty(folder: Path) -> None:
    """Removes the empty folder of a job that was refused: Hydra makes it before the config is validated."""
    with contextlib.suppress(OSError):
        for path in (folder, folder.parent, folder.parent.parent)[: 0 if folder.resolve() == project_root() else 3]:
            path.rmdir()


@contextlib.contextmanager
def _logging_to(path: Path) -> Iterator[None]:
    """Copies the log from INFO on to ``path``, tracebacks included; secrets are masked."""
    from mmo_rl.report.mask import mask

    class Masking(logging.Formatter):
        def format(self, record: logging.LogRecord) -> str:
            return mask(super().format(record))

    class ToDisk(logging.FileHandler):
        def handleError(self, record: logging.LogRecord) -> None:
            if not isinstance(sys.exc_info()[1], OSError):  # where the disk is full the run's own error says so
                super().handleError(record)

    last: list[str] = [""]

    def is_new(record: logging.LogRecord) -> bool:
        """Filters a line that repeats the last one: logged, and then printed to a console that logs."""
        repeated = last[0] == record.getMessage().rstrip() and not record.exc_info
        last[0] = record.getMessage().rstrip()
        return not repeated

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handler = ToDisk(path, encoding="utf-8", delay=True)
        if not os.access(path if path.exists() else path.parent, os.W_OK):
            raise PermissionError(13, "Permission denied")
    except OSError as error:
        raise ConfigError(
            f"cannot write {path}: {error.strerror or error}",
            hint="make its folder writable, or choose others: MMO_RL_HOME=DIR for data, MMO_RL_ROOT=DIR for runs",
        ) from None
    handler.addFilter(is_new)
    handler.setFormatter(Masking("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
        with contextlib.suppress(OSError):
            handler.close()


def _needs_multirun(overrides: list[str], params: dict[str, Any]) -> MmoRlError:
    import shlex

    sweep = " ".join(f"{key}={value}" for key, value in params.items())
    return ConfigError(
        f"this experiment is a sweep ({sweep}), and without -m only one job of it would run",
        hint=shlex.join(["mmo-rl", "-m", *overrides]),
    )
