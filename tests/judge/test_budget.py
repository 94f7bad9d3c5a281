"""Budgets, prices and rates: no call crosses a line, and what was paid for is kept."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from mmo_rl.chat.endpoint import Endpoint as KeyedEndpoint
from mmo_rl.chat.limits import RateLimit
from mmo_rl.database.database import Database
from mmo_rl.database.judgments import StoredJudgments
from mmo_rl.errors import ConfigError
from mmo_rl.judge.known_models import KnownModel, known_model
from mmo_rl.judge.ruler import RulerJudge
from mmo_rl.judge.spending import Budget, BudgetReached, Ledger, Rates
from mmo_rl.types import Group, ScoredGroup
from tests.harness.endpoint import Endpoint, Reply
from tests.judge.conftest import honest, make_group, make_judge, stream

GROUPS = [make_group([0.1, 0.9, hour / 100], hour=hour) for hour in range(10)]


async def run(judge: RulerJudge, into: list[ScoredGroup], groups: list[Group] = GROUPS) -> None:
    try:
        async with asyncio.timeout(20):
            async for scored in judge.score(stream(*groups)):
                into.append(scored)  # noqa: PERF401 - what came before an error counts
    finally:
        await judge.aclose()


# --- budgets ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("concurrency", [1, 4])
async def test_a_budget_of_calls_stops_before_the_line_and_the_same_command_goes_on(
    endpoint: Endpoint, database: Database, concurrency: int
) -> None:
    made, results = 0, []
    for budget in (4, 4, 4):
        judge = make_judge(
            endpoint.url, budget_calls=budget, concurrency=concurrency, cache=StoredJudgments(database=database)
        )
        results = []
        if made < 8:
            with pytest.raises(BudgetReached, match=r"judge\.budget\.calls=4; 4 calls were answered") as caught:
                await run(judge, results)
            assert "the same command goes on" in str(caught.value)
        else:
            await run(judge, results)
        made += judge.usage.calls
        assert len(endpoint.requests) == made
    assert made == len(results) == 10
    assert judge.usage.cache_hits == 8


async def test_no_call_crosses_a_budget_in_dollars(endpoint: Endpoint) -> None:
    """A call is answered for 0.02 dollars, and can cost about 0.13 at most: the budget reaches for all but what could
    cross it."""
    prices = {"price_prompt_usd_per_mtok": 0.0, "price_completion_usd_per_mtok": 1000.0}
    judge = make_judge(
        endpoint.url, budget_usd=0.25, max_completion_tokens=130, context_tokens=30_000, concurrency=8, **prices
    )
    with pytest.raises(BudgetReached, match=r"judge\.budget\.usd=0\.25, of which \$0\.1400 are spent") as caught:
        await run(judge, [])
    assert "could cost $0.1300" in str(caught.value)
    assert judge.usage.calls == len(endpoint.requests) == 7
    assert judge.usage.cost_usd == pytest.approx(0.14)


async def test_what_may_have_been_billed_counts_against_the_budget(endpoint: Endpoint) -> None:
    endpoint.script = lambda request, number: Reply(then="hang") if number else honest(request, number)
    judge = make_judge(endpoint.url, budget_calls=3, timeout_s=0.2, attempts=5, concurrency=1)
    with pytest.raises(BudgetReached):
        await run(judge, [])
    assert len(endpoint.requests) == 3
    assert judge.usage.calls == 1


async def test_what_was_certainly_not_billed_does_not(endpoint: Endpoint) -> None:
    failed = Reply(500, {"error": {"message": "overloaded"}})
    seen: set[str] = set()

    def script(request: Any, number: int) -> Reply:
        again = request.user in seen
        seen.add(request.user)
        return honest(request, number) if again else failed

    endpoint.script = script
    judge = make_judge(endpoint.url, budget_calls=10, concurrency=2)
    results: list[ScoredGroup] = []
    await run(judge, results)
    assert len(results) == judge.usage.calls == 10
    assert len(endpoint.requests) == 20


async def test_a_budget_that_was_enough_says_nothing(endpoint: Endpoint) -> None:
    results: list[ScoredGroup] = []
    await run(make_judge(endpoint.url, budget_calls=10), results)
    assert len(results) == 10


async def test_nothing_is_asked_with_no_budget(endpoint: Endpoint) -> None:
    with pytest.raises(BudgetReached):
        await run(make_judge(endpoint.url, budget_calls=0), [])
    assert endpoint.requests == []


def test_dollars_cannot_be_limited_where_no_price_is_known() -> None:
    elsewhere = KeyedEndpoint(base_url="http://127.0.0.1:9/v1")
    with pytest.raises(ConfigError, match="what fake-judge costs is not known") as caught:
        RulerJudge.check_keys(model="fake-judge", endpoint=elsewhere, budget=Budget(usd=1.0))
    RulerJudge.check_keys(model="fake-judge", endpoint=elsewhere, budget=Budget(calls=1))
    assert "judge.budget.calls" in str(caught.value)


async def test_a_call_waits_for_room_that_one_under_way_may_leave() -> None:
    ledger = Ledger(rates=Rates(0.0, 1e6), budget=Budget(usd=10.0))
    first = await ledger.reserve(0, 8)
    waiting = asyncio.create_task(ledger.reserve(0, 8))
    await asyncio.sleep(0)
    assert not waiting.done()
    first.settle(prompt_tokens=0, completion_tokens=2)
    second = await waiting
    second.settle(prompt_tokens=0, completion_tokens=5)
    with pytest.raises(BudgetReached):
        await ledger.reserve(0, 8)
    assert ledger.usage.cost_usd == 7.0


# --- prices -----------------------------------------------------------------------------------------------------------


def test_prices_and_context_are_looked_up() -> None:
    found = known_model("gpt-4.1-mini")
    assert found == known_model("openai/gpt-4.1-mini")
    assert found.price_prompt_usd_per_mtok is not None
    assert 0 < found.price_prompt_usd_per_mtok < 10
    assert found.context_tokens is not None
    assert found.context_tokens > 100_000
    unknown = known_model("no such model")
    assert unknown == KnownModel()


async def test_an_endpoint_of_ones_own_has_no_looked_up_price(endpoint: Endpoint) -> None:
    judge = make_judge(endpoint.url, model="gpt-4.1-mini")
    await run(judge, [], GROUPS[:1])
    assert judge.usage.cost_usd is None


# --- rates ------------------------------------------------------------------------------------------------------------


async def test_requests_are_spread_over_the_minute(endpoint: Endpoint) -> None:
    loop = asyncio.get_running_loop()
    at: list[float] = []

    def script(request: Any, number: int) -> Reply:
        at.append(loop.time())
        return honest(request, number)

    endpoint.script = script
    await run(make_judge(endpoint.url, requests_per_minute=600), [], GROUPS[:6])
    assert at[-1] - at[0] >= 5 * 0.1 * 0.6, "the first may have been slow to arrive"


async def test_tokens_are_spread_over_the_minute_and_corrected() -> None:
    loop = asyncio.get_running_loop()
    limit = RateLimit(tokens_per_minute=60_000)
    started = loop.time()
    await limit.admit(300)
    limit.correct(estimated=300, used=100)
    await limit.admit(100)
    assert 0.1 <= loop.time() - started < 0.28


async def test_a_pause_holds_everybody() -> None:
    loop = asyncio.get_running_loop()
    limit = RateLimit()
    started = loop.time()
    limit.pause(0.1)
    await asyncio.gather(*(limit.admit(10) for _ in range(5)))
    assert loop.time() - started >= 0.1
