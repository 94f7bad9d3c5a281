from mmo_rl.evaluate.market import MarketEvaluator
from mmo_rl.market.arena import MarketArena
from mmo_rl.market.spec import MarketSpec
from mmo_rl.policy.local import LocalPolicy, load_model
from mmo_rl.policy.model import SHIPPED


def evaluator(seed: int = 0) -> MarketEvaluator:
    return MarketEvaluator(markets=6, agents=2, seed=seed, arena=MarketArena(spec=MarketSpec()))


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
