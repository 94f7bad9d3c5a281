"""report.html: one self-contained page that shows what a run came to, made from the files of its folder alone."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from mmo_rl.numbers import finite_number
from mmo_rl.report.charts.curves import Point, Series, curves, points_of
from mmo_rl.report.charts.dot_plot import Dot, dot_plot
from mmo_rl.report.judged_page import about_judge, judged_lines
from mmo_rl.report.judging import most_disputed
from mmo_rl.report.mask import mask_tree
from mmo_rl.report.numbers import MISSING, Unit, amount, short
from mmo_rl.report.page import page
from mmo_rl.report.planned import planned_lines
from mmo_rl.report.provenance import repeat_command
from mmo_rl.report.run_folder import RunFolder, jsonable
from mmo_rl.report.summary import DECODINGS
from mmo_rl.report.words import Line, lines, run_verdict
from mmo_rl.types import JsonDict


@dataclass(frozen=True, slots=True)
class Curve:
    """A metric of metrics.jsonl as a chart: its title and unit, and how to read it."""

    key: str
    title: str
    unit: Unit = ""
    note: str = ""


@dataclass(frozen=True, slots=True)
class Chart:
    """A drawn curve; ``last`` is its latest value."""

    curve: Curve
    points: tuple[Point, ...]
    last: str
    svg: str


CURVES = (
    Curve("play/pnl", "P&L of the play it learnt from", "usd", "per agent and window, before training on it"),
    Curve("play/win_rate", "Win rate", "share", "agents that ended a window above 0"),
    Curve("play/error_rate", "Error rate", "share", "failed actions; lower is better"),
    Curve("judge/score_mean", "Judge's mean score", "", "in [0, 1], relative inside a group"),
    Curve("judge/score_std", "Spread of scores in a group", "", "no spread, no signal"),
    Curve("judge/oracle_tau", "Judge's agreement with the oracle", "", "Kendall's tau-b inside windows, -1 to 1"),
    Curve("judge/pnl_tau", "Judge's agreement with P&L", "", "Kendall's tau-b inside windows, -1 to 1"),
    Curve("train/reward_mean", "Mean reward", "", "of all that was judged; relative inside a group"),
    Curve("train/zero_variance_share", "Groups without contrast", "share", "equal rewards, nothing to learn"),
    Curve("train/entropy", "Entropy", "", "nats a token; a collapse to 0 ends exploration"),
    Curve("train/kl", "KL divergence", "", "from the policy that played"),
    Curve("train/kl_base", "KL divergence from the base", "", "k3 estimate over the trained tokens"),
    Curve("train/loss", "Loss"),
    Curve("train/grad_norm", "Gradient norm", "", "before clipping"),
    Curve("train/unknown_logprobs_share", "Tokens with unknown logprobs", "share", "see trainer.missing_logprobs"),
    Curve("train/clip_fraction", "Clipped tokens", "share", "moved further than one update may"),
    Curve("train/unclipped_tokens_share", "Tokens trained without a clip", "share", "as plain REINFORCE"),
    Curve("train/stale_tokens_share", "Answers of other policies", "share", "of the tokens whose policy is known"),
    Curve("train/version_lag", "Policy lag", "", "versions between who answered and who is trained"),
    Curve("train/gradient_steps", "Gradient steps"),
    Curve("train/tokens", "Trained tokens"),
    Curve("train/tokens_per_s", "Trained tokens a second"),
)
STEADY = frozenset({"train/gradient_steps", "train/tokens", "train/groups_skipped_zero_variance"})
"""Counters that are a chart only where they change."""
ORACLE_REACH = 2.5
"""Times the policies' best P&L up to which the oracle is drawn to their scale."""
PLOT_WIDTH = 680.0


def write_report(folder: RunFolder, *, command: str | None = None) -> Path:
    """Writes and returns report.html of ``folder``, finished or not; ``command`` is what runs it again (default:
    mmo-rl with the folder's overrides). The page needs no network and no server; its numbers are inside as JSON."""
    return folder.write_text("report.html", render(folder, command=command))


def render(folder: RunFolder, *, command: str | None = None) -> str:
    """The page as text."""
    summary = folder.summary() or {}
    rows = folder.read("metrics")
    charts = learning_curves(rows)
    return page(
        "report.html.j2",
        name=folder.path.parent.name,
        job=folder.path.name,
        overrides=folder.overrides(),
        status=_status(folder),
        verdict=run_verdict(summary),
        table=[(decoding, lines(summary, decoding)) for decoding in DECODINGS if lines(summary, decoding)],
        plot=_pnl_plot(summary),
        oracle=_oracle_note(summary),
        tiles=_tiles(summary),
        markets=summary.get("eval/markets"),
        agents=summary.get("eval/agents"),
        charts=charts,
        trajectories=_trajectories(summary),
        windows=(summary.get("data/windows_used"), summary.get("data/windows_available")),
        dropout=amount(finite_number(summary.get("data/dropout_rate")), "share"),
        rejected={reason: _count(n) for reason, n in _under(summary, "data/rejected/").items()},
        judge=_judge(summary),
        judged=judged_lines(summary),
        about_judge=about_judge(folder.config()),
        disputed=most_disputed(folder.read("judgments")),
        planned=planned_lines(folder.plan(), summary),
        stages=_stages(summary),
        total=_seconds(finite_number(summary.get("time/total_s"))),
        config=_yaml(folder.config()),
        provenance=_provenance(folder.provenance()),
        command=command or repeat_command(folder),
        summary=sorted(summary.items()),
        data=_embedded(summary, rows),
    )


def learning_curves(rows: Sequence[Mapping[str, object]]) -> list[Chart]:
    """The known curves that have data, then whatever else the trainer reported that changes over the iterations."""
    known = {c.key for c in CURVES}
    others = sorted({k for row in rows for k in row if k.startswith("train/")} - known - STEADY)
    others = [k for k in others if not k.endswith(("_low", "_high"))]
    titled = [Curve(k, k.removeprefix("train/").replace("_", " ").replace("/", ", ").capitalize()) for k in others]
    measured = [(curve, points_of(rows, curve.key)) for curve in (*CURVES, *titled)]
    return [
        _chart(curve, points)
        for curve, points in measured
        if any(point.value is not None for point in points)
        and (curve.key in {"play/pnl", "judge/score_mean"} or _changes(curve, points))
    ]


def _changes(curve: Curve, points: Sequence[Point]) -> bool:
    values = {point.value for point in points}
    return len(values) > 1 or (curve.key not in STEADY and curve.key.startswith(("play/", "judge/")))


def _chart(curve: Curve, points: tuple[Point, ...]) -> Chart:
    last = short(next((p.value for p in reversed(points) if p.value is not None), None), curve.unit)
    drawn = curves(
        [Series("", "var(--trained)", points)], unit=curve.unit, label=f"{curve.title} by iteration, last {last}"
    )
    return Chart(curve, points, last, drawn)


def _pnl_plot(summary: Mapping[str, object]) -> str | None:
    """Base against trained as dots with intervals, and the oracle as a line where it is near enough."""
    dots = []
    for decoding, prefix in DECODINGS.items():
        for player in ("base", "trained"):
            value, low, high = (
                finite_number(summary.get(f"{prefix}pnl_{player}{end}")) for end in ("", "_low", "_high")
            )
            if value is None:
                continue
            bounded = low is not None and high is not None
            dots.append(
                Dot(
                    label=f"{player}, {decoding}",
                    value=value,
                    low=low,
                    high=high,
                    text=amount(value, "usd"),
                    interval=f"{amount(low, 'usd')} to {amount(high, 'usd')}" if bounded else "",
                    colour=f"var(--{player})",
                )
            )
    if not dots:
        return None
    oracle = finite_number(summary.get("eval/pnl_oracle"))
    near = oracle is not None and _is_near(oracle, summary)
    label = "P&L of base and trained policy with 95% intervals"
    return dot_plot(dots, unit="usd", label=label, wide=PLOT_WIDTH, reference=oracle if near else None)


def _is_near(oracle: float, summary: Mapping[str, object]) -> bool:
    """Tells an oracle that can be drawn to the policies' scale: one far beyond would press them into one spot."""
    bounds = [
        finite_number(summary.get(f"{prefix}pnl_{player}{end}"))
        for prefix in DECODINGS.values()
        for player in ("base", "trained")
        for end in ("", "_high")
    ]
    return oracle <= ORACLE_REACH * max([0.0, *(bound for bound in bounds if bound is not None)])


def _oracle_note(summary: Mapping[str, object]) -> str:
    oracle = finite_number(summary.get("eval/pnl_oracle"))
    if oracle is None:
        return ""
    far = "" if _is_near(oracle, summary) else ", far off this scale"
    return f"an oracle that knows the future earns {amount(oracle, 'usd')}{far}"


def _tiles(summary: Mapping[str, object]) -> list[Line]:
    for decoding in DECODINGS:
        if found := lines(summary, decoding):
            return [line for line in found if not line.label.startswith("P&L")]
    return []


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a stacked bar: ``pct`` percent of the whole, with the value as text."""

    label: str
    value: float
    pct: float
    text: str


def parts_of(amounts: Mapping[str, float], *, text: Callable[[float], str] = "{:,.0f}".format) -> list[Part]:
    """Positive amounts as parts of their sum."""
    total = sum(v for v in amounts.values() if v > 0)
    return [Part(k, v, round(100 * v / total, 3), text(v)) for k, v in amounts.items() if v > 0]


def _trajectories(summary: Mapping[str, object]) -> list[Part]:
    counts = {
        "trained on": finite_number(summary.get("data/trajectories_used")) or 0,
        "dropped out": finite_number(summary.get("data/trajectories_dropped")) or 0,
    }
    return parts_of(counts | {k.replace("_", " "): v for k, v in _under(summary, "data/excluded/").items()})


def _under(summary: Mapping[str, object], prefix: str) -> dict[str, float]:
    """The numbers of the keys that begin with ``prefix``."""
    found = {k.removeprefix(prefix): finite_number(v) for k, v in summary.items() if k.startswith(prefix)}
    return {key: value for key, value in found.items() if value is not None}


def _judge(summary: Mapping[str, object]) -> list[tuple[str, str, bool]]:
    """(label, number, True where the number asks for attention)."""

    def number(key: str) -> float | None:
        return finite_number(summary.get(key))

    tokens = [t for t in (number("judge/prompt_tokens"), number("judge/completion_tokens")) if t is not None]
    cost, unscored = number("judge/cost_usd"), number("judge/unscored")
    long, unclipped = number("train/histories_too_long"), number("train/unclipped_tokens_share")
    return [
        ("calls", _count(number("judge/calls")), False),
        ("from the cache", _count(number("judge/cache_hits")), False),
        ("tokens", _count(sum(tokens) or None), False),
        ("cost", "unknown" if cost is None else f"${cost:,.2f}", False),
        ("unscored", _count(unscored), bool(unscored)),
        ("groups without signal", _count(number("train/groups_skipped_zero_variance")), False),
        ("gradient steps", _count(number("train/gradient_steps")), False),
        ("trained tokens", _count(number("train/tokens")), False),
        *([("histories longer than the context", _count(long), True)] if long else []),
        *([("tokens trained without a clip", amount(unclipped, "share"), True)] if unclipped else []),
    ]


def _stages(summary: Mapping[str, object]) -> list[Part]:
    times = {k.removesuffix("_s"): v for k, v in _under(summary, "time/").items() if k != "total_s"}
    return parts_of(times, text=_seconds)


def _seconds(seconds: float | None) -> str:
    if seconds is None:
        return MISSING
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _count(value: float | None) -> str:
    return MISSING if value is None else f"{value:,.0f}"


def _status(folder: RunFolder) -> dict[str, str]:
    status = folder.status() or {}
    started = status.get("started")
    return {
        # The page is written by the run itself, whose last act it is.
        "status": "done" if folder.summary() is not None else str(status.get("status", "not started")),
        "started": f"{datetime.fromisoformat(started):%Y-%m-%d %H:%M} UTC" if started else "",
        "error": str(status.get("error") or ""),
    }


def _provenance(provenance: JsonDict | None) -> list[tuple[str, str]]:
    if provenance is None:
        return []
    git = provenance.get("git") or {}
    commit = git.get("commit") or f"none ({git.get('unavailable', 'unknown')})"
    if git.get("dirty"):
        commit += ", with changes" + (" (git.patch)" if git.get("patch") else "")
    data = provenance.get("data") or {}
    packages = provenance.get("packages") or {}
    named = ("mmo-rl", "openpipe-art", "torch", "transformers", "wandb")
    return [
        ("commit", commit),
        ("config", str(provenance.get("config_sha256", ""))[:16]),
        ("seeds", ", ".join(f"{k} {v}" for k, v in (provenance.get("seeds") or {}).items())),
        ("data", ", ".join(f"{k} {str(v)[:16]}" for k, v in data.items()) or MISSING),
        ("python", f"{provenance.get('python')} on {provenance.get('platform')}"),
        ("packages", ", ".join(f"{n} {packages[n]}" for n in named if n in packages) or f"{len(packages)}"),
    ]


def _yaml(config: Mapping[str, object] | None) -> str:
    import yaml  # type: ignore[import-untyped]

    return "" if config is None else yaml.safe_dump(mask_tree(config), sort_keys=False, allow_unicode=True)


def _embedded(summary: Mapping[str, object], rows: Sequence[Mapping[str, object]]) -> str:
    """The page's data as JSON that cannot end its script element."""
    content = {"summary": summary, "metrics": rows}
    text = json.dumps(jsonable(content), allow_nan=False, separators=(",", ":"))
    return re.sub(r"[<>&]", lambda m: f"\\u{ord(m.group()):04x}", text)
