from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmo_rl.clock import window_at
from mmo_rl.sampler.dropout import STRATEGIES
from mmo_rl.sampler.dropout.random import random
from mmo_rl.sampler.dropout.spread import spread
from mmo_rl.sampler.dropout.stratified import stratified
from mmo_rl.sampler.windows import WindowSampler, fraction
from mmo_rl.types import Member, Selection, WindowStats
from tests.sampler.test_windows import START


def test_random_keeps_by_fraction_alone() -> None:
    """md5("abc:7") begins with 8bc1e502: nothing but the id and the seed decides."""
    fractions = {"a": 0.1, "b": 0.9}
    assert random([[Member("a", "x", 5)], [Member("b", "x", 5)]], fractions) == fractions
    assert fraction("abc", seed=7) == int("8bc1e502", 16) / 2**32


def test_stratified_by_hand() -> None:
    """x has three trajectories, y one and z (as two roles) two: a, then d, e and f are first of their own."""
    members = [
        Member("a", "x", 5),
        Member("b", "x", 5),
        Member("c", "x", 5),
        Member("d", "y", 5),
        Member("e", "z", 5, role="bull"),
        Member("f", "z", 5, role="bear"),
    ]
    fractions = {"a": 0.9, "b": 0.8, "c": 0.95, "d": 0.1, "e": 0.2, "f": 0.3}
    # turns: c .95, f .3, e .2, d .1 | a .9 | b .8
    numbers = stratified([members[:3], members[3:]], fractions)
    expected = {"c": 11 / 12, "f": 9 / 12, "e": 7 / 12, "d": 5 / 12, "a": 3 / 12, "b": 1 / 12}
    assert numbers == pytest.approx(expected)


def test_spread_by_hand() -> None:
    """P&L 30, 20, 20, -5 and one that is not known: highest, lowest, then the equals by fraction, then the unknown."""
    pnls = {"a": 20.0, "b": 30.0, "c": -5.0, "d": None, "e": 20.0}
    group = [Member(identity, identity, 5, pnl) for identity, pnl in pnls.items()]
    numbers = spread([group], {"a": 0.1, "b": 0.5, "c": 0.5, "d": 0.99, "e": 0.6})
    assert numbers == pytest.approx({"b": 0.9, "c": 0.7, "e": 0.5, "a": 0.3, "d": 0.1})


# --- what is true of every strategy ---------------------------------------------------------------------------------

recorded = st.lists(
    st.tuples(
        st.integers(0, 3),  # window
        st.integers(0, 6),  # agent
        st.one_of(st.none(), st.sampled_from([-3.0, 0.0, 0.5, 7.0])),
        st.sampled_from([None, "bull", "bear"]),
    ),
    min_size=1,
    max_size=40,
)


def windows(rows: list[tuple[int, int, float | None, str | None]]) -> list[WindowStats]:
    found: dict[int, list[Member]] = {}
    for number, (hour, agent, pnl, role) in enumerate(rows):
        found.setdefault(hour, []).append(Member(f"t{number}", f"a{agent}", 9, pnl, role))
    return [WindowStats(window_at(START.replace(hour=hour), 1.0), tuple(found[hour])) for hour in found]


def choose(stats: list[WindowStats], *, cap: float, seed: int, **options: object) -> Selection:
    sampler = WindowSampler(target_trajectories=1, max_dropout=cap, seed=seed, **{"min_agents": 2} | options)  # type: ignore[arg-type]
    return sampler.select(stats, 0)


@pytest.mark.parametrize("strategy", STRATEGIES)
@settings(max_examples=60, deadline=None)
@given(rows=recorded, caps=st.tuples(st.floats(0, 0.99), st.floats(0, 0.99)), seed=st.integers(0, 5), data=st.data())
def test_dropout_is_nested_and_blind_to_order_and_keeps_the_floor(
    strategy: str, rows: list[tuple[int, int, float | None, str | None]], caps: tuple[float, float], seed: int,
    data: st.DataObject,
) -> None:  # fmt: skip
    stats = windows(rows)
    low, high = (choose(stats, cap=cap, seed=seed, dropout=strategy) for cap in sorted(caps))
    assert set(high.trajectory_ids) <= set(low.trajectory_ids)
    shuffled = [
        WindowStats(w.window, tuple(data.draw(st.permutations(w.members)))) for w in data.draw(st.permutations(stats))
    ]
    assert choose(shuffled, cap=max(caps), seed=seed, dropout=strategy) == high
    agents = {m.trajectory_id: m.agent_id for w in stats for m in w.members}
    for chosen in high.windows:
        assert len({agents[identity] for identity in chosen.trajectory_ids}) >= 2
    assert high.used + high.dropped == high.available == sum(before for before, _ in high.agents.values())
    assert Counter(agents[i] for i in high.trajectory_ids) == {a: n for a, (_, n) in high.agents.items() if n}


def test_every_trajectory_is_kept_equally_often_over_seeds() -> None:
    """Unbiased: each of 40 is kept in a share 0.7 of 2,000 seeds, within 4.5 standard errors of a binomial."""
    (stats,) = windows([(0, agent, None, None) for agent in range(40)])
    kept: Counter[str] = Counter()
    for seed in range(2000):
        kept.update(choose([stats], cap=0.3, seed=seed).trajectory_ids)
    bound = 4.5 * (2000 * 0.7 * 0.3) ** 0.5
    assert len(kept) == 40
    assert all(abs(count - 1400) < bound for count in kept.values())


def test_stratified_leaves_no_agent_dominating() -> None:
    """One agent played 30 of 40 trajectories, ten others one each: at rate 0.5 all ten stay, and 10 of the 30."""
    stats = windows([(0, 0, None, None)] * 30 + [(0, agent, None, None) for agent in range(1, 11)])
    even = choose(stats, cap=0.5, seed=0, dropout="stratified")
    assert even.agents == {"a0": (30, 10)} | {f"a{agent}": (1, 1) for agent in range(1, 11)}
    assert (even.largest_share(after=False), even.largest_share(after=True)) == (0.75, 0.5)


def test_spread_keeps_more_contrast_than_chance() -> None:
    stats = windows([(0, agent, float(agent), None) for agent in range(20)])
    kept = choose(stats, cap=0.7, seed=0, dropout="spread").trajectory_ids
    assert sorted(int(identity[1:]) for identity in kept) == [0, 1, 2, 17, 18, 19]
