"""Task collect: plays new windows of the simulated market with several agents at once and records them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.table import Table

from mmo_rl.clock import utc_now
from mmo_rl.commands.base import Command, Context
from mmo_rl.config.inputs import combined_sha256, inputs_of
from mmo_rl.config.project import job_key
from mmo_rl.config.tasks import Options
from mmo_rl.database.base import Stay
from mmo_rl.database.worlds import reserve_hours
from mmo_rl.errors import ConfigError
from mmo_rl.market.base import Collected
from mmo_rl.report.progress import Stages
from mmo_rl.terminal import Terminal
from mmo_rl.wording import counted

MAX_WINDOWS = 20
"""Largest number of windows whose rankings are printed."""


async def run(context: Context, options: Options) -> None:
    """Records ``collect.windows`` windows in a world of this command's own; the same command again plays the windows
    that are missing."""
    components = context.components
    collector, database = components.collector, components.database
    if collector is None:
        raise ConfigError("task=collect plays windows, but collect=none", hint="mmo-rl task=collect collect=simulated")
    await database.require_tables()
    policy = await context.opened(components.players.chosen()) if None in collector.seats else None
    scenario_id = f"{context.settings.name}-collect-{job_key(context.overrides)}"
    if policy is not None and (weights := combined_sha256(inputs_of(context.settings))):
        scenario_id += f"-{weights[:8]}"  # other weights at the same path play windows of their own
    hours = int(-(-collector.windows * collector.window_hours // 1))
    start = await reserve_hours(database, scenario_id=scenario_id, hours=hours, now=utc_now())
    with (
        Stages(console=context.console, iterations=collector.windows, label="windows recorded") as stages,
        stages.stage("collect", "ticks") as advance,
    ):
        played = await collector.collect_missing(
            policy,
            scenario_id=scenario_id,
            start=start,
            on_tick=advance,
            on_windows=lambda done, total: stages.advance_to(done),
        )
    _show(played, collector.player_names(policy), context.console)


def _show(played: Collected, names: Mapping[str, str], console: Terminal) -> None:
    by_window: dict[str, list[Stay]] = {window.id: [] for window in played.windows}
    by_player: dict[str, list[Stay]] = {name: [] for name in names.values()}
    for stay in played.stays:
        by_window[stay.window_id].append(stay)
        by_player[names.get(stay.agent_id, stay.agent_id)].append(stay)
    if played.resumed:
        new = len(by_window) - played.resumed
        console.say(
            f"{counted(played.resumed, 'window was', 'windows were')} recorded before, "
            f"{new} {'is' if new == 1 else 'are'} new"
            + ("" if new else "; for others give it another seed (seed=1) or name")
        )
    console.print(_rankings(by_window))
    if len(by_window) > MAX_WINDOWS:
        console.print(f"... and {counted(len(by_window) - MAX_WINDOWS, 'window')} more", style="dim")
    console.print(_by_player(by_player))
    console.say(
        f"{counted(len(by_window), 'window')}, {counted(len(played.stays), 'trajectory', 'trajectories')}, "
        f"errors {played.error_rate:.1%}; "
        "look at them: mmo-rl task=check"
    )


def _rankings(by_window: Mapping[str, Sequence[Stay]]) -> Table:
    table = Table(title="Ranking by P&L", title_justify="left", box=None, padding=(0, 2, 0, 0))
    table.add_column("window (UTC)", no_wrap=True)
    for column in ("1st", "2nd", "3rd", "last"):
        table.add_column(column, overflow="fold")
    for window, stays in list(by_window.items())[:MAX_WINDOWS]:
        ranked = [f"{s.agent_id} {s.pnl:+,.0f}" for s in sorted(stays, key=lambda s: (-s.pnl, s.agent_id))]
        first = [*ranked[:3], "", "", ""][:3]
        table.add_row(window, *first, ranked[-1] if len(ranked) > 3 else "")
    return table


def _by_player(by_player: Mapping[str, Sequence[Stay]]) -> Table:
    table = Table(title="P&L by strategy, $", title_justify="left", box=None, padding=(0, 2, 0, 0))
    for column in ("", "mean", "worst", "best", "wins", "errors", "traj."):
        table.add_column(column, justify="right" if column else "left", no_wrap=True)
    means = {name: sum(s.pnl for s in stays) / len(stays) for name, stays in by_player.items() if stays}
    for name, mean in sorted(means.items(), key=lambda item: -item[1]):
        stays = by_player[name]
        table.add_row(
            name,
            f"{mean:+,.0f}",
            f"{min(s.pnl for s in stays):+,.0f}",
            f"{max(s.pnl for s in stays):+,.0f}",
            f"{sum(s.pnl > 0 for s in stays) / len(stays):.0%}",
            f"{sum(s.errors for s in stays) / sum(s.steps for s in stays):.1%}",
            f"{len(stays)}",
        )
    return table


COMMAND = Command(run=run)
