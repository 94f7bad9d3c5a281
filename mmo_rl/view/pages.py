"""Pages of the viewer as HTML. Recorded text is data: everything is escaped, and no page has a script of its own."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from mmo_rl.errors import MmoRlError
from mmo_rl.judge.base import AsksModel, JudgeRequest
from mmo_rl.numbers import finite_number
from mmo_rl.report.html import Chart, learning_curves
from mmo_rl.report.mask import mask
from mmo_rl.report.numbers import MISSING, amount
from mmo_rl.report.run_folder import RunFolder, Status
from mmo_rl.report.runs import Listed
from mmo_rl.report.words import Verdict, run_verdict
from mmo_rl.sampler.base import SamplingRules
from mmo_rl.types import GroupCounts
from mmo_rl.view.library import JudgedGroup, Library, Seen
from mmo_rl.view.market_chart import colour, market_chart
from mmo_rl.view.places import Link, Place
from mmo_rl.view.trajectory import trajectory_view
from mmo_rl.view.window import window_view

if TYPE_CHECKING:
    import jinja2

PER_PAGE = 100
"""Rows of a listing on one page."""
LOG_LINES = 60
HEADLINES: Mapping[str, tuple[str, str]] = {
    "train": ("eval/pnl_improvement", "P&L, trained minus base"),
    "evaluate": ("ab/pnl_difference", "P&L, B minus A"),
    "judge": ("judge/oracle_tau", "agreement with the oracle (tau-b)"),
}
"""Number of summary.json that a run is known by, and its name, by task."""


@dataclass(frozen=True, slots=True)
class Headline:
    """A run's number with its 95 % interval as text."""

    value: str
    interval: str
    name: str


def runs_page(listed: Sequence[Listed], link: Link, *, page: int = 0, find: str = "") -> str:
    """Lists runs, newest first; ``find`` is a part of their name, key, state or overrides."""
    runs = [run for run in listed if _fits(find, run.name, run.path.name, run.state, *run.overrides)]
    shown = runs[page * PER_PAGE : (page + 1) * PER_PAGE]
    rows = [
        {
            "run": run,
            "at": link(Place(run=(run.name, run.path.name))),
            "headline": headline(run.task, run.summary),
            "spark": _spark(run) if run.task == "train" else "",
        }
        for run in shown
    ]
    live = any(run.state == "running" for run in shown)
    return _page(
        "runs.html.j2",
        link,
        title="Runs",
        rows=rows,
        find=find,
        count=len(runs),
        pages=_pages(len(runs), page, lambda number: link(Place(page=number))),
        live=live,
    )


def run_page(library: Library, run: tuple[str, str], link: Link, *, page: int = 0, find: str = "") -> str:
    """One run: its result, learning curves, the windows that it judged, its config and the end of its log."""
    folder = library.folder(run)
    status: Status = folder.status() or {}
    summary = folder.summary() or {}
    config = folder.config() or {}
    groups = [
        group
        for group in reversed(library.judged(folder))
        if _fits(find, group.group_id, *(f"{row['trajectory_id']} {row['explanation'] or ''}" for row in group.rows))
    ]
    shown = groups[page * PER_PAGE : (page + 1) * PER_PAGE]
    charts: list[Chart] = learning_curves(folder.read("metrics"))
    verdict: Verdict | None = run_verdict(summary) if summary and config.get("task", "train") == "train" else None
    return _page(
        "run.html.j2",
        link,
        title=f"{run[0]}/{run[1]}",
        run=run,
        status=status,
        state=status.get("status", "unknown"),
        verdict=verdict,
        charts=charts,
        groups=[_judged_row(group, run, link) for group in shown],
        count=len(groups),
        find=find,
        pages=_pages(len(groups), page, lambda number: link(Place(run=run, page=number))),
        overrides=folder.overrides(),
        config=_yaml(config),
        provenance=json.dumps((folder.provenance() or {}).get("git") or {}, indent=1),
        log=_log_end(folder),
        live=status.get("status") == "running",
    )


def windows_page(
    counts: Sequence[GroupCounts],
    rules: SamplingRules,
    link: Link,
    *,
    page: int = 0,
    find: str = "",
    places: Mapping[str, Place] | None = None,
) -> str:
    """Lists the windows of the source, newest first, with the reason why one is not ready. ``places`` are the pages
    that there are, by the window's id (None: all of them)."""
    found = [count for count in counts if _fits(find, count.window.id, count.role or "")]
    shown = found[page * PER_PAGE : (page + 1) * PER_PAGE]
    rows = [
        {
            "count": count,
            "at": "" if (place := _place(count, places)) is None else link(place),
            "why": _why_not(count, rules),
            "pnl": ""
            if count.pnl_low is None or count.pnl_high is None
            else f"{amount(count.pnl_low, 'usd', signed=True)} to {amount(count.pnl_high, 'usd', signed=True)}",
        }
        for count in shown
    ]
    return _page(
        "windows.html.j2",
        link,
        title="Recorded windows",
        rows=rows,
        rules=rules,
        find=find,
        count=len(found),
        pages=_pages(len(found), page, lambda number: link(Place(listing="windows", page=number))),
    )


def window_page(library: Library, seen: Seen, place: Place, link: Link) -> str:
    """One window: its agents, prices and trades, outcomes, the judge's words, and the prompt that it was sent."""
    view = window_view(seen, library.vocabulary)
    minutes = (view.window.end - view.window.start).total_seconds() / 60.0
    judge = None if place.run is None else library.asks(library.folder(place.run))
    return _page(
        "window.html.j2",
        link,
        title=f"Window {view.id}",
        run=place.run,
        up="" if place.run is None else link(Place(run=place.run)),
        view=view,
        minutes=minutes,
        charts=[(one, market_chart(one, minutes=minutes)) for one in view.instruments],
        at={m.trajectory_id: link(_member(place, m.trajectory_id)) for m in view.members},
        colour=colour,
        requests=_requests(judge, seen),
        is_asked=judge is not None,
        number=_number,
    )


def trajectory_page(library: Library, seen: Seen, place: Place, link: Link) -> str:
    """One trajectory, step by step."""
    assert place.trajectory is not None
    view = trajectory_view(seen, place.trajectory, library.vocabulary)
    window = window_view(seen, library.vocabulary)
    own = next(m for m in window.members if m.trajectory_id == view.trajectory_id)
    return _page(
        "trajectory.html.j2",
        link,
        title=f"{view.agent_id} in {window.id}",
        run=place.run,
        view=view,
        window=window,
        own=own,
        up=link(Place(run=place.run, group=place.group)),
        at={m.trajectory_id: link(_member(place, m.trajectory_id)) for m in window.members},
        numbers={m.trajectory_id: m.number for m in window.members},
        colour=colour,
        number=_number,
    )


def error_page(message: str, link: Link) -> str:
    """A page that could not be shown, with the reason."""
    return _page("error.html.j2", link, title="Not there", message=message)


# --- parts ----------------------------------------------------------------------------------------------------------


def headline(task: str, summary: Mapping[str, object]) -> Headline | None:
    """The number that a run of this task is known by; None where it has none yet."""
    key, name = HEADLINES.get(task, ("", ""))
    value, low, high = (summary.get(key + end) for end in ("", "_low", "_high"))
    if not isinstance(value, int | float):
        return None
    if key == "judge/oracle_tau":
        return Headline(f"{value:.2f}", _between(low, high, "{:.2f}"), name)
    return Headline(amount(value, "usd", signed=True), _between(low, high, "{:+,.0f}"), name)


def _between(low: object, high: object, form: str) -> str:
    both = isinstance(low, int | float) and isinstance(high, int | float)
    return f"{form.format(low)} to {form.format(high)}" if both else ""


def _spark(run: Listed) -> str:
    """The P&L of a run's play as the points of a line in a box of 120 by 34; empty where it has not two yet."""
    try:
        rows = RunFolder(run.path).read("metrics")
    except MmoRlError:
        return ""
    values = [value for row in rows if (value := finite_number(row.get("play/pnl"))) is not None]
    if len(values) < 2:
        return ""
    low, span = min(values), (max(values) - min(values)) or 1.0
    step = 112 / (len(values) - 1)
    return " ".join(f"{4 + step * n:.1f},{30 - 26 * (value - low) / span:.1f}" for n, value in enumerate(values))


def _judged_row(group: JudgedGroup, run: tuple[str, str], link: Link) -> dict[str, object]:
    scores = [row["score"] for row in group.rows if row["score"] is not None]
    best = max(group.rows, key=lambda row: -1.0 if row["score"] is None else row["score"])
    return {
        "id": group.group_id,
        "iteration": group.iteration,
        "at": link(Place(run=run, group=group.group_id)),
        "members": len(group.rows),
        "unscored": len(group.rows) - len(scores),
        "range": f"{min(scores):.2f} to {max(scores):.2f}" if scores else MISSING,
        "best": mask(str(best["explanation"] or "")) if scores else mask(str(group.rows[0]["reason"] or "")),
    }


def _requests(judge: AsksModel | None, seen: Seen) -> list[JudgeRequest]:
    return judge.requests(seen.group) if judge is not None and len(seen.group.members) > 1 else []


def _place(count: GroupCounts, places: Mapping[str, Place] | None) -> Place | None:
    group = count.window.id if count.role is None else f"{count.window.id}/{count.role}"
    return Place(group=group) if places is None else places.get(group)


def _member(place: Place, trajectory_id: str) -> Place:
    return Place(run=place.run, group=place.group, trajectory=trajectory_id)


def _why_not(count: GroupCounts, rules: SamplingRules) -> str:
    if not count.complete:
        return "it is not over yet"
    if count.agents < rules.min_agents:
        return f"{count.agents} of {rules.min_agents} agents"
    return ""


def _fits(find: str, *texts: str) -> bool:
    return not find or any(find.casefold() in text.casefold() for text in texts)


def _pages(count: int, page: int, at: object) -> list[tuple[str, str, bool]]:
    """(label, address, is this page) of the pages of a listing; none where one holds everything."""
    pages = -(-count // PER_PAGE)
    if pages < 2 or not callable(at):
        return []
    near = sorted({0, pages - 1, *range(max(0, page - 3), min(pages, page + 4))})
    return [(str(number + 1), str(at(number)), number == page) for number in near]


def _log_end(folder: RunFolder) -> str:
    try:
        with folder.log_path.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - 64_000))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return ""
    return "\n".join(text.splitlines()[-LOG_LINES:])


def _number(value: float | None, digits: int = 2) -> str:
    return MISSING if value is None else f"{value:,.{digits}f}"


def _yaml(config: Mapping[str, object]) -> str:
    import yaml  # type: ignore[import-untyped]

    return str(yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)) if config else ""


def _when(text: str | None) -> str:
    return f"{datetime.fromisoformat(text):%Y-%m-%d %H:%M} UTC" if text else ""


def _page(template: str, link: Link, **values: object) -> str:
    home, recorded = link(Place()), link(Place(listing="windows"))
    shared = {"home": home, "recorded": recorded, "assets": _assets(home), "find": "", "pages": [], "live": False}
    text = _environment().get_template(template).render(**{**shared, **values})
    return text.encode("utf-8", "replace").decode("utf-8")  # recorded text may hold half a surrogate pair


def _assets(home: str) -> str:
    """Folder of style sheet and script, as the page at hand writes it: that of the first page."""
    return home.rpartition("/")[0] + "/" if "/" in home else ""


@lru_cache(maxsize=1)
def _environment() -> jinja2.Environment:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["when"] = _when
    return environment
