"""A comparison of runs as text: tables on the terminal and in Markdown, rows for CSV, everything for JSON."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mmo_rl.numbers import parse_number
from mmo_rl.report.arms import Arm, said
from mmo_rl.report.compared import Compared, Estimate, Pair, by_seed, estimate, unit_of
from mmo_rl.report.numbers import MINUS, MISSING, amount
from mmo_rl.report.run_folder import jsonable
from mmo_rl.wording import counted

if TYPE_CHECKING:
    from rich.text import Text

    from mmo_rl.terminal import Terminal

NARROWEST = 26
"""Characters of a metric's column on the terminal."""
ARMS_SHOWN = 30
PAIRS_SHOWN = 20


def number(value: float | None, key: str, *, signed: bool = False, bare: bool = True, beside: float = 0.0) -> str:
    """A metric's value for people, without its unit unless ``bare`` is false; dollars as precise as a larger amount
    ``beside`` them."""
    if value is None:
        return MISSING
    if not math.isfinite(value):
        return "unknown"
    unit = unit_of(key)
    if unit == "usd":
        widest = max(abs(value), abs(beside))
        text = f"{abs(value):,.{0 if widest >= 100 else 1 if widest >= 10 else 2}f}"
        sign = MINUS if value < 0 else "+" if signed and value else ""
        return sign + ("" if bare else "$") + text
    if unit == "share":
        return amount(value, "share", signed=signed, bare=bare)
    size = abs(value)
    text = f"{size:,.0f}" if size >= 1000 or float(value).is_integer() else f"{size:.3g}"
    sign = MINUS if value < 0 else "+" if signed and value else ""
    return f"{sign}{text}" + (" s" if unit == "s" and not bare else "")


def headed(key: str) -> str:
    """A metric's name with its unit, as a column is headed."""
    unit = {"usd": ", $", "share": ", %", "s": ", s"}.get(unit_of(key), "")
    return key.removesuffix("_usd").removesuffix("_s" if unit == ", s" else "") + unit


def interval(found: Estimate, key: str) -> str:
    """``[770, 1,003]``, marked with an asterisk where it is that of a single run; nothing where there is none."""
    if found.low is None or found.high is None:
        return ""
    bounds = [number(bound, key, beside=found.value or 0.0) for bound in (found.low, found.high)]
    return f"[{', '.join(bounds)}]" + ("*" if found.over == "run" else "")


def probability(p: float | None) -> str:
    """Two digits, or as many as it takes to tell which side of 0.05 it lies on."""
    if p is None:
        return MISSING
    if p < 0.0001:
        return "< 0.0001"
    digits = next(n for n in range(2, 18) if (float(f"{p:.{n}g}") < 0.05) == (p < 0.05))
    return f"{p:.{digits}g}"


def told(pair: Pair, key: str) -> str:
    """The difference with its interval."""
    if pair.difference is None:
        return MISSING
    found = pair.difference
    widest = max((abs(b) for b in (found.estimate, found.low, found.high) if math.isfinite(b)), default=0.0)
    shown, low, high = (number(v, key, signed=True, beside=widest) for v in (found.estimate, found.low, found.high))
    return f"{shown} [{low}, {high}]" if pair.n > 1 else shown


def heading(compared: Compared) -> str:
    arms, runs = len(compared.arms), len(compared.runs)
    seeds = {run.seed for run in compared.runs} - {None}
    text = f"{runs} run{'s' * (runs != 1)}, {arms} arm{'s' * (arms != 1)}"
    return text + (f", {len(seeds)} seed{'s' * (len(seeds) != 1)}" if seeds else "")


def legend(compared: Compared) -> str:
    """Explanation of the intervals in the table."""
    over = {estimate(arm, key).over for arm in compared.arms for key in compared.metrics}
    parts = ["95% t intervals over seeds"] if "seeds" in over else []
    parts += ["* of the only run: its own bootstrap over markets"] if "run" in over else []
    return "; ".join(parts or ["no interval: one seed each"])


def print_compared(compared: Compared, console: Terminal) -> None:
    """The table of arms, the differences in the main metric, what was left out and what to know."""
    from rich.table import Table

    given = sum(max(len(c), *(len(said(a.values[c])) for a in compared.arms)) + 2 for c in compared.columns)
    fitting = max(1, (console.width - given - 12) // NARROWEST)
    shown, more = compared.metrics[:fitting], compared.metrics[fitting:]
    if compared.main not in shown:
        shown = (compared.main, *shown[1:])
    order = "smallest first" if compared.ascending else "largest first"
    table = Table(
        title=f"{heading(compared)}, by {compared.sort} ({order}); means; {legend(compared)}",
        title_justify="left",
        title_style="",
        box=None,
        padding=(0, 2, 0, 0),
    )
    table.add_column("#", justify="right")
    for column in compared.columns:
        table.add_column(column, overflow="fold")
    table.add_column("seeds", justify="right")
    for key in shown:
        table.add_column(headed(key), header_style="bold", overflow="fold")
    for arm in compared.arms[:ARMS_SHOWN]:
        table.add_row(
            str(arm.number),
            *(said(arm.values[column]) for column in compared.columns),
            str(estimate(arm, compared.main).of),
            *(_cell(arm, key) for key in shown),
        )
    console.print(table)
    if len(compared.arms) > ARMS_SHOWN:
        console.print(f"and {len(compared.arms) - ARMS_SHOWN} more arms, all in the page", style="dim")
    if more:
        console.print(f"also in the page, CSV and JSON: {', '.join(more)}", style="dim")
    _print_pairs(compared, console)
    for note in compared.notes:
        console.say(f"! {note}", style="yellow")
    for run, why in compared.left_out[:10]:
        console.say(f"left out: {run.id} ({run.state}): {why}", style="dim")
    if len(compared.left_out) > 10:
        console.print(f"left out: {len(compared.left_out) - 10} more, all in the page", style="dim")


def _cell(arm: Arm, key: str) -> Text:
    from mmo_rl.terminal import styled

    found = estimate(arm, key)
    around = f" {interval(found, key)}" if found.low is not None else ""
    known = f" {found.n} of {found.of}" if found.n < found.of else ""
    return styled(number(found.value, key), (f"{around}{known}", "dim"))


def _print_pairs(compared: Compared, console: Terminal) -> None:
    from rich.table import Table

    from mmo_rl.terminal import styled

    pairs = compared.pairs[compared.main]
    if not pairs:
        return
    if all(pair.p is None for pair in pairs):
        console.print(f"\nno two arms have two seeds in common: nothing can be said of differences in {compared.main}")
        return
    count = f"{len(pairs)} pair{'s' * (len(pairs) != 1)}"
    table = Table(
        title=f"differences in {headed(compared.main)}, paired by seed; Holm: for {count}",
        title_justify="left",
        title_style="",
        box=None,
        padding=(0, 2, 0, 0),
    )
    for name in ("", "difference [95%]", "seeds", "p (t)", "Holm", "p (sign flip)", ""):
        table.add_column(name, overflow="fold")
    for pair in pairs[:PAIRS_SHOWN]:
        style = {"higher": "green", "lower": "red"}.get(pair.finding, "dim")
        table.add_row(
            f"{pair.a.number} {MINUS} {pair.b.number}",
            told(pair, compared.main),
            str(pair.n),
            *(probability(p) for p in (pair.p, pair.p_holm, pair.p_sign_flip)),
            styled((sentence(pair), style)),
        )
    console.print()
    console.print(table)
    if len(pairs) > PAIRS_SHOWN:
        console.print(f"and {counted(len(pairs) - PAIRS_SHOWN, 'more pair')}, all in the page", style="dim")


def sentence(pair: Pair) -> str:
    """Result of a pair in words."""
    if pair.note:
        return f"{pair.finding}: {pair.note}"
    return f"{pair.a.number} is {pair.finding}" if pair.finding in ("higher", "lower") else pair.finding


# --- for files ------------------------------------------------------------------------------------------------------


def as_markdown(compared: Compared) -> str:
    """Two tables to paste: the arms, and the differences in the main metric."""
    rows = [["", *compared.columns, "seeds", *map(headed, compared.metrics)]]
    for arm in compared.arms:
        cells = []
        for key in compared.metrics:
            found = estimate(arm, key)
            part = f" ({found.n} of {found.of})" if 0 < found.n < found.of else ""
            cells.append(f"{number(found.value, key)} {interval(found, key)}".strip() + part)
        values = [said(arm.values[c]) for c in compared.columns]
        rows.append([str(arm.number), *values, str(estimate(arm, compared.main).of), *cells])
    text = _markdown(rows) + f"\n{heading(compared)}; means; {legend(compared)}.\n"
    pairs = compared.pairs[compared.main]
    if not pairs:
        return text
    rows = [[f"difference in {headed(compared.main)}", "mean [95 %]", "seeds", "p (t)", "Holm", "p (sign flip)"]]
    for pair in pairs:
        chances = [probability(p) for p in (pair.p, pair.p_holm, pair.p_sign_flip)]
        rows.append([f"{pair.a.short} {MINUS} {pair.b.short}", told(pair, compared.main), str(pair.n), *chances])
    return f"{text}\n{_markdown(rows)}"


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    lines = [f"| {' | '.join(row)} |" for row in escaped]
    return "\n".join([lines[0], f"|{'---|' * len(rows[0])}", *lines[1:]]) + "\n"


def _no_formula(text: str) -> str:
    """A text that no spreadsheet takes for a formula: it begins with an apostrophe where it would be one."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) and parse_number(text) is None else text


def as_csv(compared: Compared) -> str:
    """A row a run, left-out ones too: id, state, arm, seed, what differs, and every metric's own number."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    metrics = list(compared.metrics)
    metrics += [compared.cost] if compared.cost is not None and compared.cost not in metrics else []
    writer.writerow(["run", "state", "arm", "seed", *compared.columns, *metrics, "location"])
    for arm in compared.arms:
        for run in arm.runs:
            numbers = ["" if run.summary.get(key) is None else run.summary[key] for key in metrics]
            values = ["" if arm.values[c] is None else said(arm.values[c]) for c in compared.columns]
            seed = "" if run.seed is None else run.seed
            texts = [_no_formula(text) for text in (run.id, run.state, run.location)]
            writer.writerow([*texts[:2], arm.number, seed, *map(_no_formula, values), *numbers, texts[2]])
    for run, why in compared.left_out:
        state = run.state if not run.finished else why
        writer.writerow([_no_formula(run.id), _no_formula(state), "", "" if run.seed is None else run.seed]
                        + [""] * (len(compared.columns) + len(metrics)) + [_no_formula(run.location)])  # fmt: skip
    return out.getvalue()


def as_json(compared: Compared) -> dict[str, object]:
    """Everything: arms with estimates and the numbers by seed, all pairs of all metrics, notes, and what was left out.
    What is not known is null."""
    arms = [
        {
            "arm": arm.number,
            "name": arm.name,
            "values": dict(arm.values),
            "runs": [{"id": r.id, "seed": r.seed, "location": r.location, "commit": r.commit} for r in arm.runs],
            "metrics": {key: _estimate(arm, key) for key in compared.metrics},
        }
        for arm in compared.arms
    ]
    pairs = {key: [_pair(pair) for pair in pairs] for key, pairs in compared.pairs.items()}
    tree = {
        "task": compared.task,
        "columns": list(compared.columns),
        "sort": compared.sort,
        "smallest_first": compared.ascending,
        "cost": compared.cost,
        "arms": arms,
        "pairs": pairs,
        "notes": list(compared.notes),
        "left_out": [{"id": r.id, "state": r.state, "reason": w, "location": r.location} for r, w in compared.left_out],
    }
    ready: dict[str, object] = jsonable(tree)
    return ready


def json_text(compared: Compared) -> str:
    return json.dumps(as_json(compared), indent=1, allow_nan=False) + "\n"


def _estimate(arm: Arm, key: str) -> dict[str, object]:
    found = estimate(arm, key)
    seeds = {str(seed) if seed >= 0 else "": value for seed, value in by_seed(arm, key).items()}
    return {
        "value": found.value,
        "low": found.low,
        "high": found.high,
        "interval_over": found.over or None,
        "n": found.n,
        "of": found.of,
        "by_seed": seeds,
    }


def _pair(pair: Pair) -> dict[str, object]:
    difference = pair.difference
    return {
        "a": pair.a.number,
        "b": pair.b.number,
        "n": pair.n,
        "difference": None if difference is None else difference.estimate,
        "low": None if difference is None else difference.low,
        "high": None if difference is None else difference.high,
        "p": pair.p,
        "p_holm": pair.p_holm,
        "p_sign_flip": pair.p_sign_flip,
        "verdict": pair.finding,
        "note": pair.note or None,
    }
