"""Task evaluate: two policies play the same held-out markets until the difference is clear."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple
from typing import cast

from mmo_rl.commands.base import Command, Context
from mmo_rl.config.composition import compose_arena
from mmo_rl.config.players import check_contestant
from mmo_rl.config.scenarios import market_node
from mmo_rl.config.settings import Settings, masked
from mmo_rl.config.tasks import Options
from mmo_rl.errors import ConfigError
from mmo_rl.evaluate.base import Contestant, Look, PolicyComparer
from mmo_rl.evaluate.comparison import Numbers, by_scenario, compare, level_together, winner
from mmo_rl.loop.results import note_provenance
from mmo_rl.market.base import Arena
from mmo_rl.report.comparison import print_comparison, write_comparison
from mmo_rl.report.progress import Stages
from mmo_rl.report.run_folder import RunFolder
from mmo_rl.stats.interval import level_of_looks
from mmo_rl.types import JsonDict, Measured, Rollout


def check(settings: Settings, overrides: Sequence[str]) -> None:
    """Raises `ConfigError` where a contestant or a scenario is no known name, or a scenario's market cannot be."""
    node = settings.node("evaluate")
    for side in "ab":
        check_contestant(f"evaluate.{side}", node[side])
    for name in node["scenarios"]:
        market_node(name, overrides)


async def run(context: Context, options: Options) -> float | None:
    """Plays the looks that the run folder does not hold yet; returns the difference in P&L, B minus A."""
    folder, report = context.run_folder, context.components.report
    pair = cast(PolicyComparer | None, context.components.evaluator)
    if pair is None:
        raise ConfigError("task=evaluate compares two policies, and evaluate=none has none", hint="leave evaluate out")
    arenas = _arenas(context, pair)
    played = _played(folder)
    failed = True
    try:
        report.start(masked(context.settings))
        note_provenance(context.settings, context.overrides, folder, [])
        a = await _contestant(context, "evaluate.a", pair.a)
        b = await _contestant(context, "evaluate.b", pair.b)
        with Stages(console=context.console, iterations=pair.looks, done=len(played), label="looks") as stages:
            while len(played) < pair.looks and (not played or winner(_numbers(pair, played)) is None):
                number = len(played)
                with stages.stage("evaluate", f"{a.name[:14]} : {b.name[:14]}") as advance:
                    look = await pair.play(number, arenas, a, b, on_tick=advance)
                folder.append("checkpoints", _row(number, look))
                played.append(look)
                numbers = _numbers(pair, played)
                report.iteration(number, {f"ab/{k}": v for k, v in numbers.items() if isinstance(v, float)})
                stages.advance_to(len(played))
        summary = _summary(pair, list(arenas), played)
        sides = {"a": (a.name, _a(played)), "b": (b.name, _b(played))}
        folder.write_evaluations(
            {side: Measured(name, pair.decoding, tuple(rollouts)) for side, (name, rollouts) in sides.items()}
        )
        report.finish(summary)
        write_comparison(folder)
        failed = False
    finally:
        report.close(failed=failed)
    print_comparison(context.console, summary, folder.path, machine=pair.format == "json")
    difference = summary["ab/pnl_difference"]
    return difference if isinstance(difference, float) else None


def _arenas(context: Context, pair: PolicyComparer) -> dict[str, Arena]:
    """The arena of each scenario, with this run's own ``market.KEY=VALUE``; without scenarios that of the run."""
    if not pair.scenarios:
        return {"market": context.components.arena}
    return {name: compose_arena(market_node(name, context.overrides)) for name in pair.scenarios}


async def _contestant(context: Context, key: str, text: str) -> Contestant:
    contestant = context.components.players.contestant(key, text)
    await context.opened(contestant.policy)
    return contestant


def _numbers(pair: PolicyComparer, played: Sequence[Look]) -> Numbers:
    return compare(_a(played), _b(played), looks=pair.looks, paired=pair.paired, seed=pair.seed)


def _summary(pair: PolicyComparer, scenarios: list[str], played: Sequence[Look]) -> Numbers:
    """summary.json: flat numbers under ``ab/``, those of a scenario under ``ab/scenario/NAME/``."""
    numbers = _numbers(pair, played)
    rows = by_scenario(
        _a(played),
        _b(played),
        lambda market: pair.scenario_of(market, scenarios),
        looks=pair.looks,
        paired=pair.paired,
        seed=pair.seed,
    )
    markets = len({r.market for r in _a(played)})
    return {
        "ab/a": pair.a,
        "ab/b": pair.b,
        "ab/better": winner(numbers),
        "ab/paired": int(pair.paired),
        "ab/markets": markets,
        "ab/markets_planned": pair.markets * len(scenarios),
        "ab/agents": pair.agents,
        "ab/looks_done": len(played),
        "ab/looks": pair.looks,
        "ab/interval_level": level_of_looks(pair.looks),
        "ab/scenario_interval_level": level_together(pair.looks, len(rows)),
        **{f"ab/{name}": value for name, value in numbers.items()},
        **{f"ab/scenario/{s}/{name}": value for s, row in rows.items() for name, value in row.items()},
    }


def _a(played: Sequence[Look]) -> list[Rollout]:
    return [rollout for look in played for rollout in look.a]


def _b(played: Sequence[Look]) -> list[Rollout]:
    return [rollout for look in played for rollout in look.b]


def _row(number: int, look: Look) -> JsonDict:
    return {"iteration": number, "a": [astuple(r) for r in look.a], "b": [astuple(r) for r in look.b]}


def _played(folder: RunFolder) -> list[Look]:
    """The looks that an interrupted run has finished; what it wrote after them is taken back."""
    looks = [Look(*(tuple(Rollout(*r) for r in row[side]) for side in "ab")) for row in folder.read("checkpoints")]
    folder.truncate_after("metrics", len(looks) - 1)
    return looks


COMMAND = Command(run=run, check=check)
