"""compare.html: one page about many runs, that needs no network and can be read without its script."""

from __future__ import annotations

from collections.abc import Sequence

from mmo_rl.report.arms import Arm, arms_of, said
from mmo_rl.report.charts.curves import curves, panels
from mmo_rl.report.compare_charts import colour, forest, parameter, pareto, series, strands
from mmo_rl.report.compare_table import headed, heading, interval, legend, number, probability, sentence, told
from mmo_rl.report.compared import Compared, Pair, estimate, unit_of
from mmo_rl.report.numbers import is_number
from mmo_rl.report.page import page
from mmo_rl.report.runs import Run
from mmo_rl.report.words import Verdict

CURVES = ("play/pnl", "judge/score_mean", "play/error_rate")
OVERLAID = 4
"""Arms up to this number share the axes of one chart; more have one each, with the others in grey behind."""
PANELS = 24
ROWS = 40


def compare_page(compared: Compared, *, curve_keys: Sequence[str] = (), command: str = "") -> str:
    """The page as text. ``curve_keys`` are keys of metrics.jsonl; those that no run has are left out."""
    drawn = pareto(compared)
    return page(
        "compare.html.j2",
        title=f"{_names(compared)}: {heading(compared)}",
        heading=heading(compared),
        names=_names(compared),
        legend=legend(compared),
        verdict=arms_verdict(compared),
        notes=compared.notes,
        main=headed(compared.main),
        forest=forest(compared.arms[:ROWS], compared.main, numbered=True),
        more_arms=max(0, len(compared.arms) - ROWS),
        columns=[(c, not all(is_number(arm.values[c]) for arm in compared.arms)) for c in compared.columns],
        metrics=[headed(key) for key in compared.metrics],
        rows=[_row(compared, arm) for arm in compared.arms],
        sorted_by=compared.sort,
        ascending=compared.ascending,
        pairs=_pairs(compared, compared.main),
        other_pairs=[_pairs(compared, key) for key in compared.metrics if key != compared.main],
        overlaid=len(compared.arms) <= OVERLAID,
        learning=_learning(compared, list(curve_keys) or list(CURVES)),
        parameters=_parameters(compared),
        pareto=drawn,
        cost=headed(compared.cost or ""),
        smaller=compared.ascending,
        parallel=strands(compared),
        runs=[_run(compared, arm, run) for arm in compared.arms for run in arm.runs],
        left_out=compared.left_out,
        command=command,
    )


def arms_verdict(compared: Compared) -> Verdict:
    """The result of a comparison in a sentence: the first arm, and the differences from it that are shown."""
    first, others = compared.arms[0], compared.arms[1:]
    main = headed(compared.main)
    if compared.sort not in compared.metrics:
        return Verdict("missing", heading(compared), f"In the order of {compared.sort}; the plots are about {main}.")
    value = f"{compared.main} {number(estimate(first, compared.main).value, compared.main, bare=False)}"
    if not others:
        return Verdict("missing", f"One arm: {value}", "There is nothing to compare it with.")
    extreme = "lowest" if compared.ascending else "highest"
    leader = f"{_called(first)} is {extreme}: {value}"
    against = [p for p in compared.pairs[compared.main] if first.number in (p.a.number, p.b.number)]
    clear = [p for p in against if p.finding in ("higher", "lower")]
    if all(p.p_holm is None for p in against):
        return Verdict(
            "unclear",
            f"No difference can be shown from one seed: {leader}",
            "Nothing can be said about other seeds: runs of one config differ from seed to seed, and by how much takes "
            "at least two seeds of both arms (five are better): the same command with seed=0,1,2,3,4.",
        )
    if len(clear) == len(others):
        detail = "After Holm's correction each difference is shown (t test over seeds, p < 0.05)."
        apart = f", apart from all {len(others)} other arms" if len(others) > 1 else ""
        return Verdict("better", leader + apart, detail)
    unclear = [_called(p.b if p.a.number == first.number else p.a) for p in against if p not in clear]
    named = f"{len(unclear)} other arms" if len(unclear) > 4 else ", ".join(unclear)
    detail = f"No difference is shown between it and {named} (t test over seeds, Holm)."
    if clear:
        return Verdict("unclear", f"{leader}, apart from {len(clear)} of {len(others)} other arms", detail)
    return Verdict("unclear", f"No difference shown: {leader}", detail)


def _called(arm: Arm) -> str:
    return f"Arm {arm.number} ({arm.short})" if " " in arm.short else arm.short


def _names(compared: Compared) -> str:
    names = dict.fromkeys(str(run.config.get("name") or run.id.partition("/")[0]) for run in compared.runs)
    listed = list(names)
    return ", ".join(listed[:3]) + (f" and {len(listed) - 3} more" if len(listed) > 3 else "")


def _row(compared: Compared, arm: Arm) -> dict[str, object]:
    cells = []
    for key in compared.metrics:
        found = estimate(arm, key)
        part = f"{found.n} of {found.of}" if found.n < found.of else ""
        text, bounds = number(found.value, key), interval(found, key)
        cells.append({"key": found.value, "value": text, "interval": bounds, "part": part})
    return {
        "number": arm.number,
        "short": arm.short,
        "colour": colour(arm),
        "values": [
            {"key": arm.values[c], "value": said(arm.values[c]), "word": not is_number(arm.values[c])}
            for c in compared.columns
        ],
        "seeds": estimate(arm, compared.main).of,
        "cells": cells,
    }


def _run(compared: Compared, arm: Arm, run: Run) -> dict[str, object]:
    value = run.summary.get(compared.main)
    shown_value = number(value, compared.main) if is_number(value) else "–"
    commit = (run.commit or "–")[:10]
    return {"run": run, "arm": arm.number, "value": shown_value, "commit": commit}


def _pairs(compared: Compared, key: str) -> dict[str, object]:
    """Differences that are shown, and the others."""
    rows = [_pair(pair, key) for pair in compared.pairs[key]]
    clear = [row for row in rows if row["is_shown"]]
    return {
        "metric": headed(key),
        "told": clear if len(rows) > 10 else rows,
        "rest": [row for row in rows if not row["is_shown"]] if len(rows) > 10 else [],
        "count": len(rows),
    }


def _pair(pair: Pair, key: str) -> dict[str, object]:
    return {
        "a": pair.a,
        "b": pair.b,
        "a_colour": colour(pair.a),
        "b_colour": colour(pair.b),
        "difference": told(pair, key),
        "n": pair.n,
        "p": probability(pair.p),
        "holm": probability(pair.p_holm),
        "flip": probability(pair.p_sign_flip),
        "says": sentence(pair),
        "is_shown": pair.finding in ("higher", "lower"),
    }


def _learning(compared: Compared, keys: Sequence[str]) -> list[dict[str, object]]:
    """A chart a metric where the arms fit on one, else a panel an arm for each metric."""
    drawn: list[dict[str, object]] = []
    for key in keys:
        found = [(arm, one) for arm in compared.arms if (one := series(arm, key)).points]
        if not found:
            continue
        lines, label, unit = [one for _, one in found], f"{key} by iteration", unit_of(key)
        if len(compared.arms) <= OVERLAID:
            charts = [{"title": headed(key), "svg": curves(lines, unit=unit, label=label), "colour": ""}]
        else:
            shown = panels(lines, unit=unit, label=label, count=PANELS)
            charts = [
                {"title": f"{arm.number} {arm.short}", "svg": svg, "colour": colour(arm)}
                for (arm, _), svg in zip(found, shown, strict=False)
            ]
        drawn.append({"metric": headed(key), "panels": charts, "more": max(0, len(found) - PANELS)})
    return drawn


def _parameters(compared: Compared) -> list[dict[str, str]]:
    """Each column against the main metric: numbers as a curve, words as lines of dots."""
    drawn = []
    for column in compared.columns:
        chart = parameter(compared.runs, column, compared.main)
        if chart is None and len(compared.columns) > 1:
            groups = sorted(arms_of(compared.runs, [column]), key=lambda arm: said(arm.values[column]))
            chart = forest(groups[:16], compared.main, numbered=False)
        if chart is not None:
            drawn.append({"column": column, "chart": chart})
    return drawn
