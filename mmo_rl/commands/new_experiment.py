"""Task new_experiment: writes a committed experiment from the overrides of a run or sweep, its results on top."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from mmo_rl.command_line import command_line, override
from mmo_rl.commands.base import Command, Context
from mmo_rl.config import extensions
from mmo_rl.config.experiment_file import experiment, swept_overrides
from mmo_rl.config.project import project_root
from mmo_rl.config.scenarios import composed
from mmo_rl.config.settings import masked
from mmo_rl.config.tasks import NewExperimentOptions
from mmo_rl.config.upgrade import upgraded
from mmo_rl.errors import ConfigError
from mmo_rl.files import write_text
from mmo_rl.report.differences import config_differences
from mmo_rl.report.run_folder import RunFolder

RUNS_SHOWN = 12


async def run(context: Context, options: NewExperimentOptions) -> None:
    """Writes ``experiments/<name>.yaml`` with the overrides of the run in the folder ``source``; where that is the
    folder of a sweep, with what its runs share and the grid of what differs. The file composes to the very config of
    the runs, or nothing is written: `ConfigError` says what does not fit."""
    name = context.settings.name
    if not any(given.partition("=")[0] == "name" for given in context.overrides):
        hint = command_line("task=new_experiment", "name=my_question", override("from", options.source))
        raise ConfigError("the experiment has no name", hint=hint)
    folders = _folders(options.source, project_root())
    extensions.take_search_path(folders[0].provenance())
    content, jobs = experiment([folder.recipe() for folder in folders], name=name)
    path = project_root() / "experiments" / f"{name}.yaml"
    if path.exists() and not options.overwrite:
        raise ConfigError(
            f"{path} exists", hint="choose another name=..., or replace it: new_experiment.overwrite=true"
        )
    before = path.read_text("utf-8") if path.exists() else None
    write_text(path, _text(content, name, jobs, options.question, folders))
    try:
        _require_same_config(name, content, folders)
    except BaseException:
        path.unlink() if before is None else write_text(path, before)
        raise
    context.console.say(f"Written: {path}")
    context.console.say(f"Run it:  {_command(name, jobs)}")


def _folders(source: str, root: Path) -> list[RunFolder]:
    """The run in a folder, or the runs of a sweep in it."""
    path = next((p for p in (Path(source).expanduser(), root / source) if p.is_dir()), None)
    if path is None:
        raise ConfigError(f"from={source} is no folder", hint="from=runs/NAME/KEY, or from=runs/NAME for a sweep")
    if (path / "status.json").exists():
        return [RunFolder(path)]
    # Folders with a dot are what was there before a change of config, and replays.
    inside = sorted(p.parent for p in path.glob("*/status.json") if "." not in p.parent.name)
    if not inside:
        raise ConfigError(f"{path} holds no run", hint="from=runs/NAME/KEY, or from=runs/NAME for a sweep")
    runs = [RunFolder(folder) for folder in inside]
    # Comparisons of policies lie among the trainings that they are about.
    trainings = [run for run in runs if (run.config() or {}).get("task", "train") == "train"]
    return trainings or runs


def _require_same_config(name: str, content: Mapping[str, object], folders: Sequence[RunFolder]) -> None:
    """Holds the config of the new file against that of every run it was made from."""
    for folder in folders:
        settings = composed([f"+experiments={name}", *swept_overrides(content, folder.overrides())])
        recorded = upgraded(folder.config() or {})
        different = config_differences(recorded, {**masked(settings), "name": recorded.get("name")})
        if different:
            first = different[0]
            raise ConfigError(
                f"the experiment would not be the run in {folder.path}: {first.subject} was {first.recorded} and "
                f"would be {first.here}" + (f" ({len(different)} keys differ)" if len(different) > 1 else ""),
                hint="the shipped YAML files have changed since: run it again, and make the experiment of that run",
            )


def _text(content: Mapping[str, object], name: str, jobs: int, question: str, folders: Sequence[RunFolder]) -> str:
    import yaml  # type: ignore[import-untyped]

    head = ["# @package _global_", f"# Question: {question}", f"#   {_command(name, jobs)}", *_measured(folders)]
    body: str = yaml.safe_dump(dict(content), sort_keys=False, allow_unicode=True)
    return "\n".join(head) + "\n" + body


def _command(name: str, jobs: int) -> str:
    return command_line(*(["-m"] if jobs > 1 else []), f"+experiments={name}")


def _measured(folders: Sequence[RunFolder]) -> list[str]:
    """Comment lines with the time, the cost and the result of the runs that finished."""
    finished = [(folder, summary) for folder in folders if (summary := folder.summary()) is not None]
    if not finished:
        return []
    summaries = [summary for _, summary in finished]
    seconds = [s["time/total_s"] for s in summaries if s.get("time/total_s") is not None]
    costs = [s.get("judge/cost_usd") for s in summaries]
    git = (folders[0].provenance() or {}).get("git") or {}
    commit = (git.get("commit") or "unknown")[:12] + (" with uncommitted changes" if git.get("dirty") else "")
    took = f"{sum(seconds) / 60:.1f} minutes one by one" if seconds else "unknown time"
    cost = "unknown cost" if any(c is None for c in costs) else f"${sum(c for c in costs if c is not None):,.2f}"
    lines = [f"# {len(summaries)} run{'s' * (len(summaries) != 1)}, {took}, {cost} for the judge; commit {commit}."]
    for folder, summary in finished:
        base, trained = summary.get("eval/pnl_base"), summary.get("eval/pnl_trained")
        if base is not None and trained is not None and len(finished) <= RUNS_SHOWN:
            low, high = summary.get("eval/pnl_improvement_low"), summary.get("eval/pnl_improvement_high")
            interval = "" if low is None or high is None else f", change [{low:,.0f}, {high:,.0f}]"
            lines.append(f"#   {folder.path.name}: P&L {base:,.0f} -> {trained:,.0f}{interval}")
    return lines


COMMAND = Command(run=run)
