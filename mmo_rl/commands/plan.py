"""Task plan: prints what a run or a sweep would use and cost; no judge is asked, nothing is played or written."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

from mmo_rl.commands.base import Command, Context
from mmo_rl.config.tasks import PlanOptions
from mmo_rl.plan.bill import Plan
from mmo_rl.plan.make import make_plan
from mmo_rl.plan.table import as_json, show
from mmo_rl.terminal import Terminal


async def run(context: Context, options: PlanOptions) -> Plan:
    """Plans one job; `tell` prints it, with those of the other jobs of a sweep. Raises `SourceError` where no window is
    ready."""
    return await make_plan(context.settings, context.components, context.overrides, options)


def tell(jobs: Sequence[tuple[str, Plan]], console: Terminal) -> None:
    """Prints the plans of one job or of all jobs of a sweep, by name."""
    if any(plan.format == "json" for _, plan in jobs):
        sys.stdout.write(json.dumps(as_json(jobs)) + "\n")
    else:
        show(jobs, console)


COMMAND = Command(run=run, tell=tell)
