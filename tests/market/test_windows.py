"""The market goes on: what carries over from window to window, and how late outcomes are filled in."""

import itertools
from collections.abc import Sequence
from datetime import UTC, datetime

import pytest

from mmo_rl.database.base import Stay
from mmo_rl.market.arena import MarketArena
from mmo_rl.market.base import CollectorParts
from mmo_rl.market.collect import SimulatedCollector
from mmo_rl.market.spec import MarketSpec
from mmo_rl.market.strategies import shipped
from mmo_rl.market.world import World
from mmo_rl.types import GroundTruth, Trajectory, Window

LONG = MarketSpec(questions=3, question_windows=4)
HOLD = '{"action":"HOLD"}'


def play_window(world: World, texts: dict[int, list[str]] | None = None) -> None:
    agents = len(world._accounts)
    while not world.done:
        world.step((texts or {}).get(world.tick, [HOLD] * agents))


def test_positions_and_prices_carry_over_and_profit_is_the_windows() -> None:
    world = World(spec=LONG, seed=3, agents=1)
    ticker, question = world.observe(0).quotes[0].ticker, world.observe(0).questions[0][0]
    orders = [f'{{"ticker":"{name}","action":"BUY","size":2}}' for name in (ticker, question)]
    play_window(world, {0: [orders[0]], 1: [orders[1]]})
    prices, first = {q.ticker: q.price for q in world.observe(0).quotes}, world.pnl(0)
    world.next_window()
    seen = world.observe(0)
    assert world.window == seen.window == 1 and seen.tick == 0
    assert {q.ticker: q.price for q in seen.quotes} == prices
    assert all(q.change_pct == 0.0 for q in seen.quotes)
    assert seen.positions[ticker] == 2
    play_window(world)
    assert world.pnl(0) != 0.0
    assert first + world.pnl(0) == pytest.approx(world.equity(0) - 10_000.0)


def test_a_question_is_unresolved_until_it_is_due_and_then_filled_in_and_paid() -> None:
    late = 0
    for seed in range(12):
        world = World(spec=LONG, seed=seed, agents=1)
        opened = [name for name, _ in world.observe(0).questions]
        assert len(opened) == 3
        first = [f'{{"ticker":"{opened[0]}","action":"BUY","size":1}}']
        told = []
        for window in range(5):
            assert len(world.observe(0).questions) == 3  # new ones take the place of those resolved
            play_window(world, {0: first} if window == 0 else None)
            told.append({q.question_id: q.outcome for q in world.truth("w", window=0).questions})
            assert {q.outcome for q in world.truth("w").questions} <= {"YES", "NO", "UNRESOLVED"}
            world.next_window()
        assert list(told[0]) == opened and set(told[-1].values()) <= {"YES", "NO"}
        late += any(outcome == "UNRESOLVED" for outcome in told[0].values())
        for earlier, later in itertools.pairwise(told):  # once resolved, it stays so
            assert all(later[q] == outcome for q, outcome in earlier.items() if outcome != "UNRESOLVED")
        assert world.observe(0).positions == {}
        assert (world.pnl(0), world.equity(0) > 10_000.0) == (0.0, told[-1][opened[0]] == "YES")
    assert late > 6


def test_names_of_questions_are_never_used_twice() -> None:
    world = World(spec=MarketSpec(questions=6), seed=0, agents=1)
    names = []
    for _ in range(4):
        names += [name for name, _ in world.observe(0).questions]
        play_window(world)
        world.next_window()
    assert len(set(names)) == len(names) == 24 and "MERGER-4" in names


def test_twenty_questions_may_be_open_at_once() -> None:
    world = World(spec=MarketSpec(questions=20, question_windows=3), seed=0, agents=1)
    for _ in range(3):
        assert len({name for name, _ in world.observe(0).questions}) == 20
        play_window(world)
        world.next_window()


def test_a_life_is_resumed_by_playing_its_recorded_texts_again() -> None:
    one, two = (World(spec=LONG, seed=9, agents=2) for _ in range(2))
    recorded = []
    for _ in range(2):
        while not one.done:
            name = one.observe(0).quotes[one.tick % 4].ticker
            recorded.append([f'{{"ticker":"{name}","action":"SELL","size":1}}', "?"])
            one.step(recorded[-1])
        one.next_window()
    for texts in recorded:
        two.step(texts)
        if two.done:
            two.next_window()
    assert one.observe(0) == two.observe(0) and one.ledger() == two.ledger()


def test_misuse_has_its_words() -> None:
    world = World(spec=LONG, seed=0, agents=2)
    with pytest.raises(ValueError, match="8 ticks left"):
        world.next_window()
    with pytest.raises(ValueError, match="expected 2 texts, one an agent, got 1"):
        world.step([HOLD])
    play_window(world)
    with pytest.raises(ValueError, match="call next_window"):
        world.step([HOLD, HOLD])


async def test_the_arena_plays_many_windows_of_one_market() -> None:
    options = {"seats": ["informed", "oracle", "contrarian-oracle"], "temperature": 0.0, "seed": 0}
    ticks: list[tuple[int, int]] = []
    episodes = await MarketArena(spec=LONG).play(
        None, market_seeds=[1, 2], windows=3, on_tick=lambda *t: ticks.append(t), **options  # type: ignore[arg-type]
    )  # fmt: skip
    assert len(episodes) == 6 and ticks[-1] == (24, 24) and len(ticks) == 24
    for market in (episodes[:3], episodes[3:]):
        for agent in range(3):
            total = sum(episode.pnl[agent] for episode in market)
            assert total == pytest.approx(market[-1].balance[agent] - 10_000.0)
            assert all(episode.steps[agent][0].state["agentPnL"] == 0.0 for episode in market)
        starts = [[t.start_price for t in e.truth.tickers] for e in market]
        ends = [[t.end_price for t in e.truth.tickers] for e in market]
        assert starts[1:] == ends[:-1]
    (alone,) = await MarketArena(spec=LONG).play(None, market_seeds=[1], **options)  # type: ignore[arg-type]
    assert alone.steps == episodes[0].steps and alone.pnl == episodes[0].pnl


class Memory:
    """Keeps what it is given."""

    def __init__(self) -> None:
        self.windows: list[str] = []
        self.trajectories: list[Trajectory] = []
        self.truths: list[GroundTruth] = []

    async def stays(self, *, scenario_id: str) -> list[Stay]:
        return [
            Stay(t.window_id or "", t.agent_id, t.final_pnl or 0.0, len(t.steps), 0)
            for t in self.trajectories
            if t.window_id in {truth.window_id for truth in self.truths}
        ]

    async def answers(self, *, scenario_id: str) -> dict[str, dict[str, list[str]]]:
        found: dict[str, dict[str, list[str]]] = {}
        for t in self.trajectories:
            found.setdefault(t.window_id or "", {})[t.agent_id] = [s.llm_calls[0].response for s in t.steps]
        return found

    async def begin_window(self, window: Window, *, scenario_id: str) -> None:
        self.windows.append(window.id)

    async def record(self, trajectory: Trajectory) -> None:
        self.trajectories.append(trajectory)

    async def record_all(self, trajectories: Sequence[Trajectory]) -> None:
        self.trajectories.extend(trajectories)

    async def record_outcomes(self, truth: GroundTruth, *, scenario_id: str) -> None:
        same = [at for at, known in enumerate(self.truths) if known.window_id == truth.window_id]
        at = same[0] if same else len(self.truths)
        self.truths[at : at + 1] = [truth]


async def test_collecting_a_continuous_market_records_windows_that_follow_each_other() -> None:
    memory = Memory()
    parts = CollectorParts(arena=MarketArena(spec=LONG), recorder=memory, find_player=shipped)
    collector = SimulatedCollector(
        windows=3,
        agents=2,
        strategies=("informed", "momentum"),
        continuous=True,
        abreast=1,
        seed=0,
        parts=parts,
    )
    start = datetime(2001, 1, 1, tzinfo=UTC)
    played = await collector.collect_missing(None, scenario_id="s", start=start)
    assert len(memory.windows) == 3 and len(memory.trajectories) == 6
    for agent in range(2):
        mine = memory.trajectories[agent::2]
        assert sum(t.final_pnl or 0.0 for t in mine) == pytest.approx((mine[-1].final_balance or 0.0) - 10_000.0)
    starts = [[t.start_price for t in truth.tickers] for truth in memory.truths]
    assert starts[1:] == [[t.end_price for t in truth.tickers] for truth in memory.truths[:-1]]
    # A kill before the last window was recorded: the same command records that one, as it was.
    lost = [t.steps for t in memory.trajectories[4:]]
    del memory.trajectories[4:], memory.truths[2:], memory.windows[2:]
    again = await collector.collect_missing(None, scenario_id="s", start=start)
    assert [t.steps for t in memory.trajectories[4:]] == lost and len(memory.windows) == 3
    assert again.pnl == pytest.approx(played.pnl) and again.resumed == 2
