"""Printed commands are read back, by the shell and by Hydra, as what they were made of."""

from __future__ import annotations

import shlex

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from mmo_rl.command_line import command_line, override

TEXTS = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")) | st.sampled_from("\\'\"${}=,[]()&# "), max_size=30
)


def read(line: str) -> list[object]:
    """The values of a command's overrides as Hydra gives them to a job."""
    program, *arguments = shlex.split(line)
    assert program == "mmo-rl"
    parsed = OverridesParser.create().parse_overrides(arguments)
    return [OmegaConf.to_container(OmegaConf.create({"k": one.value()}), resolve=True)["k"] for one in parsed]  # type: ignore[index,call-overload]


@pytest.mark.parametrize(
    "path",
    [
        "runs/a=b/0123",
        "/home/zoë/runs",
        "my runs/(1)",
        "a&b#c",
        "exp[v2]",
        "it's",
        "back\\slash\\",
        "${home}",
        "true",
        "007",
        "1e3",
        "",
    ],
)
def test_a_path_of_any_name_is_read_back(path: str) -> None:
    assert read(command_line(override("evaluate.b", path), override("serve.runs", [path, "x"]))) == [path, [path, "x"]]


@given(st.lists(TEXTS, min_size=1, max_size=3))
def test_any_text_is_read_back(texts: list[str]) -> None:
    assert read(command_line(*(override("a.b", text) for text in texts), override("c", texts))) == [*texts, texts]


def test_an_ordinary_path_has_no_quotes() -> None:
    line = command_line("task=evaluate", override("evaluate.b", "/home/me/runs/default/3b3c9aeebe/checkpoints/0010"))
    assert line == "mmo-rl task=evaluate evaluate.b=/home/me/runs/default/3b3c9aeebe/checkpoints/0010"
