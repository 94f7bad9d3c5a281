"""The result of an A/B comparison: one sentence, a table, JSON for machines, and a page with a picture."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from mmo_rl.numbers import finite_number
from mmo_rl.report.charts.dot_plot import Dot, dot_plot
from mmo_rl.report.numbers import Unit, amount
from mmo_rl.report.page import page
from mmo_rl.report.provenance import repeat_command
from mmo_rl.report.run_folder import RunFolder, jsonable
from mmo_rl.report.words import Cell, Kind, Verdict, cell
from mmo_rl.wording import counted

if TYPE_CHECKING:
    from rich.text import Text

    from mmo_rl.terminal import Terminal

ROWS: tuple[tuple[str, str, Unit, bool | None], ...] = (
    ("P&L, $", "pnl", "usd", True),
    ("Win rate, %", "win_rate", "share", True),
    ("Error rate, %", "error_rate", "share", False),
    ("Drawdown, $", "drawdown", "usd", False),
    ("Activity, %", "activity", "share", None),
)
"""Label, name, unit, and whether more is better (None: neither)."""
Row = tuple[str, Cell, Cell, Cell]


def is_comparison(summary: Mapping[str, object]) -> bool:
    """True for the summary of an A/B comparison."""
    return "ab/a" in summary


def ab_verdict(summary: Mapping[str, object]) -> Verdict:
    """``B better: +$120 [85, 160]``, or that no difference is shown, and what to know before quoting it."""
    change = cell(summary, "ab/pnl_difference", "usd", signed=True)
    bounds = [finite_number(summary.get(f"ab/pnl_difference_{side}")) for side in ("low", "high")]
    interval = "" if None in bounds else " [{}, {}]".format(*(amount(b, "usd", signed=True, bare=True) for b in bounds))
    better = summary["ab/better"]
    title = (f"{better} better" if better else "no difference shown") + f": {change.value}{interval}"
    kinds: dict[object, Kind] = {"B": "better", "A": "worse"}
    return Verdict(kinds.get(better, "unclear"), title, _detail(summary))


def _detail(summary: Mapping[str, object]) -> str:
    looks = finite_number(summary["ab/looks"]) or 1.0
    level = finite_number(summary["ab/interval_level"]) or 0.95
    seats = "each seat once for both" if summary["ab/paired"] else "A and B in markets of their own"
    markets, agents = (round(finite_number(summary[f"ab/{name}"]) or 0) for name in ("markets", "agents"))
    counts = f"{counted(markets, 'held-out market')}, {counted(agents, 'seat')}"
    text = f"P&L of B minus A, an agent and market; {counts}, {seats}."
    if looks > 1:
        text += f" Intervals of {100 * level:.1f}% hold together with 95% at all {looks:.0f} looks"
        early = (
            f"; the answer was clear after {summary['ab/looks_done']}"
            if markets != summary["ab/markets_planned"]
            else ""
        )
        text += f"{early}."
    return text


def rows(summary: Mapping[str, object], prefix: str = "ab/") -> list[Row]:
    """Label, A, B, and B minus A."""
    return [
        (
            label,
            cell(summary, f"{prefix}{name}_a", unit, bare=True),
            cell(summary, f"{prefix}{name}_b", unit, bare=True),
            _neutral(
                cell(
                    summary,
                    f"{prefix}{name}_difference",
                    unit,
                    signed=True,
                    higher_is_better=up is not False,
                    bare=True,
                ),
                up,
            ),
        )
        for label, name, unit, up in ROWS
    ]


def _neutral(change: Cell, up: bool | None) -> Cell:
    return Cell(change.value, change.interval) if up is None else change


def scenarios(summary: Mapping[str, object]) -> list[str]:
    """The scenarios that were played, in order."""
    prefix = "ab/scenario/"
    return list(dict.fromkeys(k.removeprefix(prefix).split("/")[0] for k in summary if k.startswith(prefix)))


def scenario_note(summary: Mapping[str, object]) -> str:
    """Explanation of the intervals of scenarios, for tables with more than one."""
    level = finite_number(summary.get("ab/scenario_interval_level"))
    if level is None:
        return "each interval holds by itself, not all together"
    return f"intervals of {100 * level:.1f}% hold for all {len(scenarios(summary))} together (Bonferroni)"


def print_comparison(console: Terminal, summary: Mapping[str, object], path: Path, *, machine: bool = False) -> None:
    """The tables, the verdict and where the files are; or, for a ``machine``, one JSON object on standard output."""
    if machine:
        import sys

        told = {"verdict": ab_verdict(summary).title, **summary, "run_folder": str(path)}
        sys.stdout.write(json.dumps(jsonable(told), allow_nan=False) + "\n")
        return
    from rich.table import Table

    table = Table(title=f"A: {summary['ab/a']}   B: {summary['ab/b']}", title_justify="left", box=None)
    for name in ("", "A", "B", "B minus A"):
        table.add_column(name, no_wrap=True)
    for label, a, b, change in rows(summary):
        table.add_row(label, *(_text(c) for c in (a, b, change)))
    console.print(table)
    names = scenarios(summary)
    if len(names) > 1:
        parts = Table(title=f"P&L by scenario, $; {scenario_note(summary)}", title_justify="left", box=None)
        for name in ("", "A", "B", "B minus A"):
            parts.add_column(name, no_wrap=True)
        for name in names:
            parts.add_row(name, *(_text(c) for c in rows(summary, f"ab/scenario/{name}/")[0][1:]))
        console.print(parts)
    result = ab_verdict(summary)
    style = {"better": "green", "worse": "red"}.get(result.kind, "yellow")
    console.say(result.title, style=f"bold {style}")
    console.print(result.detail)
    console.say(f"report     {path / 'report.html'}")


def _text(shown_cell: Cell) -> Text:
    from mmo_rl.terminal import styled

    value = (shown_cell.value, {True: "green", False: "red", None: ""}[shown_cell.good])
    return styled(value, (f" {shown_cell.interval}", "dim")) if shown_cell.interval else styled(value)


def write_comparison(folder: RunFolder) -> Path:
    """Writes and returns report.html of a finished comparison, from the files of its folder alone."""
    return folder.write_text("report.html", render(folder))


def render(folder: RunFolder) -> str:
    """The page as text."""
    summary = folder.summary() or {}
    return page(
        "comparison.html.j2",
        name=folder.path.parent.name,
        job=folder.path.name,
        a=summary["ab/a"],
        b=summary["ab/b"],
        verdict=ab_verdict(summary),
        rows=rows(summary),
        scenarios=[(name, rows(summary, f"ab/scenario/{name}/")[0]) for name in scenarios(summary)],
        scenario_note=scenario_note(summary),
        plot=_plot(summary),
        command=repeat_command(folder),
        summary=sorted(summary.items()),
    )


def _plot(summary: Mapping[str, object]) -> str:
    """The difference in P&L overall and in each scenario, with its interval."""
    names = scenarios(summary)
    prefixes = {"all" if len(names) > 1 else "B minus A": "ab/"}
    prefixes |= {name: f"ab/scenario/{name}/" for name in names if len(names) > 1}
    dots = [
        Dot(
            label=label,
            value=finite_number(summary[f"{prefix}pnl_difference"]) or 0.0,
            low=finite_number(summary.get(f"{prefix}pnl_difference_low")),
            high=finite_number(summary.get(f"{prefix}pnl_difference_high")),
            text=amount(finite_number(summary[f"{prefix}pnl_difference"]), "usd", signed=True),
            colour="var(--trained)",
        )
        for label, prefix in prefixes.items()
    ]
    return dot_plot(dots, unit="usd", label="difference in P&L, B minus A, with intervals", wide=1040.0)
