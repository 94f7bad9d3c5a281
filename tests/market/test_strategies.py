"""Scripted strategies: the ladder of their P&L, the activity of the original five, and strategies of one's own."""

import hashlib
import itertools
import json
import random
import re

import pytest

from mmo_rl.errors import ConfigError
from mmo_rl.market.arena import MarketArena
from mmo_rl.market.base import Script
from mmo_rl.market.names import RELIABLE_SOURCES
from mmo_rl.market.spec import MarketSpec
from mmo_rl.market.strategies import HOLD, PROFILES, SCRIPTS, SHIPPED, order, script, shipped
from mmo_rl.market.view import Observation
from mmo_rl.market.world import World
from mmo_rl.stats.bootstrap import mean_interval
from mmo_rl.types import Measured, Rollout

MARKETS = 400
OTHER_SIDE = {'"BUY"': '"SELL"', '"SELL"': '"BUY"'}


async def alone(seat: str) -> Measured:
    """By itself in each market, so that nobody's trading moves another's prices."""
    episodes = await MarketArena(spec=MarketSpec()).play(
        None, market_seeds=range(MARKETS), seats=[seat], temperature=1.0, seed=7
    )
    return Measured(seat, "sampled", tuple(Rollout(m, 0, e.pnl[0], e.ticks, 0) for m, e in enumerate(episodes)))


def random_twice() -> Measured:
    """A random trader and its mirror image, which is as random, in each market: what luck gives one it takes from the
    other, so that the fees can be seen in few markets (antithetic variates)."""
    rollouts = []
    for market in range(MARKETS):
        for agent, mirrored in enumerate((False, True)):
            draw, world = random.Random(market), World(spec=MarketSpec(), seed=market, agents=1)
            while not world.done:
                text = SCRIPTS["random"].new()(world.observe(0), draw)
                if mirrored:
                    text = re.sub(r'"(BUY|SELL)"', lambda found: OTHER_SIDE[found.group()], text)
                world.step([text])
            rollouts.append(Rollout(market, agent, world.pnl(0), world.tick, 0))
    return Measured("random", "sampled", tuple(rollouts))


async def test_who_knows_more_earns_more_and_every_gap_is_clear() -> None:
    """oracle >> informed > noop = 0 > random > contrarian-oracle: the 95 % intervals of neighbours do not touch."""
    ladder = [await alone("oracle"), await alone("informed"), await alone("noop"), random_twice()]
    ladder.append(await alone("contrarian-oracle"))
    intervals = [mean_interval(one, "pnl", seed=0) for one in ladder]
    for better, worse in itertools.pairwise(intervals):
        assert better.low > worse.high, intervals
    oracle, informed, noop, unlucky, _ = intervals
    assert oracle.low > 2 * informed.high
    assert (noop.low, noop.high) == (0.0, 0.0)
    assert unlucky.low > -100.0, "fees, not ruin"


@pytest.mark.parametrize("name", PROFILES)
def test_the_original_five_are_as_active_as_the_games(name: str) -> None:
    """Actions of 15, over 2,000 decisions (a standard deviation of at most 0.17)."""
    draw = random.Random(0)
    acted = decisions = 0
    for seed in range(250):
        world = World(spec=MarketSpec(), seed=seed, agents=1)
        while not world.done:
            text = SCRIPTS[name].new()(world.observe(0), draw)
            decisions += 1
            acted += text != HOLD
            world.step([HOLD])
    per_window = 15 * acted / decisions
    assert decisions == 2000
    assert per_window == pytest.approx(PROFILES[name].actions, abs=0.6)


def test_more_risk_is_a_larger_order() -> None:
    by_risk = sorted(PROFILES.values())
    assert [p.size for p in by_risk] == sorted(p.size for p in by_risk)
    sizes = {name: _sizes(name) for name in PROFILES}
    assert sizes == {name: {profile.size} for name, profile in PROFILES.items()}


def _sizes(name: str) -> set[int]:
    draw, sizes = random.Random(1), set()
    for seed in range(20):
        world = World(spec=MarketSpec(), seed=seed, agents=1)
        while not world.done:
            text = SCRIPTS[name].new()(world.observe(0), draw)
            if text != HOLD:
                sizes.add(json.loads(text)["size"])
            world.step([HOLD])
    return sizes


def test_scripts_play_the_market_that_the_shipped_model_learnt_as_they_always_did() -> None:
    names = sorted(set(SCRIPTS) - {"promoter"})
    hashed = hashlib.sha256()
    for seed in range(20):
        world, draw = World(spec=MarketSpec(), seed=seed, agents=len(names)), random.Random(seed)
        while not world.done:
            texts = [SCRIPTS[name].new()(world.observe(agent), draw) for agent, name in enumerate(names)]
            hashed.update(repr(texts).encode())
            world.step(texts)
    assert hashed.hexdigest() == "99dfeb843c7f5f492c4047839cf51ace8f443fe3ff57610955444dd786c9f8fe"


async def test_in_a_market_that_goes_on_scripts_keep_their_book() -> None:
    """Twelve windows: nobody runs out of cash, and who is active stays active."""
    spec = MarketSpec(questions=4, question_windows=24, max_leverage=10.0, impact=0.002, impact_decay=0.1, posts=3)
    names = [*PROFILES, "informed", "gullible", "random"]
    episodes = await MarketArena(spec=spec).play(
        None, market_seeds=range(12), seats=names, temperature=0.0, seed=0, windows=12
    )
    for agent, name in enumerate(names):
        steps = [step for episode in episodes for step in episode.steps[agent]]
        late = [step for episode in episodes[11::12] for step in episode.steps[agent]]
        assert sum(not step.success for step in steps) < 0.02 * len(steps), name
        active = [sum(step.action_type != "HOLD" for step in some) / len(some) for some in (steps, late)]
        assert active[1] > 0.5 * active[0] > 0.1, name
        assert any(step.action_type == "CLOSE_PERP_POSITION" for step in late), name


class Careful:
    """Holds until it has seen a ticker in a dispatch before; a strategy of one's own, with a memory of its own."""

    def __init__(self) -> None:
        self.seen: set[str] = set()

    def __call__(self, observation: Observation, rng: random.Random) -> str:
        for item in observation.news:
            if item.source in RELIABLE_SOURCES and item.ticker in self.seen:
                return order(item.ticker, item.direction, 1)
            if item.source in RELIABLE_SOURCES:
                self.seen.add(item.ticker)
        return HOLD


def first_ticker(observation: Observation, rng: random.Random) -> str:
    return order(observation.quotes[0].ticker, rng.choice((-1, 1)), 1)


async def test_a_strategy_of_ones_own_plays_with_a_memory_of_each_seat_and_market() -> None:
    careful = script(Careful, name="careful")

    async def texts(seeds: range) -> list[list[str]]:
        episodes = await MarketArena(spec=MarketSpec()).play(
            None, market_seeds=seeds, seats=[careful, "noop", careful], temperature=0.0, seed=0
        )
        assert all([s.completion.text for s in e.steps[0]] == [s.completion.text for s in e.steps[2]] for e in episodes)
        return [[step.completion.text for step in episode.steps[0]] for episode in episodes]

    together = await texts(range(20))
    assert together == [text for seed in range(20) for text in await texts(range(seed, seed + 1))]
    orders = sum(text != HOLD for market in together for text in market)
    assert 20 < orders < 20 * 8 and all(market[0] == HOLD for market in together)


async def test_a_function_is_a_strategy_and_draws_from_the_seed_alone() -> None:
    own = script(first_ticker, name="first")
    play = [
        await MarketArena(spec=MarketSpec()).play(None, market_seeds=[1, 2], seats=[own], temperature=0.0, seed=seed)
        for seed in (0, 0, 1)
    ]
    pnl = [[episode.pnl for episode in episodes] for episodes in play]
    assert pnl[0] == pnl[1] != pnl[2]


def test_a_script_keeps_the_name_that_it_gives_itself() -> None:
    own = Script("mine", Careful)
    assert script(own, name="another") is own


def test_what_is_no_strategy_is_refused_with_what_was_expected() -> None:
    class NeedsMore:
        def __init__(self, size: int) -> None:
            self.size = size

    for found in (NeedsMore, int, lambda observation: HOLD, "momentum", 3):
        with pytest.raises(ConfigError, match=r"'own' cannot play: .*\n.*a function of \(observation, rng\)"):
            script(found, name="own")


async def test_an_answer_that_is_no_text_names_the_strategy() -> None:
    own = script(lambda observation, rng: {"action": "HOLD"}, name="mine")
    with pytest.raises(ConfigError, match="strategy 'mine' answered with dict, expected the text of an action"):
        await MarketArena(spec=MarketSpec()).play(None, market_seeds=[0], seats=[own], temperature=0.0, seed=0)


def test_a_shipped_name_is_found_and_another_gets_the_nearest() -> None:
    assert all(shipped(name).name == name for name in SHIPPED)
    assert {"oracle", "contrarian-oracle", *SCRIPTS} == set(SHIPPED)
    with pytest.raises(ConfigError, match="did you mean momentum"):
        shipped("momentun")
