"""Plays new windows of the simulated market with several agents at once and records them, as test data or as a demo."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmo_rl.clock import utc_now
from mmo_rl.errors import ConfigError
from mmo_rl.tasks._progress import Stages

if TYPE_CHECKING:
    from mmo_rl.config import Context


async def run(context: Context) -> None:
    """Records ``collect.windows`` windows in a world of this command's own; the same command again replaces them."""
    from rich.table import Table

    from mmo_rl.cli.project import job_key
    from mmo_rl.database.worlds import reserve_hours
    from mmo_rl.policy.local import open_policy
    from mmo_rl.types import PolicyVersion

    components = context.components
    if not components.has("collect"):
        raise ConfigError("task=collect plays windows, but collect=none", hint="mmo-rl task=collect collect=simulated")
    database, collector = await components.database(), await components.collector()
    await database.require_tables()
    policy = None
    if None in collector.seats:
        spec = components.model()
        policy = open_policy(PolicyVersion(spec.name, 0, spec.location()), spec)
    scenario_id = f"{context.settings.name}-collect-{job_key(context.overrides)}"
    hours = int(-(-collector.windows * collector.window_hours // 1))
    start = await reserve_hours(database, scenario_id=scenario_id, hours=hours, now=utc_now())
    with (
        Stages(console=context.console, iterations=1) as stages,
        stages.stage("collect", f"collect {collector.windows} windows") as advance,
    ):
        played = await collector.collect(policy, iteration=0, scenario_id=scenario_id, start=start, on_tick=advance)
    table = Table(
        title=f"{len(played.windows)} windows recorded, {played.windows[0].id} to {played.windows[-1].id} UTC"
    )
    for column in ("agent", "mean P&L", "wins"):
        table.add_column(column, justify="left" if column == "agent" else "right")
    by_agent: dict[str, list[float]] = {}
    for agent, pnl in zip(played.agents, played.pnl, strict=True):
        by_agent.setdefault(agent, []).append(pnl)
    for agent, pnl in sorted(by_agent.items(), key=lambda item: -sum(item[1])):
        table.add_row(agent, f"{sum(pnl) / len(pnl):+,.0f}", f"{sum(p > 0 for p in pnl) / len(pnl):.0%}")
    context.console.print(table)
    context.console.print(f"errors {played.error_rate:.1%}; look at it: mmo-rl task=check")
