"""What an iteration writes of itself reads back as it was."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from mmo_rl.loop.history import Iteration
from mmo_rl.types import JudgeUsage, PolicyVersion, SelectedWindow, Selection, Trained, Window

START, END = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize("until", [None, END])
def test_a_row_of_checkpoints_is_the_iteration_again(until: datetime | None) -> None:
    window = SelectedWindow(Window("2026-01-01T00:00", START, END), ("a", "b"), "trader", {"a": ("a1", "a2")})
    done = Iteration(
        iteration=2,
        selection=Selection(2, (window,), 3, 4, 0.3, 2, {"max_windows": 2}, {"alice": (3, 1), "bob": (1, 1)}, until),
        trained=Trained(PolicyVersion("p", 3, "runs/x/checkpoints/0003"), 5, 600, 1, {"loss": 0.5}),
        usage=JudgeUsage(calls=1, cache_hits=2, prompt_tokens=3, completion_tokens=4, cost_usd=None),
        unscored=1,
        rejected={"steps": 1},
        seconds={"judge": 1.5},
        tallies={"position": (1.0, 2.0)},
    )
    row = json.loads(json.dumps(done.row()))
    assert Iteration.from_row(row) == done
    del row["selection"]["until"]  # as an older version wrote it
    assert Iteration.from_row(row).selection.until is None
