"""A against B: fair to both sides, honest about chance."""

import math
import random
from collections.abc import Sequence
from dataclasses import replace

import pytest

from mmo_rl.evaluate.base import Contestant, Evaluator, PolicyComparer
from mmo_rl.evaluate.comparison import by_scenario, compare, winner
from mmo_rl.evaluate.market import MarketEvaluator
from mmo_rl.evaluate.pair import PairEvaluator
from mmo_rl.lm.load import load_model
from mmo_rl.lm.model import SHIPPED
from mmo_rl.market.arena import MarketArena
from mmo_rl.market.spec import MarketSpec
from mmo_rl.policy.base import Completion
from mmo_rl.policy.local import LocalPolicy
from mmo_rl.stats.bootstrap import unpaired_difference
from mmo_rl.stats.interval import level_of_looks
from mmo_rl.types import Measured, Message, Rollout

ARENAS = {"market": MarketArena(spec=MarketSpec())}


def pair(**options: object) -> PairEvaluator:
    return PairEvaluator(**{"a": "x", "b": "y", "markets": 8, "looks": 2, "seed": 0, **options})  # type: ignore[arg-type]


def script(name: str) -> Contestant:
    return Contestant(name, strategy=name)


async def played(
    evaluator: PairEvaluator, a: Contestant, b: Contestant, looks: int | None = None
) -> tuple[list[Rollout], list[Rollout]]:
    done = [await evaluator.play(number, ARENAS, a, b) for number in range(looks or evaluator.looks)]
    return [r for look in done for r in look.a], [r for look in done for r in look.b]


class Seatless:
    """Answers as it is told, and keeps what it was asked."""

    name, version = "told", 0

    def __init__(self, answer: str) -> None:
        self.answer = answer
        self.asked: list[tuple[tuple[Sequence[Message], ...], int]] = []

    async def complete(
        self, prompts: Sequence[Sequence[Message]], *, temperature: float, seed: int
    ) -> list[Completion]:
        self.asked.append((tuple(prompts), seed))
        return [Completion(self.answer) for _ in prompts]


@pytest.mark.parametrize("agents", [1, 3, 4])
async def test_each_seat_of_each_market_is_taken_once_by_both(agents: int) -> None:
    a, b = await played(pair(agents=agents), script("balanced"), script("random"))
    seats = [(market, agent) for market in range(4) for agent in range(agents)]
    seats += [(market, agent) for market in range(4, 8) for agent in range(agents)]
    assert [(r.market, r.agent) for r in a] == seats == [(r.market, r.agent) for r in b]


async def test_both_are_asked_the_same_with_the_same_seeds() -> None:
    a, b = Seatless('{"action":"HOLD"}'), Seatless('{"action":"HOLD"}')
    await played(pair(), Contestant("a", policy=a), Contestant("b", policy=b))
    assert sorted(map(repr, a.asked)) == sorted(map(repr, b.asked))


async def test_who_is_compared_with_itself_does_not_differ() -> None:
    model, tokenizer = load_model(str(SHIPPED / "tiny"))

    def tiny() -> Contestant:
        policy = LocalPolicy(model=model, tokenizer=tokenizer, name="tiny", version=0, max_completion_tokens=24)
        return Contestant("tiny", policy=policy)

    for one, two in ((tiny(), tiny()), (script("random"), script("random"))):
        a, b = await played(pair(), one, two)
        assert a == b
        numbers = compare(a, b, looks=2, paired=True, seed=0)
        assert [numbers[f"pnl_difference{end}"] for end in ("", "_low", "_high")] == [0.0, 0.0, 0.0]
        assert winner(numbers) is None


async def test_the_better_one_wins_on_either_side() -> None:
    a, b = await played(pair(markets=24), script("noop"), script("informed"))
    numbers = compare(a, b, looks=2, paired=True, seed=0)
    assert winner(numbers) == "B"
    swapped = compare(b, a, looks=2, paired=True, seed=0)
    assert winner(swapped) == "A" and swapped["pnl_difference"] == pytest.approx(-float(numbers["pnl_difference"] or 0))
    assert numbers["activity_a"] == 0.0 and numbers["drawdown_a"] == 0.0 and numbers["pnl_a"] == 0.0
    assert float(numbers["activity_b"] or 0) > 0.5 and float(numbers["drawdown_b"] or 0) > 0.0


async def test_failed_actions_are_errors_and_not_activity() -> None:
    a, b = await played(pair(), Contestant("broken", policy=Seatless("nonsense")), script("noop"))
    numbers = compare(a, b, looks=2, paired=True, seed=0)
    assert numbers["error_rate_a"] == 1.0 and numbers["activity_a"] == 0.0 and numbers["error_rate_b"] == 0.0


async def test_unpaired_each_has_markets_of_its_own() -> None:
    a, b = await played(pair(paired=False), script("balanced"), script("balanced"))
    assert [r.pnl for r in a] != [r.pnl for r in b]
    other, _ = await played(pair(paired=False), script("balanced"), script("random"))
    assert a == other, "A plays the same whoever B is"


async def test_an_unpaired_comparison_with_itself_covers_0_in_95_percent() -> None:
    """200 repeats of 20 against 20 markets; binomial: 95 % of 200 is 190, with a standard deviation of 3.1."""
    covered = 0
    for repeat in range(200):
        evaluator = pair(paired=False, markets=20, agents=1, looks=1, seed=repeat)
        a, b = await played(evaluator, script("balanced"), script("balanced"))
        covered += not _clear(a, b, level=0.95, seed=repeat)
    assert 190 - 3 * 3.1 <= covered <= 190 + 3 * 3.1, covered


async def test_stopping_early_errs_no_more_often_than_it_says() -> None:
    """Two equal strategies, four looks, 400 repeats with P&L drawn from 512 markets: somebody is called better in at
    most 5 % (standard deviation 1.1 %), where stopping at plain 95 % intervals errs in more than 8 %."""
    pool, _ = await played(pair(paired=False, markets=512, agents=1, looks=1), script("momentum"), script("noop"))
    draw = random.Random(0)
    stopped = naive = 0
    for repeat in range(400):
        a, b = ([replace(draw.choice(pool), market=market) for market in range(64)] for _ in "ab")
        looks = [(a[: 16 * k], b[: 16 * k]) for k in (1, 2, 3, 4)]
        tempting = [look for look in looks if _clear(*look, level=0.95, seed=repeat)]
        naive += bool(tempting)
        stopped += any(_clear(*look, level=level_of_looks(4), seed=repeat) for look in tempting)
    assert stopped / 400 <= 0.05 + 2 * 0.011, stopped
    assert naive / 400 > 0.08, naive


def _clear(a: Sequence[Rollout], b: Sequence[Rollout], *, level: float, seed: int) -> bool:
    one, two = Measured("a", "sampled", tuple(a)), Measured("b", "sampled", tuple(b))
    return unpaired_difference(one, two, "pnl", seed=seed, resamples=600, level=level).excludes_zero


def test_scenarios_are_told_apart_by_the_markets_number() -> None:
    evaluator = pair(markets=4, scenarios=("default", "bull"))
    a = [Rollout(m, 0, 10.0 * m, 8, 0, 4, 1.0) for m in range(8)]
    b = [Rollout(m, 0, 10.0 * m + (0 if m < 4 else 5), 8, 0, 4, 1.0) for m in range(8)]
    rows = by_scenario(a, b, lambda m: evaluator.scenario_of(m, ["default", "bull"]), looks=1, paired=True, seed=0)
    assert list(rows) == ["default", "bull"]
    assert rows["default"]["pnl_difference"] == 0.0 and rows["bull"]["pnl_difference"] == pytest.approx(5.0)
    alone = compare(a[4:], b[4:], looks=1, paired=False, seed=0)
    together = by_scenario(a, b, lambda m: "x" if m < 4 else "bull", looks=1, paired=False, seed=0)["bull"]
    widths = [float(n["pnl_a_high"] or 0) - float(n["pnl_a_low"] or 0) for n in (alone, together)]
    assert widths[1] > widths[0], "two scenarios at once: each interval is wider (Bonferroni)"


def test_a_comparison_that_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="looks=4"):
        PairEvaluator.check_keys(markets=7, looks=4)
    with pytest.raises(ValueError, match="bull more than once"):
        PairEvaluator.check_keys(scenarios=("bull", "bull"))
    one = [Rollout(0, 0, 1.0, 8, 0, 4, 1.0)]
    numbers = compare(one, [Rollout(0, 0, 2.0, 8, 0, 4, 1.0)], looks=1, paired=True, seed=0)
    assert numbers["pnl_difference_low"] is None and winner(numbers) is None
    with pytest.raises(ValueError, match="not measured on the same markets"):
        compare(one, [Rollout(1, 0, 2.0, 8, 0, 4, 1.0)], looks=1, paired=True, seed=0)
    with pytest.raises(ValueError, match="was not measured"):
        compare([Rollout(0, 0, 1.0, 8, 0)], one, looks=1, paired=True, seed=0)
    assert math.isfinite(float(numbers["pnl_difference"] or 0))


def test_a_task_knows_an_evaluator_by_its_capability() -> None:
    comparison: PolicyComparer = pair()
    assert isinstance(comparison, PolicyComparer) and not isinstance(comparison, Evaluator)
    assert issubclass(MarketEvaluator, Evaluator) and not issubclass(PairEvaluator, Evaluator)
