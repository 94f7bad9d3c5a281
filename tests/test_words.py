"""Words and types of the source: first lines of docstrings, and the number of explicit `Any`."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted(
    path.relative_to(ROOT).as_posix()
    for package in ("mmo_rl", "hydra_plugins")
    for path in (ROOT / package).rglob("*.py")
    if "__pycache__" not in path.parts
)
QUESTIONS = {"what", "whatever", "who", "whoever", "whose", "whom", "whether", "how", "which", "where", "when", "why"}
PRONOUNS = {"i", "you", "he", "she", "it", "its", "we", "they", "their", "this", "that", "these", "those"}
FORBIDDEN = QUESTIONS | PRONOUNS | {"from", "so", "as"}
LONGEST = 120


def docstrings(tree: ast.Module) -> Iterator[tuple[str, int, str | None]]:
    """Name, line and docstring of the module, and of each class and function that has one."""
    yield "module", 1, ast.get_docstring(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text is not None:
                yield node.name, node.lineno, text


def faults(source: str) -> list[str]:
    """First lines of docstrings that break the rule, each with its reason."""
    found = []
    for name, line, text in docstrings(ast.parse(source)):
        first = (text or "").strip().split("\n")[0]
        word = re.match(r"[`*\"'(]*([A-Za-z]*)", first)
        if not first:
            found += [f"{line} {name}: no docstring"] if source.strip() else []
        elif word is not None and word[1].lower() in FORBIDDEN:
            found.append(f"{line} {name}: begins with {word[1]!r}: {first}")
        elif len(first) > LONGEST:
            found.append(f"{line} {name}: {len(first)} characters: {first}")
    return found


def test_first_lines_of_docstrings_say_what_a_thing_is_or_does() -> None:
    """A noun phrase or a verb with the field's own word, at most 120 characters; every module has a docstring."""
    found = {file: faults((ROOT / file).read_text("utf-8")) for file in FILES}
    assert not {file: wrong for file, wrong in found.items() if wrong}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ('"""Reader of rows."""\ndef read():\n    """Reads a row."""\n', 0),
        ("x = 1\n", 1),
        ("", 0),
        ('"""What is read."""\n', 1),
        ('"""Rows."""\nclass Row:\n    """A row."""\n    def f(self):\n        """Whether it is one."""\n', 1),
        ('"""Rows."""\nasync def f():\n    """``It`` is read."""\n', 1),
        ('"""' + "Row " * 31 + '"""\n', 1),
    ],
)
def test_the_rule_finds_what_it_is_for(source: str, expected: int) -> None:
    assert len(faults(source)) == expected


# --- explicit Any ---------------------------------------------------------------------------------------------------

MOST_ANY = 0.3
"""Explicit `Any` a hundred lines."""
MOST_JSON = 0.25
"""Uses of the alias `JsonDict`, which hides one, a hundred lines."""


def uses(name: str, source: str) -> int:
    """How often a name is used, imports not counted; in quoted types too."""
    count = 0
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Name):
            count += node.id == name
        elif isinstance(node, ast.Attribute):
            count += node.attr == name
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and len(node.value) < 80:
            count += bool(re.fullmatch(rf"[\w\[\], .|]*\b{name}\b[\w\[\], .|]*", node.value)) and "[" in node.value
    return count


def test_uses_are_counted() -> None:
    source = (
        "from typing import Any, cast\nx: dict[str, Any] = {}\ny = cast('list[Any]', x)\nz: typing.Any = 'Any text'\n"
    )
    assert uses("Any", source) == 3


def test_any_is_rare() -> None:
    sources = {file: (ROOT / file).read_text("utf-8") for file in FILES}
    hundreds = sum(len(source.splitlines()) for source in sources.values()) / 100
    for name, most in (("Any", MOST_ANY), ("JsonDict", MOST_JSON)):
        counts = {file: uses(name, source) for file, source in sources.items()}
        worst = sorted(counts.items(), key=lambda item: -item[1])[:10]
        total = sum(counts.values())
        assert total / hundreds <= most, f"{name}: {total} in {hundreds:.0f}00 lines, most in {worst}"
