"""A window and a trajectory in a terminal of 80 columns, for people without a browser."""

from __future__ import annotations

from rich.table import Table

from mmo_rl.plain_text import one_line
from mmo_rl.report.numbers import MISSING
from mmo_rl.terminal import Terminal
from mmo_rl.view.trajectory import TrajectoryView
from mmo_rl.view.window import Ranked, WindowView

LONGEST_WORDS = 300


def print_window(console: Terminal, view: WindowView) -> None:
    """Prints the agents of a window with their ranks, the outcomes, and the judge's words."""
    judged = view.against != ""
    console.say(f"window {view.id}, {len(view.members)} agents (#1 is the best)")
    table = Table(box=None, pad_edge=False)
    for head in ("", "agent", *(("judge",) if judged else ()), "oracle", "P&L", "failed"):
        table.add_column(head, justify="left" if head == "agent" else "right", overflow="fold")
    for m in view.members:
        moved = f" ({m.moved:+d})" if m.disputed and m.moved is not None else ""
        own = (_ranked(m.judge) + moved,) if judged else ()
        cells = (str(m.number), m.agent_id, *own, _ranked(m.oracle), _ranked(m.pnl), f"{m.failed}/{m.steps}")
        table.add_row(*map(one_line, cells))
    console.print(table)
    for one in view.instruments:
        if one.outcome:
            console.say(f"{one.name}: {one.outcome}")
    for m in view.members:
        words = m.reason or m.explanation
        if words:
            console.say(f"{m.number} {m.agent_id}: {words[:LONGEST_WORDS]}")
    if view.gone:
        console.say(f"not in this source any more: {', '.join(view.gone[:5])} ({len(view.gone)})")


def print_trajectory(console: Terminal, view: TrajectoryView) -> None:
    """Prints the steps of a trajectory: the end of what it saw, its answer, and what that did."""
    console.say(f"{view.agent_id}, {view.trajectory_id}, {len(view.steps)} steps, {view.final_status}")
    for step in view.steps:
        value = "" if step.value is None else f"  oracle {step.value:.2f}"
        came = f"  {step.came_true}" if step.came_true else ""
        console.say(f"{step.number:>3}  minute {step.minute:.1f}{value}{came}")
        for call in step.calls:
            if call.prompt:
                console.say(f"     saw     {call.prompt[-1].text[:LONGEST_WORDS]}")
            said = [call.answer, *call.tool_calls]
            console.say(f"     said    {' '.join(text for text in said if text)[:LONGEST_WORDS]}")
        state = "" if step.success else f" FAILED {step.error}"
        console.say(f"     did     {step.action} {' '.join(step.parameters.split())}{state}")


def _ranked(found: Ranked) -> str:
    return MISSING if found.value is None else f"{found.value:,.2f} #{found.rank}"
