"""Plan of a run, written before its first iteration; the report holds it against the result."""

from __future__ import annotations

from collections.abc import Sequence

from mmo_rl.config.composition import Components
from mmo_rl.config.settings import Settings
from mmo_rl.config.tasks import PlanOptions
from mmo_rl.errors import SourceError
from mmo_rl.plan.bill import expected
from mmo_rl.plan.make import make_plan
from mmo_rl.report.run_folder import RunFolder

OPTIONS = PlanOptions(max_windows=40, changes=False)


async def note_plan(settings: Settings, components: Components, overrides: Sequence[str], folder: RunFolder) -> None:
    """Writes plan.json, once a run: a run that continues after a kill keeps the plan that it started with."""
    if folder.plan() is not None:
        return
    try:
        plan = await make_plan(settings, components, overrides, OPTIONS)
    except SourceError:  # nothing to train on: the run itself says so, and why
        return
    folder.write_plan(expected(plan))
