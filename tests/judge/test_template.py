"""Judge templates: mistakes are found before the first call, and whatever is inserted stays inside its fence."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmo_rl.errors import ConfigError
from mmo_rl.judge.prompt import InvalidAnswer, parse_answer
from mmo_rl.judge.sample import sample_groups
from mmo_rl.judge.template import Template
from mmo_rl.judge.view import clip, encode
from tests.judge.conftest import CONF, load_template, make_group

TEXTS = {"name": "mine", "rubric": "profit", "context": "", "trajectory": "{{ trajectory.final_pnl }}"}


@pytest.mark.parametrize("name", sorted(path.stem for path in CONF.glob("*.yaml")))
def test_shipped_templates_show_every_group(name: str) -> None:
    template = load_template(name)
    assert template.name == name
    for group in (*sample_groups(), make_group([0.1, 0.2])):
        rendered = template.render(group, group.members)
        assert len(rendered.trajectories) == len(group.members)
        assert all(rendered.trajectories)
        assert rendered.rubric


@pytest.mark.parametrize(
    ("part", "text", "named"),
    [
        ("trajectory", "{{ trajectori.final_pnl }}", "'trajectori'"),
        ("trajectory", "{{ trajectory.final_pln }}", "final_pln"),
        ("trajectory", "{% if false %}{{ never_rendered }}{% endif %}", "'never_rendered'"),
        ("trajectory", "{% for step in trajectory.steps %}{{ step.actoin }}{% endfor %}", "actoin"),
        ("rubric", "{{ truth.tickers }}", "'truth'"),
        ("context", "{{ trajectory.steps }}", "'trajectory'"),
        ("context", "{{ truth.tickers[0].ticker }}", "'None' has no attribute 'tickers'"),
        ("context", "{% for t in truth %}", "line 1"),
        ("trajectory", "{{ trajectory.final_pnl | nonsense }}", "nonsense"),
        ("trajectory", "{{ trajectory.final_pnl + 1 }}", "NoneType"),
        ("trajectory", "{{ trajectory.steps.__class__.__mro__ }}", "unsafe"),
        ("trajectory", "{{ trajectory.steps.index }}", "cannot show a value of type"),
        ("rubric", "  ", "rubric is empty"),
        ("trajectory", "", "trajectory is empty"),
    ],
)
def test_a_mistake_is_named_at_composition(part: str, text: str, named: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Template.check_keys(**{**TEXTS, part: text})
    assert named in caught.value.message
    assert "'mine'" in caught.value.message
    assert part in caught.value.message
    assert caught.value.hint


def test_it_knows_whether_it_shows_ground_truth() -> None:
    assert load_template("context_rich").uses_truth
    assert not load_template("blind").uses_truth


JSON = st.recursive(st.none() | st.booleans() | st.text(), lambda v: st.lists(v) | st.dictionaries(st.text(), v))


@given(JSON)
def test_encoding_keeps_the_value_and_cannot_leave_a_fence(value: Any) -> None:
    text = encode(value)
    assert json.loads(text) == value
    assert not set("<>&\n\r\u2028\u2029\u200b\u202e\ufeff") & set(text)
    text.encode()  # lone surrogates are escaped


@pytest.mark.parametrize("character", ["\ud800", "\u200b", "\u202e", "\U000e0041", "\x85", "<", "&"])
def test_characters_that_hide_or_break_are_escaped(character: str) -> None:
    assert encode(f"a{character}b").isascii()
    assert json.loads(encode(character)) == character


def test_ordinary_text_stays_readable() -> None:
    assert encode('Größe 価格 🚀 "quoted"') == '"Größe 価格 🚀 \\"quoted\\""'
    assert encode({"at": datetime(2025, 1, 1, tzinfo=UTC), "price": Decimal("1.50")}) == (
        '{"at": "2025-01-01 00:00:00+00:00", "price": "1.50"}'
    )


def test_clip_says_what_it_left_out() -> None:
    assert clip("abcdef", 3) == "abc... [3 more characters]"
    assert clip("abc", 3) == "abc"
    assert clip(None, 3) is None
    assert clip({"a": 1}, 30) == {"a": 1}
    assert clip({"a": "b" * 50}, 10) == '{"a": "bbb... [49 more characters]'


ENTRIES = st.lists(
    st.fixed_dictionaries(
        {
            "trajectory_id": st.sampled_from(["1", "2", "3", 1, 2, 3, True, None, "t1", " 1"]),
            "score": st.floats() | st.integers() | st.sampled_from(["0.5", "1e-1", "2", "nan", "", None, True]),
        }
    ),
    max_size=5,
)


@given(ENTRIES)
def test_an_answer_binds_completely_or_not_at_all(entries: list[dict[str, Any]]) -> None:
    ids = ("1", "2", "3")
    try:
        found = parse_answer(json.dumps({"scores": entries}), ids)
    except InvalidAnswer:
        return
    assert len(entries) == 3
    assert sorted(found) == sorted(ids)
    for entry in entries:
        answer = found[str(entry["trajectory_id"])]
        assert answer.score == float(entry["score"])
        assert 0.0 <= answer.score <= 1.0


def test_every_fault_is_named_at_once() -> None:
    text = json.dumps([{"trajectory_id": "1", "score": 7}, {"trajectory_id": "9", "score": 0.5}, "x"])
    with pytest.raises(InvalidAnswer) as caught:
        parse_answer(text, ("1", "2"))
    assert str(caught.value) == (
        'the score of trajectory ID 1 is 7; unknown trajectory ID "9"; entry 3 is not an object; '
        "trajectory ID 2 is missing"
    )
