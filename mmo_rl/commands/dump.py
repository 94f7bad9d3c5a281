"""Task dump: writes recorded play into a file that task=import reads."""

from __future__ import annotations

from pathlib import Path

from mmo_rl.clock import utc_now
from mmo_rl.command_line import command_line, override
from mmo_rl.commands.base import Command, Context
from mmo_rl.commands.import_play import playable, progress
from mmo_rl.config.tasks import DumpOptions
from mmo_rl.database.dump import dump
from mmo_rl.errors import ConfigError, SourceError
from mmo_rl.wording import counted


async def run(context: Context, options: DumpOptions) -> None:
    """Writes the play that ``source.where`` chooses, with its outcomes.

    Raises `ConfigError` where the file is there already, `SourceError` where there is nothing to write.
    """
    output = Path(options.output).expanduser()
    if output.exists() and not options.overwrite:
        raise ConfigError(
            f"{output} is there already", hint="dump.overwrite=true replaces it; dump.output=FILE names another"
        )
    play = playable(context.components.source)
    total = await play.total()
    if total == 0:
        raise SourceError(
            "no recorded trajectory is what the source and source.where choose",
            hint="mmo-rl task=check looks at what is there",
        )
    with progress(context.console, total, "dump") as advance:
        dumped = await dump(play, output, advance=advance, now=utc_now())
    size = sum(path.stat().st_size for path in dumped.files)
    lines = [
        f"{counted(dumped.trajectories, 'trajectory', 'trajectories')} and the outcomes of"
        f" {counted(dumped.outcomes, 'window')} written: {', '.join(map(str, dumped.files))} ({size / 1e6:,.1f} MB)",
        *(f"{count:,} x {reason}" for reason, count in sorted(play.rejections.counts.items())),
    ]
    if output.suffix != ".parquet":
        read = command_line("task=import", "source=jsonl", override("source.path", str(output)))
        lines.append(f"Read it: {read}")
    for line in lines:
        context.console.say(line)


COMMAND = Command(run=run)
