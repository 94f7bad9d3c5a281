"""Task import: copies recorded play from files, standard input or another database into the database."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.table import Table

from mmo_rl.commands.base import Command, Context
from mmo_rl.config.tasks import ImportOptions
from mmo_rl.database.base import Database
from mmo_rl.database.play_copy import REFUSED, Copied, PlayCopy
from mmo_rl.errors import ConfigError, SourceError
from mmo_rl.source.base import Play, Source, source_overrides
from mmo_rl.source.example import example_lines
from mmo_rl.terminal import Terminal, progress_bars


async def run(context: Context, options: ImportOptions) -> int | None:
    """Stores every trajectory that the database does not have yet, by its id.

    Raises `SourceError` where nothing could be read; returns 1 where the database refused all that could.
    ``example`` prints lines that are imported, and does nothing else.
    """
    if options.example:
        for line in example_lines():
            sys.stdout.write(json.dumps(line) + "\n")
        return None
    play = _play(context)
    total = await play.total()
    database = context.components.database
    await database.require_tables()
    with progress(context.console, total, "import") as advance:
        copied = await PlayCopy(play, database, advance=advance).run()
    if not copied.imported and not copied.already_there and not copied.replaced and copied.refusal is None:
        why = play.rejections.summary() if play.rejections.counts else "it is empty"
        raise SourceError(
            f"no trajectory could be read from the source: {why}",
            hint="source=jsonl source.path=... takes a file, a folder of .json and .jsonl files, or - (standard input)",
        )
    show(copied, play, database, context.console)
    return None if copied.imported or copied.already_there or copied.replaced else 1


def show(copied: Copied, play: Play, database: Database, console: Terminal) -> None:
    """Prints the counts, the reasons of rejections and refusals, and the next command."""
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_row("trajectories imported", f"{copied.imported:,}")
    table.add_row("already there", f"{copied.already_there:,}")
    if copied.kept_shorter:
        table.add_row("of these with fewer steps than now, in the game's own rows (kept)", f"{copied.kept_shorter:,}")
    if copied.replaced:
        table.add_row("replaced: they were half over before", f"{copied.replaced:,}")
    for reason, count in sorted(play.rejections.counts.items()):
        table.add_row(f"rejected: {reason}", f"{count:,}")
    if copied.outcomes or copied.outcomes_already_there:
        table.add_row("outcomes of windows imported", f"{copied.outcomes:,}")
        table.add_row("outcomes already there", f"{copied.outcomes_already_there:,}")
    console.print(table)
    if not copied.imported and not copied.replaced and not copied.outcomes and copied.refusal is None:
        console.print("Nothing to do: all of it is already there")
    if copied.refusal is not None:
        console.say(f"{REFUSED}, the first time: {copied.refusal}")
    if play.rejections.counts and play.rejections.path is not None:
        console.say(f"Each rejection is in {play.rejections.path}")
    if copied.refusal is not None and not copied.imported and not copied.already_there and not copied.replaced:
        if not database.embedded:
            console.print("database=embedded stores it on this machine, where any agent is welcome")
        return
    check = f"mmo-rl task=check{source_overrides(database.dsn_env)}"
    console.say(f"Stored in {database.name}. Next: {check}")


# --- inside ---------------------------------------------------------------------------------------------------------


def _play(context: Context) -> Play:
    """Returns the source to copy from. Raises `ConfigError` where it cannot be copied, or is the database itself."""
    if context.settings.reads_written_database:
        raise ConfigError(
            "task=import copies from a source into the database, and both are the same here",
            hint="from files: source=jsonl source.path=...; from a server into the embedded database: source=postgres"
            " database=embedded; into a server: add database=postgres",
        )
    return playable(context.components.source)


def playable(source: Source) -> Play:
    """Returns the source as one whose play can be copied. Raises `ConfigError` where it is none."""
    if not isinstance(source, Play):
        raise ConfigError(
            f"the class of this source, {type(source).__name__}, cannot be copied: it has no rejections, total and"
            " stream",
            hint="implement mmo_rl.source.base.Play in it, or import from source=jsonl or source=postgres",
        )
    return source


@contextmanager
def progress(console: Terminal, total: int | None, label: str) -> Iterator[Callable[[int], None]]:
    """Shows a progress bar, or where ``total`` is not known, a count."""
    with progress_bars(console) as bar:
        task = bar.add_task(label, total=total)
        yield lambda count: bar.advance(task, count)


COMMAND = Command(run=run)
