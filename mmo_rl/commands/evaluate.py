"""Which of two policies is better: both play the same held-out markets until the answer is clear."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import astuple
from typing import TYPE_CHECKING, Any

from mmo_rl.config.contestants import contestant
from mmo_rl.loop.results import note_provenance
from mmo_rl.report.progress import Stages
from mmo_rl.types import Rollout

if TYPE_CHECKING:
    from mmo_rl.config.components import Context
    from mmo_rl.config.settings import Settings
    from mmo_rl.evaluate.comparison import Numbers
    from mmo_rl.evaluate.pair import Look, PairEvaluator
    from mmo_rl.report.run_folder import RunFolder


def check_config(settings: Settings, overrides: Sequence[str]) -> None:
    """Raises `ConfigError` where a contestant or a scenario is no known name, or a scenario's market cannot be."""
    from mmo_rl.config.contestants import check
    from mmo_rl.config.scenarios import market_node

    node = settings.nodes["evaluate"] or {}
    for side in "ab":
        check(f"evaluate.{side}", node[side])
    for name in node["scenarios"]:
        market_node(name, overrides)


async def run(context: Context) -> float | None:
    """Plays the looks that the run folder does not hold yet; returns the difference in P&L, B minus A."""
    from mmo_rl.config.settings import masked
    from mmo_rl.evaluate.comparison import compare, winner
    from mmo_rl.report.comparison import print_comparison, write_comparison

    folder, pair = context.run_folder, context.components.evaluator()
    assert folder is not None
    arenas = context.components.arenas(pair.scenarios)
    report = context.components.report()
    played = _played(folder)
    failed = True
    try:
        report.start(masked(context.settings))
        note_provenance(context, folder, [])
        async with AsyncExitStack() as stack:
            a = await contestant(context, "evaluate.a", pair.a, stack)
            b = await contestant(context, "evaluate.b", pair.b, stack)
            stages = stack.enter_context(
                Stages(console=context.console, iterations=pair.looks, done=len(played), label="looks")
            )
            while len(played) < pair.looks and (not played or winner(_numbers(pair, played, compare)) is None):
                number = len(played)
                with stages.stage("evaluate", f"{a.name[:14]} : {b.name[:14]}") as advance:
                    look = await pair.play(number, arenas, a, b, on_tick=advance)
                folder.append("checkpoints", _row(number, look))
                played.append(look)
                numbers = _numbers(pair, played, compare)
                report.iteration(number, {f"ab/{k}": v for k, v in numbers.items() if isinstance(v, float)})
                stages.advance_to(len(played))
        summary = _summary(pair, list(arenas), played)
        report.finish(summary)
        write_comparison(folder)
        failed = False
    finally:
        report.close(failed=failed)
    print_comparison(context.console, summary, folder.path, machine=pair.format == "json")
    difference = summary["ab/pnl_difference"]
    return difference if isinstance(difference, float) else None


def _numbers(pair: PairEvaluator, played: Sequence[Look], compare: Any) -> Numbers:
    numbers: Numbers = compare(_a(played), _b(played), looks=pair.looks, paired=pair.paired, seed=pair.seed)
    return numbers


def _summary(pair: PairEvaluator, scenarios: list[str], played: Sequence[Look]) -> Numbers:
    """summary.json: flat numbers under ``ab/``, those of a scenario under ``ab/scenario/NAME/``."""
    from mmo_rl.evaluate.comparison import by_scenario, compare, level_together, winner
    from mmo_rl.stats.interval import level_of_looks

    numbers = _numbers(pair, played, compare)
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


def _row(number: int, look: Look) -> dict[str, Any]:
    return {"iteration": number, "a": [astuple(r) for r in look.a], "b": [astuple(r) for r in look.b]}


def _played(folder: RunFolder) -> list[Look]:
    """The looks that an interrupted run has finished; what it wrote after them is taken back."""
    from mmo_rl.evaluate.pair import Look

    looks = [Look(*(tuple(Rollout(*r) for r in row[side]) for side in "ab")) for row in folder.read("checkpoints")]
    folder.truncate_after("metrics", len(looks) - 1)
    return looks
