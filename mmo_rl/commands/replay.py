"""Task replay: repeats a run from its folder, and compares all numbers of both."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from mmo_rl.commands.base import Command, Context
from mmo_rl.commands.judge import selected
from mmo_rl.config import extensions
from mmo_rl.config.composition import Session, compose
from mmo_rl.config.inputs import changes, inputs_of, read_inputs
from mmo_rl.config.project import project_root
from mmo_rl.config.scenarios import composed
from mmo_rl.config.settings import Settings, masked
from mmo_rl.config.tasks import JudgeOptions, ReplayOptions
from mmo_rl.config.upgrade import upgraded
from mmo_rl.errors import ConfigError, MmoRlError
from mmo_rl.report.differences import (
    Difference,
    config_differences,
    environment_differences,
    number_differences,
    numbers,
)
from mmo_rl.report.provenance import data_fingerprint, surroundings
from mmo_rl.report.run_folder import RunFolder, move_aside
from mmo_rl.sampler.select import selections
from mmo_rl.terminal import Terminal
from mmo_rl.types import JsonDict
from mmo_rl.wording import counted

SHOWN = 20
POLL_S = 0.2


async def run(context: Context, options: ReplayOptions) -> int:
    """Says what differs from the run in the folder ``run`` (code, packages, config, data), does it again in a folder
    beside it (``<key>.replay``), and compares all numbers but those of time. ``check_only`` stops before anything
    runs; ``code`` recorded runs the recorded commit with its recorded changes, in a work tree of its own.

    Returns the exit code: 0 where every number is equal (``check_only``: where nothing differs), else 1."""
    folder, overrides = _opened(options.run, project_root())
    recorded = folder.provenance() or {}
    extensions.take_search_path(recorded)
    settings = composed(overrides)
    here, _ = surroundings(project_root())
    differences = [
        *environment_differences(recorded, here),
        *(Difference(name, was[:8], now[:8]) for name, was, now in _changed_sources(recorded)),
        *config_differences(upgraded(folder.config() or {}), masked(settings)),
        *_input_differences(folder, settings),
    ]
    pinned = [*overrides, *pin(settings, recorded)]
    differences += await _data_differences(context, composed(pinned), pinned, recorded)
    if not recorded:
        differences.insert(0, Difference("provenance.json", "missing", "code and packages cannot be compared"))
    _tell(context.console, "What differs from the recorded run", differences, nothing="Nothing differs from it.")
    if options.check_only:
        return int(bool(differences))
    tree = _work_tree(context, folder, recorded) if options.code == "recorded" else None
    again = RunFolder(folder.path.with_name(f"{folder.path.name}.replay"))
    _wait_for(context.console, again)
    _keep_apart(context.console, again, tree or project_root())
    _repeat([*pinned, *extensions.search_path_override()], again.path, tree, home=context.home)
    return _compare(context.console, folder, again)


def _opened(run: str, root: Path) -> tuple[RunFolder, list[str]]:
    """The folder of a run that finished, and the overrides that it was started with."""
    path = next((p for p in (Path(run).expanduser(), root / run) if p.is_dir()), None)
    if path is None:
        raise ConfigError(f"run={run} is no folder", hint="mmo-rl task=replay run=runs/NAME/KEY")
    folder = RunFolder(path.resolve())
    status = folder.status()
    if status is None:
        inside = sorted(p.parent.name for p in path.glob("*/status.json"))
        hint = f"run={run}/{inside[0]} is a run of it" if inside else "a run's folder holds status.json"
        raise ConfigError(f"{path} is not the folder of a run", hint=hint)
    if status["status"] != "done":
        raise ConfigError(
            f"the run in {path} is {status['status']}, so there are no numbers to compare with",
            hint="finish it first: the command in its overrides.yaml continues it",
        )
    return folder, folder.recipe()


def _changed_sources(recorded: JsonDict) -> list[tuple[str, str, str]]:
    """Files of one's own code that the run has used and that are not as they were."""
    return extensions.changed_sources((recorded.get("outside") or {}).get("sources") or {})


def _input_differences(folder: RunFolder, settings: Settings) -> list[Difference]:
    """Paths of the config that have another content than when the run started."""
    noted, now = read_inputs(folder), inputs_of(settings)
    changed = [key for key in noted if changes({key: noted[key]}, now)]
    return [Difference(f"{key}={now[key].path}", str(noted[key]), str(now[key])) for key in changed]


def pin(settings: Settings, recorded: JsonDict) -> list[str]:
    """The override that lets a run of these settings see what the recorded one saw of a database that has grown since,
    where it looked back from the newest window that there was."""
    until = (recorded.get("data") or {}).get("until")
    node = settings.nodes["sampler"] or {}
    return [] if until is None or "until" not in node or node["until"] is not None else [f"sampler.until={until}"]


async def _data_differences(
    context: Context, settings: Settings, overrides: Sequence[str], recorded: JsonDict
) -> list[Difference]:
    """Differences between the recorded run's data and those of the source now; none where the run played its own."""
    before = recorded.get("data") or {}
    if before.get("until") is None or settings.nodes["source"] is None:
        return []
    async with Session(compose(settings)) as session:
        source, sampler = session.components.source, session.components.sampler
        if isinstance(settings.options, JudgeOptions):
            found = await selected(settings, source, sampler, windows=settings.options.windows)
        else:
            found = await selections(source, sampler, iterations=settings.iterations)
    ids = [i for selection in found for i in selection.trajectory_ids]
    now = data_fingerprint(ids, windows=sum(len(selection.windows) for selection in found))
    if now["ids_sha256"] == before["ids_sha256"]:
        return []
    return [Difference("data", _counted(before), _counted(now))]


def _counted(data: JsonDict) -> str:
    trajectories = counted(data["trajectories"], "trajectory", "trajectories")
    return f"{trajectories} in {counted(data['windows'], 'window')} ({data['ids_sha256'][:8]})"


def _wait_for(console: Terminal, again: RunFolder) -> None:
    """A replay that was killed outright leaves the process of its run at work, which holds the folder: its numbers are
    those asked for, so it is waited for."""
    status = again.status()
    if status is None or status["status"] != "running":
        return
    console.say(
        f"Its run is at work already, as pid {status['pid']} on {status['host']}, and is waited for: {again.log_path}"
    )
    while status is not None and status["status"] == "running":
        time.sleep(POLL_S)
        status = again.status()


def _keep_apart(console: Terminal, again: RunFolder, root: Path) -> None:
    """A finished replay that other code or packages made says nothing about those here: it is moved aside."""
    status = again.status()
    if status is None or status["status"] != "done":
        return
    here, _ = surroundings(root)
    if any(d.numbers_may_change for d in environment_differences(again.provenance() or {}, here)):
        console.print("The code or its packages have changed since the last replay.")
        console.say(f"The old folder is now {move_aside(again.path)}")


def _work_tree(context: Context, folder: RunFolder, recorded: JsonDict) -> Path:
    """The project at the recorded commit with its recorded changes, checked out under ``home``. Where the project holds
    mmo_rl itself, that is the code which runs."""
    git = recorded.get("git") or {}
    commit = git.get("commit")
    if not commit:
        raise ConfigError(
            f"{folder.path} records no commit ({git.get('unavailable', 'no provenance.json')})",
            hint="replay.code=here runs it with the code that is installed",
        )
    if git.get("patch_masked") or (git.get("dirty") and git.get("patch") is None and git.get("patch_sha256")):
        raise ConfigError(
            "the uncommitted changes of the run were not recorded as they were (a secret in them, or too many)",
            hint="replay.code=here runs it with the code that is installed",
        )
    name = "-".join([commit[:12], *([git["patch_sha256"][:8]] if git.get("patch") else [])])
    tree: Path = context.home / "replay" / name
    if (tree / ".git").exists():
        return tree
    root = project_root()
    _git(root, "worktree", "prune")
    _git(root, "worktree", "add", "--force", "--detach", str(tree), commit)
    if git.get("patch"):
        try:
            _git(tree, "apply", "--whitespace=nowarn", str(folder.path / git["patch"]))
        except MmoRlError:
            _git(root, "worktree", "remove", "--force", str(tree))
            raise
    return tree


def _git(where: Path, *arguments: str) -> None:
    try:
        done = subprocess.run(["git", "-C", str(where), *arguments], capture_output=True, text=True, check=False)
    except OSError as error:
        raise MmoRlError(f"git cannot be run: {error}", hint="replay.code=here needs no git") from None
    if done.returncode:
        raise MmoRlError(
            f"git {arguments[0]} in {where}: {done.stderr.strip()}",
            hint="fetch the commit (git fetch --all), or type replay.code=here",
        )


def _repeat(overrides: Sequence[str], folder: Path, tree: Path | None, *, home: Path) -> None:
    """The recorded command in a process of its own, whose run goes to ``folder``; raises `MmoRlError` where it
    fails. ``hydra.*`` overrides are no part of a job's key, so the run stays the recorded one."""
    # This process asks Hydra to raise its errors; in the run's own it would ask for tracebacks, which its log holds.
    environment = {**os.environ, "MMO_RL_HOME": str(home), "MMO_RL_MEASURE": "again", "HYDRA_FULL_ERROR": "0"}
    if tree is not None:
        paths = [str(tree), *filter(None, [environment.get("PYTHONPATH")])]
        environment |= {"PYTHONPATH": os.pathsep.join(paths), "MMO_RL_ROOT": str(tree)}
    command = [sys.executable, "-m", "mmo_rl", *overrides, f"hydra.run.dir={folder}", "hydra.sweeper.params=null"]
    with subprocess.Popen(command, env=environment, cwd=tree) as process:
        try:
            code = process.wait()
        except BaseException:
            # The terminal interrupts both; whoever else stops this process means the run as well.
            process.send_signal(signal.SIGINT)
            process.wait()
            raise
    if code:
        raise MmoRlError(
            f"the run ended with exit code {code}", hint=f"{folder / 'log.txt'} says why; the same command continues"
        )


def _compare(console: Terminal, recorded: RunFolder, again: RunFolder) -> int:
    before, now = numbers(recorded), numbers(again)
    differences = number_differences(before, now)
    data = [((f.provenance() or {}).get("data") or {}).get("ids_sha256") for f in (recorded, again)]
    if data[0] != data[1]:
        what = [(d or "unknown")[:12] for d in data]
        differences.insert(0, Difference("fingerprint of the data", what[0], what[1]))
    _tell(
        console,
        f"{len(differences)} of {len(before)} numbers differ",
        differences,
        nothing=f"All {len(before)} numbers are equal to the last digit.",
    )
    console.say(f"recorded   {recorded.path}")
    console.say(f"replayed   {again.path}")
    return int(bool(differences))


def _tell(console: Terminal, title: str, differences: Sequence[Difference], *, nothing: str) -> None:
    if not differences:
        console.print(nothing)
        return
    table = Table(title=title, title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0))
    table.add_column("")
    table.add_column("recorded", overflow="fold")
    table.add_column("here", overflow="fold")
    for difference in differences[:SHOWN]:
        style = "" if difference.numbers_may_change else "dim"
        table.add_row(difference.subject, difference.recorded, difference.here, style=style)
    if len(differences) > SHOWN:
        table.add_row(f"... and {len(differences) - SHOWN} more", "", "")
    console.print(table)


COMMAND = Command(run=run)
