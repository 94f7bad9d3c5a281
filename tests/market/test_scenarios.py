"""What each market promises in its YAML file, on many seeds."""

import itertools
import math
import statistics
from functools import cache
from pathlib import Path

import pytest
import yaml

from mmo_rl.market.arena import MarketArena
from mmo_rl.market.spec import MarketSpec
from mmo_rl.market.world import World

CONF = Path(__file__).resolve().parents[2] / "conf" / "market"
MARKETS = 120


@cache
def spec(name: str) -> MarketSpec:
    """A committed market, composed as Hydra does."""

    def keys(name: str) -> dict[str, object]:
        own = yaml.safe_load((CONF / f"{name}.yaml").read_text("utf-8"))
        bases = [base for base in own.pop("defaults", []) if base != "_self_"]
        return {k: v for base in bases for k, v in keys(base).items()} | own

    return MarketSpec(**{k: v for k, v in keys(name).items() if k != "_target_"})  # type: ignore[arg-type]


_PLAYED: dict[tuple[str, str], list[float]] = {}


async def pnl(market: str, strategy: str, *, agents: int = 3) -> list[float]:
    """Mean P&L of ``agents`` agents of one strategy in each of the same markets."""
    if (market, strategy) not in _PLAYED:
        episodes = await MarketArena(spec=spec(market)).play(
            None, market_seeds=range(MARKETS), seats=[strategy] * agents, temperature=0.0, seed=0
        )
        _PLAYED[market, strategy] = [statistics.mean(episode.pnl) for episode in episodes]
    return _PLAYED[market, strategy]


def surely_more(more: list[float], less: list[float]) -> bool:
    """Whether the mean difference by market lies above 0 with its whole 99.8 % interval."""
    differences = [a - b for a, b in zip(more, less, strict=True)]
    return statistics.mean(differences) > 3.1 * statistics.stdev(differences) / math.sqrt(len(differences))


@pytest.mark.parametrize("market", [path.stem for path in sorted(CONF.glob("*.yaml"))])
async def test_who_knows_more_earns_more_in_every_market(market: str) -> None:
    order = [await pnl(market, s) for s in ("oracle", "informed", "noop", "gullible", "contrarian-oracle")]
    assert set(order[2]) == {0.0}
    assert all(surely_more(more, less) for more, less in itertools.pairwise(order))
    assert statistics.mean(order[0]) > 2 * statistics.mean(order[1])


async def test_random_orders_lose_the_fees() -> None:
    """Between doing nothing and the contrarian oracle. The fees are small: it takes many agents to see it, and cash for
    all of their orders."""
    episodes = await MarketArena(spec=MarketSpec()).play(
        None, market_seeds=range(300), seats=["random"] * 10, temperature=0.0, seed=0
    )
    means = [statistics.mean(episode.pnl) for episode in episodes]
    assert surely_more([0.0] * len(means), means)
    assert statistics.mean(means) > -100
    assert surely_more(means[:MARKETS], await pnl("default", "contrarian-oracle"))


def hold(market: str, action: str, seed: int) -> float:
    """P&L of one unit of every ticker, bought or sold at the first ticks and held."""
    world = World(spec=spec(market), seed=seed, agents=1)
    tickers = [quote.ticker for quote in world.observe(0).quotes]
    for tick in range(world.spec.ticks):
        name = f'"ticker":"{tickers[tick]}","action":"{action}"' if tick < len(tickers) else '"action":"HOLD"'
        world.step([f'{{{name},"size":1}}'])
    return world.pnl(0)


def test_in_a_bull_market_longs_earn_and_in_a_bear_market_shorts() -> None:
    for market, earns, loses in (("bull", "BUY", "SELL"), ("bear", "SELL", "BUY")):
        gained = [hold(market, earns, seed) for seed in range(400)]
        lost = [hold(market, loses, seed) for seed in range(400)]
        nothing = [0.0] * 400
        assert surely_more(gained, nothing) and surely_more(nothing, lost)


async def test_a_pump_ruins_who_believes_rumours_or_chases_it_and_feeds_who_bets_against_it() -> None:
    pump = {s: await pnl("pump_and_dump", s) for s in ("gullible", "momentum", "contrarian", "noop")}
    assert surely_more(await pnl("default", "gullible"), pump["gullible"])
    assert surely_more(pump["noop"], pump["momentum"])
    assert surely_more(pump["contrarian"], pump["noop"])


async def test_posts_matter_in_a_pump_who_praises_it_earns_and_who_believes_the_posts_loses_more() -> None:
    def told(by: str) -> list[str]:
        return [by, "gullible", "gullible", "gullible"]

    talked, silent = [
        await MarketArena(spec=spec("pump_and_dump")).play(
            None, market_seeds=range(MARKETS), seats=told(by), temperature=0.0, seed=0
        )
        for by in ("promoter", "noop")
    ]
    assert surely_more([episode.pnl[0] for episode in talked], [0.0] * MARKETS)
    followers = [[statistics.mean(episode.pnl[1:]) for episode in episodes] for episodes in (talked, silent)]
    assert surely_more(followers[1], followers[0])


async def test_a_scandal_ruins_who_believes_the_denials_and_pays_who_reads_the_dispatches() -> None:
    assert surely_more(await pnl("default", "gullible"), await pnl("scandal", "gullible"))
    assert surely_more(await pnl("scandal", "informed"), await pnl("default", "informed"))


@pytest.mark.parametrize("market", ["pump_and_dump", "scandal"])
def test_stories_unfold_as_told(market: str) -> None:
    """One ticker falls as no ticker does by itself, rumours had praised it, and it ends low."""
    ended = []
    for seed in range(40):
        world, praised = World(spec=spec(market), seed=seed, agents=1), set()
        falls: list[tuple[float, str, int]] = []
        while not world.done:
            seen = world.observe(0)
            praised |= {i.ticker for i in seen.news if i.source in ("@anon", "@moon") and i.direction > 0}
            world.step(['{"action":"HOLD"}'])
            after = world.observe(0)
            falls += [
                (new.price / old.price, new.ticker, world.tick)
                for old, new in zip(seen.quotes, after.quotes, strict=True)
            ]
        fall, victim, tick = min(falls)
        assert fall < 0.9 and victim in praised
        assert (tick > world.spec.ticks // 2) == (market == "pump_and_dump")
        ended += [quote.change_pct for quote in after.quotes if quote.ticker == victim]
    assert statistics.mean(ended) < (-6 if market == "pump_and_dump" else -20)


async def test_who_is_informed_earns_in_a_continuous_market_too() -> None:
    episodes = await MarketArena(spec=spec("continuous")).play(
        None, market_seeds=range(60), seats=["informed", "noop", "gullible"], temperature=0.0, seed=0, windows=4
    )
    lives = [[sum(e.pnl[agent] for e in episodes[m : m + 4]) for m in range(0, 240, 4)] for agent in range(3)]
    assert surely_more(lives[0], lives[1]) and surely_more(lives[0], lives[2])
    late = [q.outcome for m in range(0, 240, 4) for q in episodes[m].truth.questions]
    assert late.count("UNRESOLVED") > 20 and late.count("YES") > 5 and late.count("NO") > 5
