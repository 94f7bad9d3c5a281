"""Milestones: listeners hear them in order while they listen, and the list of names is the list of calls."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import get_args

import mmo_rl
from mmo_rl.milestones import Milestone, listen, reached


def test_a_listener_hears_what_is_reached_while_it_listens() -> None:
    heard: list[tuple[str, str]] = []
    reached("rows appended", "metrics")
    with listen(lambda milestone, detail: heard.append((milestone, detail))):
        reached("rows appended", "judgments")
        reached("judgment stored")
    reached("policy evaluated")
    assert heard == [("rows appended", "judgments"), ("judgment stored", "")]


def test_every_milestone_is_reached_somewhere() -> None:
    """Compares the names with the calls in the source."""
    called = {
        node.args[0].value
        for path in Path(mmo_rl.__file__).parent.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "reached"
        and isinstance(node.args[0], ast.Constant)
    }
    assert called == set(get_args(Milestone))
