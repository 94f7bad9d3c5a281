"""Action vocabulary: names have one meaning, and what the simulated market records reads back as what was ordered."""

import pytest

from mmo_rl.market.arena import MarketArena
from mmo_rl.market.spec import MarketSpec
from mmo_rl.types import Action
from mmo_rl.vocabulary import ACTIONS, ANSWERED, SHIPPED, Reading

SEATS = ["random", "informed", "gullible", "promoter", "momentum", "oracle"]


def test_a_name_stands_in_the_table_once_in_upper_case_and_only_openings_have_a_direction() -> None:
    names = [action.name for action in ACTIONS]
    assert sorted(set(names)) == sorted(names) and all(name == name.upper() for name in names)
    assert all(action.kind == "open" for action in ACTIONS if action.direction != 0)
    assert all(action.recorded or action.answered for action in ACTIONS)


@pytest.mark.parametrize(
    ("action", "reading"),
    [
        (
            Action("open_perp_position", {"ticker": "ACME", "side": "Short", "size": 2, "price": 9.5}, True),
            Reading("open", -1, "ACME", 2.0, 9.5),
        ),
        (
            Action("BUY_PREDICTION_SHARES", {"marketId": "q1", "side": "YES", "size": -3}, True, {"price": 0.4}),
            Reading("open", 1, "q1", 3.0, 0.4),
        ),
        (Action("SELL", {"ticker": "ACME", "side": "long"}, True), Reading("open", -1, "ACME", None, None)),
        (Action("CLOSE_PERP", {"ticker": "ACME", "side": "short"}, True), Reading("close", 0, "ACME", None, None)),
        (Action("do_nothing", {"size": float("nan")}, True), Reading("wait", 0, None, None, None)),
        (Action("Comment", {"marketId": 7, "size": True}, True), Reading("post", 0, None, None, None)),
        (Action("FLY", {"ticker": "", "marketId": "q1"}, True), Reading(None, 0, "q1", None, None)),
    ],
)
def test_a_recorded_action_is_read(action: Action, reading: Reading) -> None:
    assert SHIPPED.read(action) == reading


def test_an_answer_may_name_its_side_by_the_outcome_and_a_recording_knows_no_bare_yes() -> None:
    assert "outcome" in ANSWERED.fields.side
    assert ANSWERED.kind("yes") == "open" and SHIPPED.kind("yes") is None
    assert SHIPPED.kind("pass") == "wait" and ANSWERED.kind("pass") is None


async def test_what_the_market_records_is_read_as_what_was_ordered() -> None:
    spec = MarketSpec(posts=3, max_leverage=5.0)
    episodes = await MarketArena(spec=spec).play(
        None, market_seeds=range(30), seats=SEATS, temperature=0.0, seed=0, windows=2
    )
    kinds = set()
    for step in (step for episode in episodes for steps in episode.steps for step in steps if step.success):
        read = SHIPPED.read(Action(step.action_type, step.parameters, True, step.result))
        answered = step.completion.text
        kinds.add(read.kind)
        assert (read.direction > 0) == ('"BUY"' in answered) and (read.direction < 0) == ('"SELL"' in answered)
        if read.kind in ("open", "close"):
            assert read.instrument and f'"ticker":"{read.instrument}"' in answered
            assert read.price is not None and read.price > 0
        if read.kind == "open":
            assert f'"size":{read.size:g}' in answered
    assert kinds == {"open", "close", "wait", "post"}
