"""Verdict of evaluate=recorded against play in the simulated market: rank correlation over policies, false verdicts.

    python benchmarks/recorded_evaluation.py --runs 'runs/offline*/*' --json

Each run has been trained with evaluate=recorded. Its last checkpoint plays held-out markets against the base model; the
true change in P&L is ranked against the rank agreement and the margin that the run found on recorded decisions.
"""

from __future__ import annotations

import argparse
import asyncio
import glob
import json
import sys
from pathlib import Path

import yaml

from mmo_rl.evaluate.base import EvaluatorParts
from mmo_rl.evaluate.market import MarketEvaluator
from mmo_rl.lm.model import SHIPPED, ModelSpec, find_checkpoint
from mmo_rl.market.arena import MarketArena
from mmo_rl.market.spec import MarketSpec
from mmo_rl.policy.local import open_policy
from mmo_rl.stats.bootstrap import paired_difference
from mmo_rl.types import PolicyVersion

CONF = Path(__file__).parents[1] / "conf"


def spearman(first: list[float], second: list[float]) -> float | None:
    """Rank correlation of Spearman; None for fewer than three."""
    from scipy.stats import spearmanr

    return float(spearmanr(first, second).statistic) if len(first) > 2 else None


async def measure(folders: list[Path], *, markets: int, seed: int) -> list[dict[str, object]]:
    """Plays every run's last checkpoint; returns its numbers on recorded play and in the market."""
    keys = yaml.safe_load((CONF / "model" / "tiny.yaml").read_text())
    spec = ModelSpec(**{k: keys[k] for k in ("name", "base_model", "context_length", "max_completion_tokens")})
    evaluator = MarketEvaluator(
        markets=markets, agents=4, seed=seed, parts=EvaluatorParts(arena=MarketArena(spec=MarketSpec()))
    )
    base = await evaluator.evaluate(open_policy(PolicyVersion("tiny", 0, str(SHIPPED / "tiny")), spec), "sampled")
    rows: list[dict[str, object]] = []
    for folder in folders:
        summary = json.loads((folder / "summary.json").read_text())
        if summary.get("eval/recorded/rank_agreement") is None:
            continue
        checkpoint = find_checkpoint(str(folder), name="tiny")
        trained = await evaluator.evaluate(open_policy(checkpoint, spec), "sampled")
        true = paired_difference(base, trained, "pnl", seed=seed)
        low, high = (summary[f"eval/recorded/rank_agreement_{side}"] for side in ("low", "high"))
        rows.append(
            {
                "run": str(folder),
                "rank_agreement": summary["eval/recorded/rank_agreement"],
                "margin": summary["eval/recorded/margin"],
                "reward_change": summary["eval/recorded/reward_change"],
                "verdict": "better" if low > 0 else "worse" if high < 0 else "unclear",
                "pnl": true.estimate,
                "truth": "better" if true.low > 0 else "worse" if true.high < 0 else "unclear",
            }
        )
        print(json.dumps(rows[-1]), file=sys.stderr)
    return rows


def main() -> None:
    """Prints one JSON object, or a line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", default="runs/recorded*/*")
    parser.add_argument("--markets", type=int, default=64)
    parser.add_argument("--seed", type=int, default=1000)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    folders = sorted(path for name in glob.glob(options.runs) if (path := Path(name) / "summary.json").is_file())
    rows = asyncio.run(measure([path.parent for path in folders], markets=options.markets, seed=options.seed))
    pnl = [float(str(row["pnl"])) for row in rows]
    result = {
        "policies": len(rows),
        "rank_agreement_against_pnl": spearman([float(str(row["rank_agreement"])) for row in rows], pnl),
        "margin_against_pnl": spearman([float(str(row["margin"])) for row in rows], pnl),
        "false_verdicts": sum({row["verdict"], row["truth"]} == {"better", "worse"} for row in rows),
        "unclear_verdicts": sum(row["verdict"] == "unclear" for row in rows),
        "rows": rows,
    }
    print(json.dumps(result) if options.json else {key: value for key, value in result.items() if key != "rows"})


if __name__ == "__main__":
    main()
