"""Which windows a trajectory belongs to, and its part in each."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmo_rl.clock import milliseconds, window_at
from mmo_rl.source.slices import crosses, home_window, part, slices, slices_of, step_times
from mmo_rl.types import Action, Step, Trajectory
from mmo_rl.window_ids import is_odd, named_start, slice_id, split_id

NINE = datetime(2025, 11, 14, 9, tzinfo=UTC)


def at(minutes: float) -> datetime:
    return NINE + timedelta(minutes=minutes)


def trajectory(*steps: tuple[float, float | None], final_pnl: float | None = 10.0) -> Trajectory:
    """Steps as (minutes after nine, P&L)."""
    recorded = tuple(
        Step(
            number,
            milliseconds(at(minutes)),
            {"agentPnL": pnl, "agentBalance": 100.0 + number},
            Action("HOLD", {}, True),
        )
        for number, (minutes, pnl) in enumerate(steps)
    )
    start, end = at(steps[0][0]), at(steps[-1][0]) + timedelta(seconds=1)
    return Trajectory("t", "a", "2025-11-14T09:00", start, end, recorded, final_pnl, 200.0, metrics={"errorCount": 3})


def test_each_slice_has_the_pnl_that_was_made_in_it() -> None:
    whole = trajectory((50, 1.0), (59, 4.0), (60, 3.0), (61, 9.0), (125, 7.0))
    parts = slices_of(whole, hours=1.0)
    assert [(piece.window.id, piece.steps, piece.pnl) for piece in parts] == [
        ("2025-11-14T09:00", (0, 1), 2.0),
        ("2025-11-14T10:00", (2, 3), 4.0),
        ("2025-11-14T11:00", (4,), 3.0),
    ]


def test_a_trajectory_in_one_window_keeps_its_final_pnl() -> None:
    whole = trajectory((10, 5.0), (59.9, 7.0))
    (only,) = slices_of(whole, hours=1.0)
    assert (only.window.id, only.pnl) == ("2025-11-14T09:00", 10.0)
    assert [piece.window.id for piece in slices_of(whole, hours=0.5)] == ["2025-11-14T09:00", "2025-11-14T09:30"]


def test_a_pnl_that_is_not_known_stays_unknown() -> None:
    assert [piece.pnl for piece in slices_of(trajectory((59, None), (61, 2.0), (121, 2.5)), hours=1.0)] == [
        None,
        0.5,
        7.5,
    ]
    assert [piece.pnl for piece in slices_of(trajectory((59, 1.0), (61, 2.0), final_pnl=None), hours=1.0)] == [
        1.0,
        None,
    ]


def test_a_slice_is_a_trajectory_of_its_own() -> None:
    whole = trajectory((59, 1.0), (60, 3.0), (61, 9.0))
    first, second = (part(whole, window_at(at(minutes), 1.0)) for minutes in (0, 60))
    assert first is not None and second is not None
    assert (first.trajectory_id, first.window_id, first.final_pnl) == (
        "t@2025-11-14T09:00",
        "2025-11-14T09:00",
        2.0,
    )
    assert (first.start, first.end, first.final_balance, first.metrics) == (at(59), at(60), 101.0, {})
    assert (second.trajectory_id, second.final_pnl, second.final_balance) == ("t@2025-11-14T10:00", 7.0, 200.0)
    assert (second.start, second.end) == (at(60), whole.end)
    assert first.steps + second.steps == whole.steps
    assert part(whole, window_at(at(120), 1.0)) is None


def test_a_step_with_a_wrong_clock_stays_within_the_trajectory() -> None:
    (only,) = slices([at(-900), at(30), at(9000)], [0.0] * 3, final_pnl=1.0, start=at(0), end=at(40), hours=1.0)
    assert only.steps == (0, 1, 2)


def test_what_crosses() -> None:
    home = window_at(NINE, 1.0)
    assert crosses(home, at(59), at(60.001))
    assert not crosses(home, at(0), at(60)), "it ends with its window"
    assert not crosses(home, at(30), at(20)), "it ends before it starts"
    assert not crosses(home, at(70), at(130)), "its id names a window that it did not start in"


@pytest.mark.parametrize(
    ("recorded", "start"),
    [
        ("2025-11-14T09:00", NINE),
        ("2025-11-14T09:30", at(30)),
        ("2025-11-14-09", NINE),
        ("2025-11-14T09", NINE),
        ("2025-11-14 09:30", at(30)),
        ("2025-11-14T09:00Z", NINE),
        ("2025-11-14T09:00:00.000Z", NINE),
        ("2025-11-14T09:00:00+00:00", NINE),
        ("2025-11-14T09:00:00+05:30", None),
        ("2025-02-30T09:00", None),
        ("2025-13-01-09", None),
        ("2025-11-14-24", None),
        ("window-test-1", None),
        ("benchmark-2025-11-14T09:00", None),
        ("default", None),
        ("2025-11-14T09:00\n", None),
        ("", None),
        (None, None),
    ],
)
def test_window_ids_in_other_formats(recorded: str | None, start: datetime | None) -> None:
    assert named_start(recorded) == start
    derived = home_window(recorded, at(125), hours=1.0)
    assert derived.start == (start or at(120))
    assert derived.end - derived.start == timedelta(hours=1)
    assert home_window(recorded, at(125), hours=2.0) == window_at(at(60), 2.0)


def test_which_ids_are_odd() -> None:
    assert [is_odd(name) for name in ("2025-11-14T09:00", "2025-11-14-09", "default", None)] == [
        False,
        True,
        True,
        True,
    ]


def test_ids_of_slices() -> None:
    assert split_id(slice_id("a@b", "2025-11-14T09:00")) == ("a@b", "2025-11-14T09:00")
    assert split_id("t@default") == ("t@default", None)
    assert split_id("t") == ("t", None)
    assert split_id("@2025-11-14T09:00") == ("@2025-11-14T09:00", None)


def test_a_step_without_a_time_has_that_of_the_one_before() -> None:
    recorded = ["1763110800000", None, "0", "2025-11-14T09:10:00", "nonsense"]
    assert step_times([None, *recorded], NINE) == [NINE, NINE, NINE, NINE, at(10), at(10)]


@given(
    st.lists(st.tuples(st.integers(0, 600), st.floats(-1e6, 1e6)), min_size=1, max_size=30),
    st.sampled_from([0.25, 1.0, 2.0, 24.0]),
    st.sampled_from([0, 330, -300]),
)
def test_slices_share_the_steps_and_add_up(steps: list[tuple[int, float]], hours: float, offset: int) -> None:
    zone = timezone(timedelta(minutes=offset))
    times = [at(minutes).astimezone(zone) for minutes, _ in sorted(steps)]
    pnls = [pnl for _, pnl in sorted(steps)]
    parts = slices(times, pnls, final_pnl=5.0, start=times[0], end=times[-1], hours=hours)
    assert [position for piece in parts for position in piece.steps] == list(range(len(steps)))
    for piece in parts:
        assert all(piece.window.start <= times[position] < piece.window.end for position in piece.steps)
    if len(parts) > 1:
        assert sum(piece.pnl or 0.0 for piece in parts) == pytest.approx(5.0 - pnls[0], abs=1e-6)
