from datetime import UTC, datetime, timedelta
from typing import Literal

import pytest

from mmo_rl.clock import window_at
from mmo_rl.errors import ConfigError
from mmo_rl.sampler.windows import WindowSampler
from mmo_rl.types import Member, Span, WindowStats

START = datetime(2025, 11, 14, 9, tzinfo=UTC)


def window(hour: int, agents: int, *, actions: int = 10, complete: bool = True) -> WindowStats:
    found = window_at(START + timedelta(hours=hour), 1.0)
    members = tuple(Member(f"t{hour}-{a}", f"agent-{a}", actions) for a in range(agents))
    return WindowStats(found, members, has_outcomes=True, complete=complete)


def test_the_worked_example() -> None:
    """5,000 trajectories, target 1,000, at most 30 % dropped: the rate is 0.3 and about 3,500 stay."""
    sampler = WindowSampler(target_trajectories=1000, max_dropout=0.3, max_windows=100, min_agents=5, seed=0)
    selection = sampler.select([window(h, 50) for h in range(100)], 0)
    assert selection.available == 5000
    assert selection.dropout_rate == pytest.approx(0.3)
    assert abs(selection.used - 3500) < 4 * (5000 * 0.3 * 0.7) ** 0.5
    assert selection.used + selection.dropped == selection.available


def test_the_rate_follows_the_target() -> None:
    def rate(target: int, cap: float) -> float:
        sampler = WindowSampler(target_trajectories=target, max_dropout=cap, seed=0)
        return sampler.select([window(h, 10) for h in range(10)], 0).dropout_rate

    assert rate(80, 0.9) == pytest.approx(0.2)
    assert rate(1000, 0.9) == 0.0
    assert rate(1, 0.5) == 0.5


def test_the_choice_is_the_same_in_any_order() -> None:
    sampler = WindowSampler(target_trajectories=30, max_dropout=0.9, seed=3)
    windows = [window(h, 10) for h in range(10)]
    assert sampler.select(windows, 0) == sampler.select(windows[::-1], 0)


def test_the_name_of_a_world_has_no_part_in_the_choice() -> None:
    def choose(world: str) -> list[str]:
        windows = []
        for hour in range(4):
            stats = window(hour, 10)
            members = tuple(Member(f"{world}-{m.trajectory_id}", m.agent_id, m.actions) for m in stats.members)
            windows.append(WindowStats(stats.window, members))
        sampler = WindowSampler(target_trajectories=20, max_dropout=0.9, seed=0)
        return [i.removeprefix(world) for i in sampler.select(windows, 0, prefix=world).trajectory_ids]

    assert choose("run-1") == choose("another-run")
    assert 20 <= len(choose("run-1")) < 40


def test_dropout_never_takes_a_window_below_min_agents() -> None:
    sampler = WindowSampler(target_trajectories=1, max_dropout=0.99, min_agents=5, seed=0)
    selection = sampler.select([window(h, 8) for h in range(20)], 0)
    assert all(len(w.trajectory_ids) >= 5 for w in selection.windows)
    assert selection.used < selection.available


def test_every_exclusion_is_counted() -> None:
    sampler = WindowSampler(min_agents=5, min_actions=5, max_windows=2, holdout=0.25, seed=0)
    tired = window(0, 6)
    tired = WindowStats(
        tired.window,
        (*tired.members[:4], *(Member(m.trajectory_id, m.agent_id, 1) for m in tired.members[4:])),
    )
    windows = [tired, *(window(h, 6) for h in range(1, 5)), window(9, 6, complete=False)]
    selection = sampler.select(windows, 0, used_windows={windows[1].window.id})
    assert selection.excluded == {
        "too_few_actions": 2,
        "too_few_agents": 4,
        "unfinished": 6,
        "held_out": 6,
        "already_used": 6,
    }
    assert [w.window.id for w in selection.windows] == [windows[2].window.id, windows[3].window.id]


def test_evaluation_rows_are_never_trained_on() -> None:
    sampler = WindowSampler(min_agents=2, seed=0)
    base = window(0, 4)
    members = (*base.members[:3], Member("secret", "agent-9", 10, is_evaluation=True))
    selection = sampler.select([WindowStats(base.window, members)], 0)
    assert "secret" not in selection.trajectory_ids
    assert selection.excluded["evaluation"] == 1


@pytest.mark.parametrize("order", ["oldest", "recent", "random"])
def test_windows_come_in_order_once_each_then_the_least_used(
    order: Literal["oldest", "recent", "random"],
) -> None:
    windows = [window(hour, 5) for hour in range(5)]
    for reuse in (False, True):
        sampler = WindowSampler(min_agents=5, max_windows=2, order=order, reuse=reuse, seed=0)
        used: list[str] = []
        for iteration in range(4):
            selection = sampler.select(windows, iteration, used)
            accounted = selection.available + sum(selection.excluded.values())
            assert accounted == 25, "each trajectory is used or left out for one reason"
            assert selection.excluded.get("max_windows", 0) == max(0, 25 - 10 * (iteration + 1))
            used += [chosen.window.id for chosen in selection.windows]
        names = [stats.window.id for stats in windows]
        expected = {"oldest": names, "recent": names[::-1], "random": used[:5]}[order]
        assert used[:5] == expected and sorted(used[:5]) == names
        assert len(used) == (8 if reuse else 5)
        assert set(used[5:]) <= set(expected[:3])


def test_until_looks_back_from_there_as_if_it_were_the_newest_window() -> None:
    end = datetime(2026, 1, 31, 18, tzinfo=UTC)
    for text in ("2026-01-31T18:00", "2026-01-31T18:00Z", "2026-01-31T20:00+02:00"):
        sampler = WindowSampler(seed=0, until=text, lookback_hours=2.5)
        # From the newest window, at 17:00, on back: those that start after 14:30.
        assert sampler.query(None).span == Span(end - timedelta(hours=3), end)
        assert sampler.query("a world of its own").span is None
    whole = WindowSampler(seed=0, until="2026-01-31", window_hours=4, lookback_hours=8).query(None).span
    assert whole == Span(datetime(2026, 1, 30, 16, tzinfo=UTC), datetime(2026, 1, 31, tzinfo=UTC))
    for wrong in ("yesterday", "0001-01-01"):
        with pytest.raises(ConfigError, match="expected a time in UTC"):
            WindowSampler(seed=0, until=wrong)
