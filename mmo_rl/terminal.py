"""Terminal that people watch: rich's console without its markup, for text of users, recordings, models and endpoints.

A style is always an argument (`styled`, ``style=``), never part of a text: ``[red]`` is shown as it stands.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import IO, TYPE_CHECKING

from rich.console import Console, ConsoleOptions, HighlighterType, JustifyMethod, OverflowMethod, RenderableType
from rich.segment import Segment
from rich.style import Style
from rich.text import Text

from mmo_rl.plain_text import harmless, one_line

if TYPE_CHECKING:
    from rich.progress import Progress

ONE_LINE = 10_000
"""Columns at which each row of a table is one line."""


class Terminal(Console):
    """Console that shows every text as it is, with control characters replaced (`harmless`): in lines, cells, titles
    and bars alike. ``record`` keeps what is printed for ``export_text``."""

    def __init__(
        self,
        *,
        file: IO[str] | None = None,
        stderr: bool = False,
        width: int | None = None,
        quiet: bool = False,
        force_terminal: bool | None = None,
        no_color: bool | None = None,
        record: bool = False,
    ) -> None:
        super().__init__(
            file=file,
            stderr=stderr,
            width=width,
            quiet=quiet,
            force_terminal=force_terminal,
            no_color=no_color,
            record=record,
            markup=False,
            emoji=False,
            highlight=False,
        )

    def render_str(
        self,
        text: str,
        *,
        style: str | Style = "",
        justify: JustifyMethod | None = None,
        overflow: OverflowMethod | None = None,
        emoji: bool | None = None,
        markup: bool | None = None,
        highlight: bool | None = None,
        highlighter: HighlighterType | None = None,
    ) -> Text:
        """Turns a text into a `rich.text.Text`; rich calls it for every string that it prints."""
        return super().render_str(
            harmless(text),
            style=style,
            justify=justify,
            overflow=overflow,
            emoji=False,
            markup=False,
            highlight=highlight,
            highlighter=highlighter,
        )

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Renders an object; a `rich.text.Text` that others have made is made harmless first, its styles kept."""
        if isinstance(renderable, Text) and (plain := harmless(renderable.plain)) != renderable.plain:
            renderable = renderable.copy()
            renderable.plain = plain  # of the same length, so that its styles stay in their places
        return super().render(renderable, options)

    def say(self, line: str, *, style: str = "") -> None:
        """Prints one line, never wrapped, so that a path or a command in it can be copied; a newline is shown as
        ``\\n``."""
        self.print(one_line(line), style=style, soft_wrap=True)

    def widened(self, width: int) -> Terminal:
        """Returns a terminal of at least ``width`` columns that writes to the same place: its rows are not cut."""
        return self if self.width >= width else Terminal(file=self.file, width=width, no_color=self.no_color)


def styled(*parts: str | tuple[str, str]) -> Text:
    """Joins texts, each plain or with its style, into one for a line or a cell."""
    return Text.assemble(*((harmless(p), "") if isinstance(p, str) else (harmless(p[0]), p[1]) for p in parts))


def progress_bars(terminal: Terminal, *, remaining: bool = False) -> Progress:
    """Makes transient progress bars: description, count done, time passed and, with ``remaining``, time left."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    return Progress(
        TextColumn("{task.description:<22}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        *((TextColumn("left"), TimeRemainingColumn()) if remaining else ()),
        console=terminal,
        transient=True,
    )
