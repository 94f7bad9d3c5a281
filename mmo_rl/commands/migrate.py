"""Task migrate: creates or upgrades the tables, in one transaction, on a fresh or an existing database."""

from __future__ import annotations

from rich.table import Table

from mmo_rl.commands.base import Command, Context
from mmo_rl.config.tasks import MigrateOptions
from mmo_rl.database.base import MigrationResult
from mmo_rl.source.base import WINDOWS_INDEX
from mmo_rl.terminal import Terminal


async def run(context: Context, options: MigrateOptions) -> None:
    """Migrates the database and prints the rows of every table before and after."""
    database = context.components.database
    show(await database.migrate(index=options.index), database.name, context.console)


def show(result: MigrationResult, name: str, console: Terminal) -> None:
    """Prints the change of revision, and the rows of every table before and after."""
    if result.before == result.after:
        done = f"nothing to do: at revision {result.after} already"
    else:
        done = f"revision {result.before or 'none'} -> {result.after}"
    console.say(f"{name}: {done}")
    if result.indexed:
        console.say(f"index {WINDOWS_INDEX} made: windows are counted without a look at the rows")
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("table")
    table.add_column("rows before", justify="right")
    table.add_column("rows after", justify="right")
    for name_of_table, after in result.rows_after.items():
        before = result.rows_before.get(name_of_table)
        table.add_row(name_of_table, "created" if before is None else f"{before:,}", f"{after:,}")
    console.print(table)


COMMAND = Command(run=run)
