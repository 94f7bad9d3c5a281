"""Table of the trajectories that were used and left out, with reasons, from summary.json alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from mmo_rl.numbers import finite_number
from mmo_rl.wording import counted

if TYPE_CHECKING:
    from mmo_rl.terminal import Terminal

REASONS = {
    "too_few_agents": "of windows with too few agents",
    "too_few_actions": "with too few actions",
    "unfinished": "of windows that are not over",
    "evaluation": "for evaluation, or not meant for training",
    "held_out": "held out (the newest windows)",
    "already_used": "of windows used by an earlier iteration",
    "max_windows": "of windows whose turn did not come",
}


def selection_rows(summary: Mapping[str, object]) -> list[tuple[str, str]]:
    """Rows of (count, description), the used trajectories first; none where nothing was selected."""
    used = summary.get("data/trajectories_used")
    if used is None:
        return []
    rate = summary.get("data/dropout_rate") or 0.0
    windows = round(finite_number(summary["data/windows_available"]) or 0)
    rows = [
        (f"{used:,}", f"used, in {summary['data/windows_used']:,} of {counted(windows, 'window')}"),
    ]
    if dropped := summary.get("data/trajectories_dropped"):
        rows.append((f"{dropped:,}", f"dropped by dropout, at a rate of {rate:.2f}"))
    elif dropped == 0 and not rate:
        rows.append(("0", "dropped by dropout, which begins above sampler.target_trajectories an iteration"))
    for reason, count in _under(summary, "data/excluded/"):
        rows.append((f"{count:,}", REASONS.get(reason, reason.replace("_", " "))))
    for reason, count in _under(summary, "data/rejected/"):
        rows.append((f"{count:,}", f"rejected: {reason}"))
    return rows


def _under(summary: Mapping[str, object], prefix: str) -> list[tuple[str, object]]:
    return [(key.removeprefix(prefix), summary[key]) for key in sorted(summary) if key.startswith(prefix)]


def shares(summary: Mapping[str, object]) -> str | None:
    """Largest share of one agent in the data, before and after dropout, as a sentence; None where it is unknown."""
    before, after = (summary.get(f"data/largest_agent_share_{when}") for when in ("before", "after"))
    if before is None or after is None:
        return None
    most = f"the one with the most has {before:.1%} of what was available, {after:.1%} of what was used"
    agents = round(finite_number(summary["data/agents"]) or 0)
    return f"{counted(agents, 'agent')}; {most}"


def print_selection(console: Terminal, summary: Mapping[str, object]) -> None:
    """Prints a row for each kind of trajectory."""
    from rich.table import Table

    rows = selection_rows(summary)
    if not rows:
        return
    table = Table(title="Trajectories", title_justify="left", title_style="", box=None, padding=(0, 2, 0, 0))
    table.show_header = False
    table.add_column(justify="right", no_wrap=True)
    table.add_column()
    for count, what in rows:
        table.add_row(count, what)
    console.print(table)
    if (said := shares(summary)) is not None:
        console.say(said)
    console.print()
