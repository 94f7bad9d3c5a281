import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from mmo_rl.database.base import Recorder, Stay
from mmo_rl.database.database import Database
from mmo_rl.database.recorder import TrajectoryRecorder
from mmo_rl.errors import ConfigError, DatabaseError
from mmo_rl.lm.load import load_model
from mmo_rl.lm.model import SHIPPED
from mmo_rl.market.arena import MarketArena
from mmo_rl.market.base import CollectorParts, Script
from mmo_rl.market.collect import SimulatedCollector
from mmo_rl.market.spec import MarketSpec
from mmo_rl.market.strategies import order, shipped
from mmo_rl.policy.base import Completion
from mmo_rl.policy.local import LocalPolicy
from mmo_rl.types import GroundTruth, Message, Trajectory, Window

START = datetime(2001, 1, 1, tzinfo=UTC)


class Memory:
    """Keeps what it is given, in order."""

    def __init__(self) -> None:
        self.windows: list[Window] = []
        self.trajectories: list[Trajectory] = []
        self.truths: list[GroundTruth] = []

    async def answers(self, *, scenario_id: str) -> dict[str, dict[str, list[str]]]:
        found: dict[str, dict[str, list[str]]] = {}
        for t in self.trajectories:
            found.setdefault(t.window_id or "", {})[t.agent_id] = [s.llm_calls[0].response for s in t.steps]
        return found

    async def begin_window(self, window: Window, *, scenario_id: str) -> None:
        self.windows.append(window)

    async def record(self, trajectory: Trajectory) -> None:
        self.trajectories.append(trajectory)

    async def record_all(self, trajectories: Sequence[Trajectory]) -> None:
        self.trajectories.extend(trajectories)

    async def record_outcomes(self, truth: GroundTruth, *, scenario_id: str) -> None:
        self.truths.append(truth)

    async def stays(self, *, scenario_id: str) -> list[Stay]:
        whole = {truth.window_id for truth in self.truths}
        return [
            Stay(t.window_id, t.agent_id, t.final_pnl, len(t.steps), t.metrics["errorCount"])
            for t in self.trajectories
            if t.window_id in whole and t.final_pnl is not None
        ]


def parts(recorder: Recorder, *, spec: MarketSpec | None = None) -> CollectorParts:
    arena = MarketArena(spec=MarketSpec() if spec is None else spec)
    return CollectorParts(arena=arena, recorder=recorder, find_player=shipped)


def collector(memory: Memory, **options: object) -> SimulatedCollector:
    return SimulatedCollector(
        windows=3,
        agents=5,
        seed=0,
        **options,
        parts=parts(memory),
    )  # type: ignore[arg-type]


async def test_a_policys_play_is_recorded_with_what_training_needs() -> None:
    model, tokenizer = load_model(str(SHIPPED / "tiny"))
    policy = LocalPolicy(model=model, tokenizer=tokenizer, name="tiny", version=4, max_completion_tokens=24)
    memory = Memory()
    played = await collector(memory).collect(policy, iteration=2, scenario_id="s", start=START)
    assert [w.start for w in memory.windows] == [START + timedelta(hours=h) for h in (6, 7, 8)]
    assert [t.trajectory_id for t in memory.trajectories[:2]] == ["s-w00006-a00", "s-w00006-a01"]
    assert len(memory.trajectories) == 15 and played.pnl == tuple(t.final_pnl for t in memory.trajectories)
    for trajectory in memory.trajectories:
        assert len(trajectory.steps) == 8
        for step in trajectory.steps:
            assert trajectory.start <= step.timestamp < trajectory.end
            (call,) = step.llm_calls
            assert call.token_ids and call.logprobs and len(call.token_ids) == len(call.logprobs)
            assert call.model_version == "4" and call.temperature == 1.0 and call.latency_ms is None
    assert [t.window_id for t in memory.truths] == [w.id for w in memory.windows]


async def test_an_iteration_repeats_itself_and_differs_from_the_next() -> None:
    one, two, other = Memory(), Memory(), Memory()
    for memory, iteration in ((one, 0), (two, 0), (other, 1)):
        await collector(memory, strategies=("balanced", "momentum")).collect(
            None, iteration=iteration, scenario_id="s", start=START
        )
    assert one.trajectories == two.trajectories and one.truths == two.truths
    assert [t.final_pnl for t in one.trajectories] != [t.final_pnl for t in other.trajectories]
    assert [t.agent_id for t in one.trajectories[:3]] == ["balanced-00", "momentum-01", "balanced-02"]


async def test_a_strategy_of_ones_own_is_recorded_under_its_name() -> None:
    memory = Memory()
    own = {"careful": Script("careful", lambda: lambda observation, rng: order(observation.quotes[0].ticker, 1, 1))}
    own_parts = CollectorParts(arena=MarketArena(spec=MarketSpec()), recorder=memory, find_player=own.__getitem__)
    collector = SimulatedCollector(windows=1, agents=2, strategies=("careful",), seed=0, parts=own_parts)
    await collector.collect(None, iteration=0, scenario_id="s", start=START)
    assert [t.agent_id for t in memory.trajectories] == ["careful-00", "careful-01"]
    assert collector.player_names(None) == {"careful-00": "careful", "careful-01": "careful"}
    steps = [step for trajectory in memory.trajectories for step in trajectory.steps]
    assert {step.llm_calls[0].model for step in steps} == {"script/careful"}
    assert {step.action.action_type for step in steps} == {"OPEN_PERP_POSITION"}


async def test_a_seat_may_be_the_policys_among_scripts() -> None:
    options: dict[str, object] = {"strategies": ("policy", "noop")}
    noop = shipped("noop")
    assert collector(Memory(), **options).seats == [None, noop, None, noop, None]


class Killed(BaseException):
    pass


class Dying(TrajectoryRecorder):
    """Records ``left`` trajectories and dies."""

    left = 13

    async def record_all(self, trajectories: Sequence[Trajectory]) -> None:
        for trajectory in trajectories:
            if not self.left:
                raise Killed
            self.left -= 1
            await self.record(trajectory)


async def test_what_a_kill_left_is_completed_without_duplicates(database: Database) -> None:
    """Windows that are whole stay, the half one is replaced, and all ends as if nothing had happened."""

    def make(recorder: Recorder) -> SimulatedCollector:
        return SimulatedCollector(
            windows=6,
            agents=4,
            strategies=("balanced", "random"),
            abreast=4,
            seed=0,
            parts=parts(recorder),
        )  # type: ignore[arg-type]

    unbroken = await make(memory := Memory()).collect_missing(None, scenario_id="s", start=START)
    with pytest.raises(Killed):
        await make(Dying(database=database)).collect_missing(None, scenario_id="s", start=START)
    progress: list[int] = []
    again = make(TrajectoryRecorder(database=database))
    whole = await again.collect_missing(
        None, scenario_id="s", start=START, on_windows=lambda done, total: progress.append(done)
    )
    assert whole.resumed == 3 and progress == [3, 4, 5, 6]
    assert (whole.windows, whole.stays) == (unbroken.windows, unbroken.stays)
    async with database.acquire() as connection:
        rows = await connection.fetch('select "trajectoryId" as id, "finalPnL" as pnl from trajectories order by 1')
    assert [(r["id"], r["pnl"]) for r in rows] == [(t.trajectory_id, t.final_pnl) for t in memory.trajectories]
    assert (await again.collect_missing(None, scenario_id="s", start=START)).resumed == 6
    assert (await again.collect_missing(None, scenario_id="another", start=START)).resumed == 0


class Counting:
    """Buys what the first line of news is about, and counts how often it is asked."""

    name, version, asked = "counting", 0, 0

    async def complete(
        self, prompts: Sequence[Sequence[Message]], *, temperature: float, seed: int
    ) -> list[Completion]:
        self.asked += len(prompts)
        return [Completion(_follow(prompt[1]["content"])) for prompt in prompts]


def _follow(prompt: str) -> str:
    name = next(line for line in prompt.splitlines() if line.startswith("news ")).split()[1]
    return json.dumps({"ticker": name, "action": "BUY", "size": 1})


async def test_a_market_that_goes_on_is_resumed_from_its_recording(database: Database) -> None:
    """Each window is recorded as it ends; after a kill the policy is asked only what was not recorded."""

    def make(recorder: Recorder) -> SimulatedCollector:
        spec = MarketSpec(questions=4, question_windows=4)
        seats = ("policy", "random", "momentum")
        return SimulatedCollector(
            windows=6,
            agents=3,
            strategies=seats,
            continuous=True,
            seed=0,
            parts=parts(recorder, spec=spec),
        )  # type: ignore[arg-type]

    whole = Counting()
    unbroken = await make(memory := Memory()).collect_missing(whole, scenario_id="s", start=START)
    killed = Dying(database=database)
    with pytest.raises(Killed):
        await make(killed).collect_missing(Counting(), scenario_id="s", start=START)
    rest = Counting()
    resumed = await make(TrajectoryRecorder(database=database)).collect_missing(rest, scenario_id="s", start=START)
    assert resumed.resumed == 4 and (resumed.windows, resumed.stays) == (unbroken.windows, unbroken.stays)
    assert whole.asked == 6 * 8 and rest.asked == 2 * 8
    final = {truth.window_id: truth for truth in memory.truths}
    expected = {(w, q.question_id): q.outcome for w, truth in final.items() for q in truth.questions}
    async with database.acquire() as connection:
        rows = await connection.fetch(
            'select "windowId" as w, "predictionMarketId" as q, outcome from market_outcomes where question is not null'
        )
    assert {(r["w"], r["q"]): r["outcome"] for r in rows} == expected
    first = [outcome for (window, _), outcome in expected.items() if window == unbroken.windows[0].id]
    assert "UNRESOLVED" not in first and "UNRESOLVED" in expected.values()


async def test_prompts_hold_nothing_of_the_future() -> None:
    """Ground truth is recorded beside the play, never in what an agent saw."""
    memory = Memory()
    await collector(memory, strategies=("informed",)).collect(None, iteration=0, scenario_id="s", start=START)
    for trajectory, truth in zip(memory.trajectories[::5], memory.truths, strict=True):
        prompts = " ".join(m["content"] for s in trajectory.steps for c in s.llm_calls for m in c.messages)
        assert all(str(t.end_price) not in prompts for t in truth.tickers)
        assert "UNRESOLVED" not in prompts and "outcome" not in prompts.lower()


async def test_an_unknown_strategy_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match="did you mean momentum"):
        await collector(Memory(), strategies=("momentun",)).collect(None, iteration=0, scenario_id="s", start=START)


async def test_a_window_is_one_transaction(database: Database) -> None:
    together: list[int] = []

    class Counting(TrajectoryRecorder):
        async def record_all(self, trajectories: Sequence[Trajectory]) -> None:
            together.append(len(trajectories))
            await super().record_all(trajectories)

        async def record(self, trajectory: Trajectory) -> None:
            pytest.fail("an agent at a time is a commit each")

    collector = SimulatedCollector(
        windows=3,
        agents=4,
        strategies=("balanced",),
        seed=0,
        parts=parts(Counting(database=database)),
    )
    await collector.collect(None, iteration=0, scenario_id="s", start=START)
    assert together == [4, 4, 4]


async def test_a_window_that_cannot_be_stored_says_which_agent_is_refused(database: Database) -> None:
    class Colliding(TrajectoryRecorder):
        async def begin_window(self, window: Window, *, scenario_id: str) -> None:
            """Leaves what is there."""

    options: dict[str, Any] = {"windows": 1, "agents": 2, "strategies": ("balanced",), "seed": 0}
    collector = SimulatedCollector(
        **options,
        parts=parts(Colliding(database=database)),
    )
    await collector.collect(None, iteration=0, scenario_id="s", start=START)
    with pytest.raises(DatabaseError, match="is already recorded"):
        await collector.collect(None, iteration=0, scenario_id="s", start=START)
