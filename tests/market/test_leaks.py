"""Nothing that agents see comes from later than their tick: planted secrets of the future never turn up in time."""

import json

import pytest

from mmo_rl.market.hidden import HiddenQuestion
from mmo_rl.market.prompt import explain, render
from mmo_rl.market.spec import MarketSpec
from mmo_rl.market.view import NewsItem
from mmo_rl.market.world import World

RICH = MarketSpec(
    question_windows=3, impact=0.002, impact_decay=0.1, posts=3, max_leverage=10.0, linked_questions=1, event="scandal",
    event_size=0.2,
)  # fmt: skip
HOLD = '{"action":"HOLD"}'


def seen(world: World, results: object = None) -> str:
    """Everything that reaches any agent at this tick, with all digits."""
    observations = [world.observe(agent) for agent in range(2)]
    prompts = [[m["content"] for m in render(o, rules=explain(world.spec))] for o in observations]
    return f"{observations!r} {json.dumps(prompts)} {results!r}"


@pytest.mark.parametrize("spec", [MarketSpec(), RICH], ids=["default", "everything on"])
@pytest.mark.parametrize("secret_tick", range(1, 8))
def test_planted_prices_and_news_turn_up_at_their_tick_and_never_before(spec: MarketSpec, secret_tick: int) -> None:
    for seed in range(5):
        world = World(spec=spec, seed=seed, agents=2)
        ticker = world.observe(0).quotes[0].ticker
        results: object = None
        for path in world._paths.values():
            path[secret_tick:] = [31337.4242] * len(path[secret_tick:])
        for tick in range(secret_tick, spec.ticks):
            world._news[tick] = (NewsItem(ticker, "planted", "@future"),)
        while world.tick < secret_tick:
            text = seen(world, results)
            assert "planted" not in text and "@future" not in text and "31337" not in text
            results = world.step([f'{{"ticker":"{ticker}","action":"BUY","size":1}}', HOLD])
            assert "31337" not in repr(results)
        text = seen(world, results)
        assert "planted" in text and "31337" in text  # the search would have found them


def test_outcomes_change_nothing_before_they_are_due() -> None:
    """Two worlds that differ only in how their questions will come out look the same until they come out."""
    for seed in range(10):
        worlds = [World(spec=RICH, seed=seed, agents=2) for _ in range(2)]
        open_questions: dict[str, HiddenQuestion] = worlds[1]._questions
        for question in open_questions.values():
            question.outcome = not question.outcome
        first_due = min(q.due for q in open_questions.values())
        for world in worlds:  # news about questions is a rumour of the outcome, so it is not compared
            world._news = [()] * RICH.ticks
        name = worlds[0].observe(0).questions[0][0]
        for window in range(first_due + 1):
            for tick in range(RICH.ticks):
                assert seen(worlds[0]) == seen(worlds[1])
                order = f'{{"ticker":"{name}","action":"BUY","size":1}}' if tick < 2 else HOLD
                assert worlds[0].step([order, HOLD]) == worlds[1].step([order, HOLD])
                last = window == first_due and tick == RICH.ticks - 1
                for truth in (world.truth("w") for world in worlds):
                    if not last:
                        assert {q.outcome for q in truth.questions} == {"UNRESOLVED"}
            if window < first_due:
                for world in worlds:
                    world.next_window()
                    world._news = [()] * RICH.ticks
        resolved = [{q.question_id: q.outcome for q in w.truth("w").questions} for w in worlds]
        due = [q for q in resolved[0] if open_questions[q].due == first_due]
        assert due and all({resolved[0][q], resolved[1][q]} == {"YES", "NO"} for q in due)


def test_truth_tells_only_what_has_happened() -> None:
    world = World(spec=MarketSpec(), seed=1, agents=1)
    world.step([HOLD])
    truth = world.truth("w")
    assert [t.end_price for t in truth.tickers] == [q.price for q in world.observe(0).quotes]
    assert {q.outcome for q in truth.questions} == {"UNRESOLVED"}
    while not world.done:
        world.step([HOLD])
    assert {q.outcome for q in world.truth("w").questions} <= {"YES", "NO"}
