"""What a run expects of itself, noted before its first iteration: the report holds it against what it took."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmo_rl.errors import SourceError

if TYPE_CHECKING:
    from mmo_rl.config.components import Context
    from mmo_rl.report.run_folder import RunFolder

WINDOWS = 40
"""Read and counted; the others are taken to be like them."""


async def note_plan(context: Context, folder: RunFolder) -> None:
    """Writes plan.json, once a run: one that goes on after a kill keeps the plan that it started with."""
    from mmo_rl.commands.plan import make_plan
    from mmo_rl.plan.bill import expected

    if folder.plan() is not None:
        return
    try:
        plan = await make_plan(context, max_windows=WINDOWS)
    except SourceError:  # nothing to train on: the run itself says so, and why
        return
    folder.write_plan(expected(plan))
