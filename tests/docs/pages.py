"""The documentation's pages as the tests read them: commands, inline code, links and headings."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.harness.project import committed

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    str(page.relative_to(ROOT))
    for page in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "experiments" / "README.md")
)
_FENCE = re.compile(r"^```(\w*)(?: title=\"([^\"\n]+)\")?\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_ASSIGNMENT = re.compile(r"^[A-Z_]+=")
_SEPARATORS = frozenset({"|", "||", "&&", ";", "&"})


@dataclass(frozen=True)
class Command:
    """One simple command of a shell line: its words after the assignments in front, and where it stands."""

    words: tuple[str, ...]
    place: str

    def __str__(self) -> str:
        return f"{self.place}: {shlex.join(self.words)}"


def text(page: str) -> str:
    return (ROOT / page).read_text("utf-8")


def blocks(page: str) -> Iterator[tuple[str, str, int]]:
    """Language, content and first line's number of each fenced code block."""
    whole = text(page)
    for found in _FENCE.finditer(whole):
        yield found.group(1), found.group(3), whole.count("\n", 0, found.start(3)) + 1


def files(page: str) -> dict[str, str]:
    """Returns the files that a page shows, by the titles of their code blocks."""
    return {title: content for _, title, content in _FENCE.findall(text(page)) if title}


def prose(page: str) -> str:
    """The page without its fenced code blocks."""
    return _FENCE.sub("", text(page))


def inline_code(page: str) -> list[str]:
    return re.findall(r"`([^`\n]+)`", prose(page))


def commands(page: str) -> Iterator[Command]:
    """Every simple command of the page's ``sh`` blocks, and inline code that is a call of mmo-rl or make."""
    for language, content, first in blocks(page):
        if language == "sh":
            joined = re.sub(r"\\\n\s*", lambda _: " \x00", content)  # a continuation keeps its line's number
            number = first
            for line in joined.split("\n"):
                yield from simple_commands(line.replace("\x00", ""), f"{page}:{number}")
                number += 1 + line.count("\x00")
    for code in inline_code(page):
        if code.startswith(("mmo-rl ", "make ", "python benchmarks/", "pip install ")):
            yield from simple_commands(code, page)


def simple_commands(line: str, place: str) -> Iterator[Command]:
    """The commands of a pipeline or list; comments and assignments in front are left out."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;")
    lexer.whitespace_split = True
    words: list[str] = []
    for word in [*lexer, ";"]:
        if word in _SEPARATORS:
            while words and _ASSIGNMENT.match(words[0]):
                words.pop(0)
            if words:
                yield Command(tuple(words), place)
            words = []
        else:
            words.append(word)


def yaml_commands() -> Iterator[Command]:
    """Calls of mmo-rl in comments of conf/ and experiments/; what follows two spaces describes the command."""
    for path in sorted((*ROOT.glob("conf/**/*.yaml"), *committed(ROOT / "experiments", "*.yaml"))):
        joined = re.sub(r"\\\n# +", "", path.read_text("utf-8"))
        for line in joined.splitlines():
            found = re.match(r"# +((?:[A-Z_]+=\S+ )?mmo-rl \S.*?)(?: {2,}.*)?$", line)
            if found:
                yield from simple_commands(found[1], str(path.relative_to(ROOT)))
