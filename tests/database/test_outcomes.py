"""Outcomes come from what was recorded, are kept once final, and never say more than was seen."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from mmo_rl.clock import milliseconds, window_at
from mmo_rl.database.database import Database
from mmo_rl.database.observed import observe
from mmo_rl.database.outcomes import DerivedOutcomes, Tracked
from mmo_rl.database.recorder import TrajectoryRecorder
from mmo_rl.errors import DatabaseError
from mmo_rl.types import (
    Action,
    GroundTruth,
    JsonDict,
    QuestionOutcome,
    Step,
    TickerOutcome,
    Trajectory,
    Window,
)

START = datetime(2025, 6, 1, 10, tzinfo=UTC)
WINDOW = window_at(START, 1.0)
HOLD = Action("HOLD", {}, True)


def played(
    *seen: tuple[float, Any] | tuple[float, Any, Action],
    window: Window = WINDOW,
    identity: str = "t",
    metadata: JsonDict | None = None,
) -> Trajectory:
    """Steps at so many minutes after the window's start, with that provider data and action."""
    steps = tuple(
        Step(
            number,
            milliseconds(window.start + timedelta(minutes=minutes)),
            {},
            more[0] if more else HOLD,
            provider_accesses=({"providerName": "market", "data": data},),
        )
        for number, (minutes, data, *more) in enumerate(seen)
    )
    return Trajectory(identity, "a", window.id, window.start, window.end, steps, None, metadata=metadata or {})


def quote(price: Any, ticker: str = "X") -> JsonDict:
    return {"ticker": ticker, "price": price}


def prices(*trajectories: Trajectory) -> dict[str, tuple[float, float]]:
    return {t.ticker: (t.start_price, t.end_price) for t in observe(WINDOW, trajectories).truth().tickers}


@pytest.mark.parametrize(
    ("first", "last"),
    [
        (quote(100), quote(110.5)),
        (quote("100"), quote("110.5")),
        ([quote(100), quote(5, "Y")], {"perps": [quote(110.5)]}),
        ({"tickers": {"X": {"price": 100, "changePct": 3}}}, {"tickers": {"X": {"price": 110.5}}}),
        ({"prices": {"X": 100}}, {"market": {"prices": {"X": 110.5}}}),
        ({"symbol": "X", "currentPrice": 100}, {"ticker": "X", "lastPrice": 110.5}),
    ],
)
def test_quotes_in_every_shape(first: Any, last: Any) -> None:
    assert prices(played((1, first), (2, last)))["X"] == (100.0, 110.5)


def test_first_and_last_of_all_agents_within_the_window() -> None:
    late = played((-5, quote(1)), (30, quote(3)), (59, quote(4)), (60, quote(5)), identity="late")
    early = played((2, quote(2)), (40, quote(9)), identity="early")
    observed = observe(WINDOW, [late, early])
    (ticker,) = observed.truth().tickers
    assert (ticker.start_price, ticker.end_price, ticker.change_pct) == (2.0, 4.0, 100.0)
    assert observed.skipped["steps outside the window"] == 2


def trade(price: float, *, success: bool = True, result: Mapping[str, Any] | None = None) -> Action:
    return Action(
        "BUY_SHARES", {"ticker": "X", "price": price}, success, result=None if result is None else dict(result)
    )


def test_trades_tell_prices_where_nobody_saw_a_quote() -> None:
    seen: tuple[tuple[float, Any, Action], ...]
    seen = ((1, {}, trade(90, result={"price": 100})), (2, {}, trade(7, success=False)), (3, {}, trade(120)))
    assert prices(played(*seen)) == {"X": (100.0, 120.0)}
    assert prices(played(*seen, (4, quote(50)), (5, quote(60)))) == {"X": (50.0, 60.0)}


def test_what_is_no_quote_is_none() -> None:
    data = [
        {"positions": [{"ticker": "X", "price": 1}], "orders": [quote(2)], "history": [quote(3)]},
        {"ticker": "X", "price": None, "targetPrice": 5},
        {"ticker": "X", "price": float("nan")},
        {"ticker": "X", "price": 0},
        {"ticker": "X", "price": 10**400},
        {"id": "post-1", "content": "X to the moon"},
        "X 100",
        None,
    ]
    observed = observe(WINDOW, [played(*((n, item) for n, item in enumerate(data)))])
    assert observed.truth() == GroundTruth(WINDOW.id)


def test_a_change_needs_two_prices_and_a_price_a_cent() -> None:
    observed = observe(
        WINDOW,
        [
            played((1, [quote(5, "ONCE"), quote(0.001, "DUST"), quote(7, "FLAT")]), identity="a"),
            played((1, [quote(6, "ONCE")]), (2, [quote(0.002, "DUST"), quote(7, "FLAT")]), identity="b"),
        ],
    )
    (flat,) = observed.truth().tickers
    assert (flat.ticker, flat.sentiment, flat.change_pct) == ("FLAT", "NEUTRAL", 0.0)
    assert observed.truth().tickers == (flat,)
    assert observed.skipped == {"tickers with one price only": 1, "tickers below a cent": 1}


def question(**values: Any) -> JsonDict:
    return {"markets": [{"id": "q", "question": "Will it?", **values}]}


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (question(yesPrice=0.7, noPrice=0.3), ("UNRESOLVED", 0.7)),
        (question(probability="70.0%"), ("UNRESOLVED", 0.7)),
        (question(yesPrice=0.7, resolved=True, outcome=False), ("NO", 0.7)),
        (question(yesPrice=0.7, status="resolved", outcome="yes"), ("YES", 0.7)),
        (question(yesPrice=0.7, resolved=False, outcome=False), ("UNRESOLVED", 0.7)),
        (question(yesPrice=0.7, outcome="YES"), ("UNRESOLVED", 0.7)),  # perhaps the side of a bet
        (question(yesPrice=0.7, resolved=True, outcome=0), ("UNRESOLVED", 0.7)),  # NO, or the first option?
        (question(resolution="NO"), ("NO", None)),
        ({"questions": {"q": {"yesPrice": 0.7}}}, ("UNRESOLVED", 0.7)),
        (question(noPrice=0.3), None),  # a probability is never inverted
        (question(yesPrice=1.7), None),
    ],
)
def test_questions(data: Any, expected: tuple[str, float | None] | None) -> None:
    found = [(q.outcome, q.final_probability) for q in observe(WINDOW, [played((1, data))]).truth().questions]
    assert found == ([] if expected is None else [(expected[0], pytest.approx(expected[1]) if expected[1] else None)])


def test_recorded_ground_truth_resolves_questions() -> None:
    bet = Action(
        "BUY_PREDICTION_SHARES", {"marketId": "q", "outcome": "YES"}, True, correctness={"actualOutcome": "NO"}
    )
    known = {"gameKnowledge": {"actualOutcomes": {"r": True, "s": {"outcome": "NO"}, "X": 12.5}}}
    truth = observe(WINDOW, [played((1, question(yesPrice=0.6), bet), metadata=known)]).truth()
    assert {q.question_id: q.outcome for q in truth.questions} == {"q": "NO", "r": "YES", "s": "NO"}
    assert truth.questions[0].final_probability == 0.6
    both = observe(WINDOW, [played((1, question(resolution="YES"), bet))])
    assert both.truth().questions == () and both.skipped["questions resolved both ways"] == 1


# --- stored ---------------------------------------------------------------------------------------------------------


async def rows(database: Database) -> list[asyncpg.Record]:
    async with database.read_only().acquire() as connection:
        found: list[asyncpg.Record] = await connection.fetch("select * from market_outcomes order by id")
    return found


def tracker(database: Database, *, minutes: float = 120) -> DerivedOutcomes:
    return DerivedOutcomes(database=database, settle_minutes=5, now=lambda: START + timedelta(minutes=minutes))


async def test_recomputed_until_final_then_kept(database: Database) -> None:
    async def ends_at(price: float, *, minutes: float, recompute: bool = False) -> tuple[str, float]:
        tracked = await tracker(database, minutes=minutes).track(
            WINDOW, [played((1, quote(100)), (9, quote(price)))], recompute=recompute
        )
        (row,) = await rows(database)
        return tracked.state, float(row["endPrice"])

    assert await ends_at(101, minutes=20) == ("stored", 101.0)
    assert await ends_at(102, minutes=64) == ("stored", 102.0)
    assert await ends_at(103, minutes=65) == ("stored", 103.0)
    assert await ends_at(104, minutes=90) == ("kept", 103.0)
    assert await ends_at(104, minutes=95, recompute=True) == ("stored", 104.0)
    assert await tracker(database).final([WINDOW]) == {WINDOW.id}


async def test_a_window_of_another_length_has_outcomes_of_its_own(database: Database) -> None:
    play = [played((1, quote(1)), (14, quote(2)), (16, quote(3)), (50, quote(4)))]
    quarters = [window_at(START + timedelta(minutes=15 * n), 0.25) for n in range(4)]

    async def ends() -> list[tuple[str, float]]:
        return sorted((row["windowId"], float(row["endPrice"])) for row in await rows(database))

    hour = [("2025-06-01T10:00", 4.0)]
    await tracker(database).track(WINDOW, play)
    assert await ends() == hour
    assert await tracker(database).final([quarters[0]]) == set()
    for quarter in quarters:
        await tracker(database).track(quarter, play)
    assert await ends() == [("2025-06-01T10:00", 2.0)]  # each other quarter saw one price, which is no change
    await tracker(database).track(WINDOW, play)
    assert await ends() == hour


async def test_numbers_and_names_that_do_not_fit(database: Database) -> None:
    names = {"SOARS": (1, 50), "HUGE": (1e8, 1e7), "A" * 21: (1, 2), "FINE": (1.234, 1.236)}
    tracked = await tracker(database).track(
        WINDOW,
        [played(*((m, [quote(p[m], name) for name, p in names.items()]) for m in (0, 1)))],
    )
    assert tracked.skipped == {"tickers with names over 20 characters": 1, "tickers with prices over 99,999,999.99": 1}
    found = {row["stockTicker"]: row for row in await rows(database)}
    assert found.keys() == {"SOARS", "FINE"}
    assert (found["SOARS"]["changePercent"], float(found["SOARS"]["endPrice"])) == (None, 50.0)
    assert (str(found["FINE"]["startPrice"]), str(found["FINE"]["endPrice"])) == ("1.23", "1.24")


async def test_a_late_answer_is_filled_in_and_the_probability_stays(database: Database) -> None:
    later = window_at(WINDOW.end, 1.0)
    follow = tracker(database, minutes=300)
    await follow.track(WINDOW, [played((1, question(yesPrice=0.2)))])
    assert await follow.resolve_late() == 0
    await follow.track(later, [played((1, question(yesPrice=0.9, resolved=True, outcome="YES")), window=later)])
    assert await follow.resolve_late() == 1
    assert await follow.resolve_late() == 0
    found = [(r["windowId"], r["outcome"], float(r["finalProbability"])) for r in await rows(database)]
    assert sorted(found) == [(WINDOW.id, "YES", 0.2), (later.id, "YES", 0.9)]
    assert (await follow.track(WINDOW, [])).state == "kept"


async def test_answers_both_ways_or_of_simulated_worlds_resolve_nothing(database: Database) -> None:
    recorder = TrajectoryRecorder(database=database)
    simulated = window_at(datetime(1980, 1, 1, tzinfo=UTC), 1.0)
    async with database.acquire() as connection:
        await connection.execute(
            'insert into mmo_rl.worlds (scenario_id, "start", "end") values (\'w\', $1, $2)',
            simulated.start,
            simulated.end,
        )
    await recorder.record_outcomes(
        GroundTruth(simulated.id, (), (QuestionOutcome("q", "Q", "YES", 0.5),)), scenario_id="w"
    )
    follow = tracker(database)
    await follow.track(WINDOW, [played((1, question(yesPrice=0.2)))])
    assert await follow.resolve_late() == 0
    for scenario, answer in (("game", "YES"), ("game 2", "NO")):
        truth = GroundTruth("2025-06-02T10:00", (), (QuestionOutcome("q", "Q", answer, None),))  # type: ignore[arg-type]
        await recorder.record_outcomes(truth, scenario_id=scenario)
    assert await follow.resolve_late() == 0


async def test_what_the_game_recorded_stays_and_is_only_completed(database: Database) -> None:
    recorder = TrajectoryRecorder(database=database)
    own = GroundTruth(WINDOW.id, (TickerOutcome("X", 1.0, 2.0),), (QuestionOutcome("q", "Q", "UNRESOLVED", 0.4),))
    await recorder.record_outcomes(own, scenario_id="game")
    before = await rows(database)
    seen = [quote(7), quote(8, "Y"), question(yesPrice=0.3)]
    first = await tracker(database).track(WINDOW, [played((1, seen), (2, seen))])
    assert [t.ticker for t in first.tickers] == ["Y"] and first.questions == ()
    seen.append(question(resolution="NO"))
    second = await tracker(database).track(WINDOW, [played((1, seen), (2, seen))], recompute=True)
    assert [(q.question_id, q.outcome) for q in second.questions] == [("q", "NO")]
    assert [row for row in await rows(database) if row["id"].startswith("game/")] == before
    third = await tracker(database).track(window_at(WINDOW.end, 1.0), [])
    assert third == Tracked(third.window, "none")


async def test_simultaneous_trackers_store_the_same_rows_once(database: Database) -> None:
    play = [played((1, quote(1)), (2, quote(2)))]
    states = await asyncio.gather(*(tracker(database, minutes=30).track(WINDOW, play) for _ in range(8)))
    assert {tracked.state for tracked in states} == {"stored"}
    assert len(await rows(database)) == 1


async def test_a_database_without_the_table_names_the_next_command(
    database_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setenv("MMO_RL_TEST_DATABASE_URL", database_url)
    async with Database(dsn_env="MMO_RL_TEST_DATABASE_URL", home=tmp_path) as bare:
        with pytest.raises(DatabaseError, match="market_outcomes") as caught:
            await tracker(bare).final([WINDOW])
    assert caught.value.hint == "mmo-rl task=migrate source=postgres source.dsn_env=MMO_RL_TEST_DATABASE_URL"
