"""Choice of recorded play, and the sentence about its origin."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from mmo_rl.origins import Origin, Where, is_simulated, run_name, told
from mmo_rl.types import SelectedWindow, Window

SCENARIOS = ["teach-collect-0123456789", "teach-0123456789-abcdef", "teach-two-collect-0123456789", "my.game", None]


@pytest.mark.parametrize(
    ("where", "kept"),
    [
        (Where(), [0, 1, 2, 3, 4]),
        (Where(scenario="*"), [0, 1, 2, 3, 4]),
        (Where(run="teach"), [0, 1]),
        (Where(run="teach/0123456789"), [0, 1]),
        (Where(run="teach/fedcba9876"), []),
        (Where(run="teach-two"), [2]),
        (Where(run="teach*"), [0, 1, 2]),
        (Where(scenario="my.game"), [3]),
        (Where(scenario="my?game"), []),
        (Where(scenario=("my.*", "teach-0*")), [1, 3]),
    ],
)
def test_scenarios_and_runs_are_chosen_by_name(where: Where, kept: list[int]) -> None:
    found = [
        number
        for number, scenario in enumerate(SCENARIOS)
        if where.matches(scenario=scenario, agent="a", role=None, models=())
    ]
    assert found == kept


def test_every_field_that_chooses_has_to_fit() -> None:
    where = Where(model="script/*", agent=("a-1", "b-*"))
    assert where.matches(scenario=None, agent="b-7", role=None, models=["gpt", "script/balanced"])
    assert not where.matches(scenario=None, agent="a-11", role=None, models=["script/balanced"])
    assert not where.matches(scenario=None, agent="a-1", role=None, models=["gpt"])
    assert str(where) == "source.where.model=script/* source.where.agent=[a-1,b-*]"


def test_an_origin_is_told_in_a_line_and_a_mix_in_a_second() -> None:
    assert run_name("teach-collect-0123456789") == "teach"
    assert run_name("benchmark-7") == "benchmark-7"
    assert is_simulated("s-w00001-a00", "s")
    assert not is_simulated("s", None)
    start = datetime(2025, 1, 1, tzinfo=UTC)
    windows = [
        SelectedWindow(Window(name, start, start + timedelta(hours=1)), ids)
        for name, ids in (("w1", ("t1", "t2")), ("w2", ("t3@2025-01-01T00:00", "unknown")))
    ]
    script = Origin("teach-collect-0123456789", ("script/balanced",), True)
    assert told({"t1": script, "t2": script, "t3": script}, windows) == ["from: teach (2 windows, scripts)"]
    assert told({"t1": script, "t3": Origin(None, ("gpt",), False)}, windows) == [
        "from: play without a scenario (1 window, gpt); teach (1 window, scripts)",
        "a mix of markets (play recorded elsewhere, the simulated market) and of policies (gpt, scripts);"
        " source.where.run=NAME chooses some of it",
    ]
    assert told({}, windows) == []
