"""The page about many runs, as a browser shows it: complete without a network or a script, sorted by a click."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from itertools import product
from pathlib import Path

import pytest

from mmo_rl.report.compare_page import arms_verdict, compare_page
from mmo_rl.report.compared import Compared, compare_runs
from mmo_rl.report.runs import Run
from tests.harness.browser import browse, needs_browser


def runs(rates: int, hours: int, seeds: int) -> list[Run]:
    """Larger rates cost less and earn less; seeds shift all arms alike, and each a little."""
    made = []
    for r, h, seed in product(range(rates), range(hours), range(seeds)):
        pnl = 1000.0 - 100 * r - 10 * h + 40 * seed + (7 * r + 3 * h + 5 * seed) % 4
        made.append(
            Run(
                id=f"g/{r}{h}{seed}",
                location=f"/runs/g/{r}{h}{seed}",
                state="done",
                seed=seed,
                config={"name": "<g>", "sampler.max_dropout": r / 10, "trainer.learning_rate": 10.0 ** (h - 5)},
                summary={
                    "eval/pnl_trained": pnl,
                    "eval/pnl_trained_low": pnl - 50,
                    "eval/pnl_trained_high": pnl + 50,
                    "eval/error_rate_trained": 0.01 * r,
                    "train/tokens": 100_000 - 9_000 * r,
                },
                rows=[{"iteration": i, "play/pnl": pnl * i / 5, "judge/score_mean": 0.5} for i in range(6)],
                commit="abcdef1234567890",
            )
        )
    return made


def compared(rates: int, hours: int, seeds: int) -> Compared:
    return compare_runs([*runs(rates, hours, seeds), Run(id="g/x", location="/x", state="failed", reason="<broke>")])


class Document(HTMLParser):
    """Counts elements and collects ids and addresses."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: set[str] = set()
        self.addresses: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.ids |= {value for name, value in attrs if name == "id" and value}
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "action", "data")]


@pytest.mark.parametrize(("rates", "hours", "seeds"), [(2, 1, 1), (2, 1, 3), (4, 3, 3), (1, 1, 2), (6, 5, 2)])
def test_the_page_has_every_part_that_the_runs_allow(rates: int, hours: int, seeds: int) -> None:
    arms = rates * hours
    page = compare_page(compared(rates, hours, seeds), command="mmo-rl task=compare 'compare.runs=runs/<g>'")
    document = Document(page)
    assert {"verdict", "forest", "arms", "left-out"} <= document.ids
    assert ("pairs" in document.ids) == (arms > 1)
    assert ("curves" in document.ids) is True
    assert ("parameters" in document.ids) == ("pareto" in document.ids) == ("parallel" in document.ids) == (arms > 1)
    assert page.count('<tr><td data-v="') == arms
    assert all(address.startswith(("#", "data:")) for address in document.addresses)
    assert "&lt;g&gt;" in page and "<g>" not in re.sub(r"<svg.*?</svg>", "", page, flags=re.DOTALL)
    assert "&lt;broke&gt;" in page


def test_the_verdict_claims_no_more_than_is_shown() -> None:
    one_seed = arms_verdict(compared(2, 1, 1))
    assert (one_seed.kind, one_seed.title) == (
        "unclear",
        "No difference can be shown from one seed: max_dropout=0 is highest: eval/pnl_trained $1,000",
    )
    clear = arms_verdict(compared(2, 1, 5))
    assert (clear.kind, clear.title) == ("better", "max_dropout=0 is highest: eval/pnl_trained $1,081")
    assert arms_verdict(compared(1, 1, 2)).title.startswith("One arm")
    same = compare_runs([*runs(1, 1, 2), *(r for r in runs(2, 1, 4) if r.config["sampler.max_dropout"] and r.seed)])
    assert arms_verdict(same).kind == "unclear"  # one seed in common


def test_a_metric_that_no_run_has_is_not_drawn() -> None:
    page = compare_page(compared(2, 1, 2), curve_keys=["play/nothing"])
    assert "Learning curves" not in page


@needs_browser
def test_a_browser_shows_it_without_complaint_and_sorts_by_a_click(tmp_path: Path) -> None:
    page = compare_page(compared(4, 3, 2))
    click = "document.querySelectorAll('#arms th')[2].click();"  # trainer.learning_rate
    measured = """
      for (const closed of document.querySelectorAll('details')) closed.open = true;
      document.title = JSON.stringify([
        [...document.querySelectorAll('#arms tbody tr')].map((row) => row.cells[2].dataset.v).join(),
        document.documentElement.scrollWidth <= window.innerWidth,
        [...document.querySelectorAll('figure > svg')].filter((s) => s.getBoundingClientRect().height > 100).length,
      ]);"""
    path = tmp_path / "compare.html"
    path.write_text(page.replace("</script>\n</body>", f"{click}{measured}</script>\n</body>"), encoding="utf-8")
    dom, console = browse(path.as_uri(), tmp_path / "profile", width=500)
    assert console == []
    title = dom.split("<title>")[1].split("</title>")[0]
    order = ",".join(value for value in ("0.001", "0.0001", "0.00001") for _ in range(4))
    assert (
        title.replace("1e-05", "0.00001") == f'["{order}",true,28]'
    )  # 2 x 12 panels, 2 parameters, the front, the strands
