from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

from mmo_rl.report.html import write_report
from mmo_rl.report.run_folder import RunFolder
from mmo_rl.report.summary import Evaluations, build_summary
from mmo_rl.types import JudgeUsage, Measured, Rollout
from tests.harness.browser import browse, needs_browser

HOSTILE = "</script><script>throw 1</script><img src=http://evil.example/x>"


class Page(HTMLParser):
    """What a page holds, by parsing it: its text, what it would fetch, and its embedded data."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text = ""
        self.fetches: list[str] = []
        self.tags: list[str] = []
        self.data = ""
        self._in_data = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.tags.append(tag)
        self.fetches += [v for k, v in attrs if k in ("src", "href", "srcset", "action") and v is not None]
        self._in_data = tag == "script" and values.get("id") == "data"

    def handle_endtag(self, tag: str) -> None:
        self._in_data = False

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._in_data:
            self.data += data


def measured(mean: float, *, markets: int = 8) -> Measured:
    return Measured("p", "sampled", tuple(Rollout(m, a, mean + m, 10, 1) for m in range(markets) for a in range(2)))


def finished(path: Path) -> RunFolder:
    folder = RunFolder(path)
    summary = build_summary(
        selections=[],
        rejected={"no_steps": 2},
        usage=JudgeUsage(calls=12, cost_usd=0.5),
        unscored=1,
        trained=[],
        evaluations=Evaluations(
            base=measured(20),
            trained=measured(50),
            base_greedy=measured(30),
            trained_greedy=measured(40),
            oracle=measured(90),
        ),
        stage_seconds={"judge": 1.0, "train": 3.0, "total": 4.0},
        seed=0,
    )
    with folder.locked():
        folder.set_status("running")
        folder.write_overrides(["seed=0", "name=a b"])
        folder.write_config({"name": "pilot", "seed": 0, "judge": {"api_key": "sesame-open"}})
        folder.write_provenance({"git": {"commit": "abc123", "dirty": True, "patch": "git.patch"}, "seeds": {"run": 7}})
        for i in range(4):
            folder.append(
                "metrics",
                {"iteration": i, "play/pnl": 10.0 * i, "play/pnl_low": 10.0 * i - 5, "play/pnl_high": 10.0 * i + 5}
                | {"train/entropy": 3.0 - i, "train/odd_thing": i * i, "train/tokens": 100, "time/train_s": 1.0},
            )
        folder.write_summary(summary)
        folder.set_status("done")
    return folder


def test_the_page_says_what_the_run_came_to(tmp_path: Path) -> None:
    folder = finished(tmp_path / "pilot" / "k1")
    path = write_report(folder)
    assert path == folder.report_path
    assert path.stat().st_size < 150_000
    page = Page(path.read_text("utf-8"))
    for expected in (
        "The trained policy earns more: +$30.0 per agent and market",
        "greedy decoding",
        "P&L of the play it learnt from",
        "Odd thing",
        "mmo-rl seed=0 'name=a b'",
        "abc123, with changes (git.patch)",
        "Unreadable: 2 (no steps)",
        "job k1",
    ):
        assert expected in page.text, expected
    assert "Trained tokens" not in page.text  # it never changed
    assert "sesame-open" not in page.text


def test_the_numbers_are_inside_and_nothing_is_fetched(tmp_path: Path) -> None:
    folder = finished(tmp_path / "pilot" / "k1")
    html = write_report(folder).read_text("utf-8")
    page = Page(html)
    assert page.fetches == ["data:,"]
    assert not re.search(r"@import|url\(", html)
    data = json.loads(page.data)
    assert data["summary"] == folder.summary()
    assert data["metrics"] == folder.read("metrics")
    assert "$10 ($5 to $15)\niteration 2" in page.text
    assert html.count("\niteration 2</title>") == 2 * page.tags.count("figure"), "at the dot and in its column"


def test_an_oracle_far_away_is_named_and_not_drawn(tmp_path: Path) -> None:
    folder = finished(tmp_path / "pilot" / "k1")
    assert 'stroke="var(--oracle)"' in write_report(folder).read_text("utf-8")
    folder.write_summary({**(folder.summary() or {}), "eval/pnl_oracle": 5000.0})
    html = write_report(folder).read_text("utf-8")
    assert 'stroke="var(--oracle)"' not in html
    assert "$5,000, far off this scale" in html


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    folder = finished(tmp_path / "pilot" / "k1")
    folder.write_overrides([f"name={HOSTILE}"])
    folder.write_config({"note": HOSTILE})
    folder.append("metrics", {"iteration": 4, f"train/{HOSTILE}": 1.0, "note": HOSTILE})
    summary = folder.summary() or {}
    folder.write_summary({**summary, f"data/rejected/{HOSTILE}": 1, f"data/excluded/{HOSTILE}": 3})
    page = Page(write_report(folder, command=HOSTILE).read_text("utf-8"))
    assert page.fetches == ["data:,"]
    assert page.tags.count("script") == 2
    assert "img" not in page.tags
    assert json.loads(page.data)["metrics"][4]["note"] == HOSTILE


def test_a_run_that_failed_early_has_a_page_too(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "pilot" / "k1")
    with folder.locked():
        folder.set_status("running")
        folder.set_status("failed", error="the database went away")
    page = Page(write_report(folder).read_text("utf-8"))
    assert "the database went away" in page.text
    assert "No iteration has finished" in page.text
    assert "Not evaluated" in page.text
    assert "failed" in page.text


def test_one_iteration_and_one_market_make_a_page(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "pilot" / "k1")
    folder.append("metrics", {"iteration": 0, "play/pnl": 3.0, "play/pnl_low": None, "play/pnl_high": None})
    folder.write_summary(
        build_summary(
            selections=[],
            rejected={},
            usage=JudgeUsage(cost_usd=None),
            unscored=0,
            trained=[],
            evaluations=Evaluations(base=measured(1, markets=1), trained=measured(2, markets=1)),
            stage_seconds={},
            seed=0,
        )
    )
    page = Page(write_report(folder).read_text("utf-8"))
    assert "one market only" in page.text
    assert "unknown" in page.text  # the judge's cost


@needs_browser
def test_a_browser_shows_it_without_complaint(tmp_path: Path) -> None:
    path = write_report(finished(tmp_path / "pilot" / "k1"))
    dom, console = browse(path.as_uri(), tmp_path / "profile")
    assert console == []
    assert "The trained policy earns more" in dom
    broken = tmp_path / "broken.html"
    broken.write_text(
        path.read_text("utf-8").replace("<main>", '<main><img src="http://127.0.0.1:9/x.png">'), encoding="utf-8"
    )
    assert any("Content Security Policy" in line for line in browse(broken.as_uri(), tmp_path / "profile2")[1])
