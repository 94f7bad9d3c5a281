"""The final table on the terminal, from summary.json alone: a finished run prints it again without computing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from mmo_rl.report.judged_page import judged_sentence
from mmo_rl.report.selection import print_selection
from mmo_rl.report.summary import DECODINGS
from mmo_rl.report.words import Cell, lines, run_verdict

if TYPE_CHECKING:
    from rich.text import Text

    from mmo_rl.terminal import Terminal

_COLOUR = {"better": "green", "worse": "red", "unclear": "yellow", "missing": "dim"}


def print_summary(console: Terminal, summary: Mapping[str, object], run_folder_path: Path) -> None:
    """Prints base against trained with 95 % intervals, sampled and greedy, the selection, the result and the
    paths of the files."""
    from rich.padding import Padding
    from rich.table import Table

    from mmo_rl.terminal import styled

    table = Table(title=_title(summary), title_justify="left", title_style="", box=None, padding=(0, 2, 0, 0))
    table.add_column("", no_wrap=True)
    for name in ("base", "trained", "change"):
        table.add_column(name, header_style="bold")
    for decoding in DECODINGS:
        rows = lines(summary, decoding)
        if rows:
            table.add_row(styled((decoding, "dim italic")))
        for row in rows:
            table.add_row(row.label, *(_text(cell) for cell in (row.base, row.trained, row.change)))
    if table.row_count:
        console.print(Padding(table, (1, 0)))
    print_selection(console, summary)
    if (judged := judged_sentence(summary)) is not None:
        console.say(judged)
        console.print()
    result = run_verdict(summary)
    console.print(result.title, style=f"bold {_COLOUR[result.kind]}")
    console.print(result.detail)
    console.print()
    for label, path in (("run folder", run_folder_path), ("report", run_folder_path / "report.html")):
        # Never wrapped: a path that is broken over two lines can be neither clicked nor copied.
        console.say(f"{label:<11}{path}")


def _title(summary: Mapping[str, object]) -> str:
    markets, agents = summary.get("eval/markets"), summary.get("eval/agents")
    if markets is None:
        return "Base against trained"
    return f"Same {markets} held-out markets, {agents} agent{'s' * (agents != 1)} each; means and 95% intervals"


def _text(cell: Cell) -> Text:
    from mmo_rl.terminal import styled

    value = (cell.value, "" if cell.good is None else "green" if cell.good else "red")
    return styled(value, (f" {cell.interval}", "dim")) if cell.interval else styled(value)
