from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from mmo_rl.evaluate.base import Decoding, EvaluatorParts
from mmo_rl.evaluate.market import MarketEvaluator
from mmo_rl.lm.load import load_model
from mmo_rl.lm.model import SHIPPED
from mmo_rl.market.arena import MarketArena
from mmo_rl.market.spec import MarketSpec
from mmo_rl.policy.base import Completion
from mmo_rl.policy.local import LocalPolicy
from mmo_rl.types import Message


def evaluator(seed: int = 0) -> MarketEvaluator:
    return MarketEvaluator(markets=6, agents=2, seed=seed, parts=EvaluatorParts(arena=MarketArena(spec=MarketSpec())))


def policy(version: int) -> LocalPolicy:
    model, tokenizer = load_model(str(SHIPPED / "tiny"))
    return LocalPolicy(model=model, tokenizer=tokenizer, name="tiny", version=version, max_completion_tokens=24)


async def test_a_policy_compared_with_itself_does_not_differ() -> None:
    for decoding in ("sampled", "greedy"):
        one = await evaluator().evaluate(policy(0), decoding)
        two = await evaluator().evaluate(policy(1), decoding)
        assert one.rollouts == two.rollouts
        assert one.policy != two.policy


async def test_the_markets_follow_the_seed_and_bind_by_number() -> None:
    one, two = await evaluator().oracle(), await evaluator(seed=1).oracle()
    assert [(r.market, r.agent) for r in one.rollouts] == [(m, a) for m in range(6) for a in range(2)]
    assert one.rollouts == (await evaluator().oracle()).rollouts
    assert one.rollouts != two.rollouts
    assert one.win_rate == 1.0 and one.error_rate == 0.0


class Counting(LocalPolicy):
    """A policy on this machine that counts how often it is asked."""

    asked = 0

    async def complete(
        self, prompts: Sequence[Sequence[Message]], *, temperature: float, seed: int
    ) -> list[Completion]:
        Counting.asked += 1
        return await super().complete(prompts, temperature=temperature, seed=seed)


def counting(version: int = 0, *, max_completion_tokens: int = 24) -> Counting:
    model, tokenizer = load_model(str(SHIPPED / "tiny"))
    return Counting(
        model=model, tokenizer=tokenizer, name="tiny", version=version, max_completion_tokens=max_completion_tokens
    )


async def test_jobs_that_measure_the_same_base_play_it_once(tmp_path: Path) -> None:
    def kept(seed: int = 0, **rules: float) -> MarketEvaluator:
        arena = MarketArena(spec=MarketSpec(**rules))  # type: ignore[arg-type]
        return MarketEvaluator(markets=2, agents=2, seed=seed, parts=EvaluatorParts(arena=arena, measured=tmp_path))

    async def asked(evaluator: MarketEvaluator, policy: LocalPolicy, decoding: Decoding = "sampled") -> bool:
        before = Counting.asked
        await evaluator.evaluate(policy, decoding)
        return Counting.asked > before

    first = await kept().evaluate(counting(), "sampled")
    before = Counting.asked
    assert await kept().evaluate(counting(), "sampled") == first
    assert Counting.asked == before
    again = await MarketEvaluator(
        markets=2, agents=2, seed=0, parts=EvaluatorParts(arena=MarketArena(spec=MarketSpec()))
    ).evaluate(counting(), "sampled")
    assert again == first and Counting.asked > before, "what was kept is what is played, to the last digit"

    other = counting()
    other.model.model.norm.weight.data[0] += 1e-3
    assert await asked(kept(), other), "other weights"
    assert await asked(kept(), counting(max_completion_tokens=12)), "another limit"
    assert await asked(kept(seed=1), counting()), "other markets"
    assert await asked(kept(fee=0.01), counting()), "other rules"
    assert await asked(kept(), counting(), "greedy"), "another decoding"
    assert await asked(kept(), counting(1)) and await asked(kept(), counting(1)), "a trained version is not kept"


async def test_a_damaged_file_is_measured_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    one = MarketEvaluator(
        markets=2, agents=2, seed=0, parts=EvaluatorParts(arena=MarketArena(spec=MarketSpec()), measured=tmp_path)
    )
    first = await one.evaluate(policy(0), "greedy")
    (file,) = tmp_path.iterdir()
    whole = file.read_text()
    file.write_text(whole[:-9])
    assert await one.evaluate(policy(0), "greedy") == first
    assert "measured again" in caplog.text and file.read_text() == whole


async def test_validation_markets_are_none_of_the_held_out_ones() -> None:
    parts = EvaluatorParts(arena=MarketArena(spec=MarketSpec()))
    evaluator = MarketEvaluator(markets=6, validation_markets=6, agents=2, seed=0, parts=parts)
    validation = evaluator.validation()
    assert validation is not None and validation.validation() is None
    held_out, chosen_by = await evaluator.oracle(), await validation.oracle()
    assert not {r.pnl for r in held_out.rollouts} & {r.pnl for r in chosen_by.rollouts}
    assert held_out.rollouts == (await MarketEvaluator(markets=6, agents=2, seed=0, parts=parts).oracle()).rollouts
