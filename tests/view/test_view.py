"""The viewer on a real run: pages of a server, pages as files, a window in the terminal; recorded text stays text."""

from __future__ import annotations

import html
import json
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote, unquote

import httpx
import pytest

from mmo_rl.clock import milliseconds, window_at
from mmo_rl.config.composition import compose
from mmo_rl.types import Action, GroundTruth, Group, LLMCall, Step, TickerOutcome, Trajectory
from mmo_rl.view.library import Library, Seen
from mmo_rl.view.pages import run_page, runs_page, trajectory_page, window_page
from mmo_rl.view.places import Place, file_name, relative
from mmo_rl.view.window import window_view
from mmo_rl.vocabulary import SHIPPED
from tests.harness.browser import browse, needs_browser
from tests.harness.config import compose_settings
from tests.harness.endpoint import Endpoint, Reply, Request, completion, serving
from tests.harness.project import Output, Project

SMALL = ("name=looked", "report=local", "collect.windows=2", "collect.agents=4", "market.ticks=4", "iterations=2",
         "sampler.min_agents=2", "sampler.min_actions=1", "evaluate=none")  # fmt: skip
HOSTILE = "<script>throw 1</script><img src=http://evil.example/x onerror=alert(1)>\"' \u202eexe.txt \ud83d \x1b[31m"
WINDOW = window_at(datetime(2026, 1, 31, 18, tzinfo=UTC), 1.0)


@pytest.fixture(scope="module")
def judge() -> Iterator[Endpoint]:
    def script(request: Request, number: int) -> Reply:
        scores = [
            {"trajectory_id": i, "score": int(i) / 10, "explanation": f"place {i} of <b>{number}</b>"}
            for i in request.ids
        ]
        return completion(json.dumps({"scores": scores}))

    with serving(Endpoint(script)) as endpoint:
        yield endpoint


@pytest.fixture(scope="module")
def judging(judge: Endpoint) -> tuple[str, ...]:
    """A judge that is a language model, as overrides."""
    return ("judge=ruler", "judge.model=judge-1", f"judge.endpoint.base_url={judge.url}")


@pytest.fixture(scope="module")
def looked_at(tmp_path_factory: pytest.TempPathFactory, scratch: Path, judging: tuple[str, ...]) -> Project:
    """A project with a finished run that a language model judged, and one that failed."""
    root, home = tmp_path_factory.mktemp("looked-at"), scratch / "looked-at"
    project = Project.at(root, home)
    project.run(*SMALL, *judging)
    project.run("name=failed", "source=jsonl", "source.path=none.jsonl", "collect=none", "report=local", code=1)
    return project


@contextmanager
def served(project: Project, *arguments: str) -> Iterator[httpx.Client]:
    """A viewer at a free port, until the block ends; then it has stopped without a complaint."""
    with project.start("task=view", "view.port=0", *arguments) as process:
        try:
            output = Output(process)
            found = re.search(r"http://\S+?/", output.wait_for("pages at"))
            assert found is not None
            with httpx.Client(base_url=found[0]) as client:
                yield client
            process.send_signal(signal.SIGINT)
            code, told = output.rest()
            assert code == 0, told
        finally:
            process.kill()


def links(page: str) -> list[str]:
    return [link for link in re.findall(r'(?:href|src)="([^"]+)"', page) if not link.startswith("data:")]


# --- a server ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_every_page_is_reached_from_the_first_and_says_who_knew_what(
    looked_at: Project, judging: tuple[str, ...], tmp_path: Path
) -> None:
    (run,) = looked_at.folders("looked/*")
    rows = [json.loads(line) for line in (run / "judgments.jsonl").read_text().splitlines()]
    with served(looked_at, *judging) as viewer:
        seen: dict[str, str] = {}
        waiting = ["/"]
        while waiting:
            address = waiting.pop()
            answer = viewer.get(address)
            assert answer.status_code == 200, (address, answer.text)
            assert "script-src 'self';" in answer.headers["content-security-policy"]
            seen[address] = answer.text
            base = address.partition("?")[0]
            found = {link.partition("#")[0] or base for link in links(answer.text)}
            waiting += [link for link in found if link not in seen and link not in waiting]
        windows = {a for a in seen if "/runs/looked/" in a and "/windows/" in a and "agent=" not in a}
        agents = {a for a in seen if "/runs/looked/" in a and "agent=" in a}
        assert len(windows) == len({row["window_id"] for row in rows}) == 4
        assert len(agents) == len({row["trajectory_id"] for row in rows}) == 16
        first = seen[f"/runs/looked/{run.name}/windows/{rows[0]['window_id']}"]
        assert "Prompt of the judge" in first and "judge-1, 4 agents" in first  # the prompt that was sent
        assert html.escape(rows[0]["explanation"]) in first
        step = seen[f"/runs/looked/{run.name}/windows/{rows[0]['window_id']}?agent={quote(rows[0]['trajectory_id'])}"]
        assert "You trade." in step and "log probability" in step and "at this moment" in step
        assert "did not start" in seen["/"] or "failed" in seen["/"]
        assert viewer.get("/", params={"find": "looked"}).text.count("data-row") == 1

        # Not there, and not this viewer's.
        assert viewer.get("/runs/looked/none").status_code == 404
        assert viewer.get("/runs/..%2f..%2fetc/passwd").status_code == 404
        assert viewer.get("/windows/yesterday").status_code == 404
        assert viewer.get("/", headers={"host": "other.example"}).status_code == 421
        assert viewer.post("/").status_code == 405
        if browse_works := needs_browser.args[0] is False:
            dom, console = browse(str(viewer.base_url) + f"runs/looked/{run.name}", tmp_path / "profile", width=390)
            assert browse_works and console == [] and "Judged windows" in dom


@pytest.mark.slow
def test_a_token_is_asked_for(looked_at: Project) -> None:
    with served(looked_at.with_variables(VIEW_TOKEN="open-sesame"), "view.token_env=VIEW_TOKEN") as viewer:
        assert viewer.get("/").status_code == 401
        assert viewer.get("/", params={"token": "wrong"}).status_code == 401
        entered = viewer.get("/", params={"token": "open-sesame", "find": "a b"}, follow_redirects=True)
        assert entered.status_code == 200 and "token" not in str(entered.url)
        assert viewer.get("/").status_code == 200
    told = looked_at.run("task=view", "view.host=0.0.0.0", code=2)
    assert "no token is asked for" in told and "view.token_env=VIEW_TOKEN" in told


# --- files, and the terminal ------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_pages_as_files_lead_to_each_other(looked_at: Project, tmp_path: Path) -> None:
    output = tmp_path / "pages"
    told = looked_at.run("task=view", f"view.output={output}", "view.runs=runs/looked")
    assert str(output / "index.html") in told
    pages = sorted(output.rglob("*.html"))
    assert len(pages) == 2 + 1 + 4 + 16  # two lists, the run, its windows, their agents
    for page in pages:
        for link in links(page.read_text()):
            target, _, anchor = unquote(link).partition("#")
            there = page if not target else (page.parent / target).resolve()
            assert there.is_file(), (page, link)
            assert not anchor or anchor == "content" or f'id="{anchor}"' in there.read_text(), (page, link)


@pytest.mark.slow
def test_a_window_and_a_trajectory_in_80_columns(looked_at: Project) -> None:
    (run,) = looked_at.folders("looked/*")
    row = json.loads((run / "judgments.jsonl").read_text().splitlines()[0])
    narrow = looked_at.with_variables(COLUMNS="80")
    asked = ("task=view", "view.do=window", f"view.window={row['window_id']}")
    told = narrow.run(*asked, "view.runs=runs/looked")
    assert "judge" in told and row["explanation"] in told.replace("\n", " ")
    assert all(len(line) <= 80 for line in told.splitlines() if "#" in line)
    assert "judge" not in narrow.run(*asked).partition("\n")[2].partition("\n")[0]  # the column is the run's
    steps = narrow.run(*asked, "view.agent=agent-00")
    assert steps.count("said") == 4 and "oracle 0." in steps
    assert "has no window 2001-01-01T00:00" in narrow.run(*asked[:2], "view.window=2001-01-01T00:00", code=1)
    assert "view.window=2026-01-31T18:00" in narrow.run("task=view", "view.do=window", code=2)


# --- recorded text is data --------------------------------------------------------------------------------------------


def member(identity: str, *steps: Step, pnl: float | None = None) -> Trajectory:
    return Trajectory(identity, f"agent {identity}", WINDOW.id, WINDOW.start, WINDOW.end, steps, pnl, role=HOSTILE)


def step(number: int, action: Action, *, price: float = 100.0) -> Step:
    call = LLMCall(
        model=HOSTILE,
        response=HOSTILE,
        user_prompt=HOSTILE,
        reasoning=HOSTILE,
        token_ids=(1, 2),
        logprobs=(-0.1,),
        tool_calls=({"function": {"name": HOSTILE, "arguments": HOSTILE}},),
    )
    seen = {"tickers": {"NOVA": {"price": price}}, "note": HOSTILE}
    at = milliseconds(WINDOW.start) + 60_000 * number
    return Step(number, at, seen, action, llm_calls=(call,))


def hostile() -> Seen:
    buys = Action("TRADE", {"ticker": "NOVA", "side": "long", "amount": 2}, True, {"price": 100.0})
    sells = Action("TRADE", {"ticker": "NOVA", "side": "short", "amount": 1}, True, {"price": 105.0})
    fails = Action(HOSTILE, {"ticker": HOSTILE}, False, error=HOSTILE)
    members = (
        member("a", step(0, buys), step(1, fails, price=105.0), pnl=10.0),
        member("b" + HOSTILE, step(0, sells), pnl=-5.0),
    )
    truth = GroundTruth(WINDOW.id, (TickerOutcome("NOVA", 100.0, 110.0, (HOSTILE,)),))
    return Seen(
        group=Group(WINDOW.id, WINDOW, members, truth), iteration=None, rows={}, oracle={}, parts={}, gone=(HOSTILE,)
    )


def library(root: Path) -> Library:
    components = compose(compose_settings("task=view"))
    return Library(
        root=root,
        source=components.source,
        vocabulary=SHIPPED,
        rules=components.sampler.rules,
        judge=components.judge,
    )


def test_hostile_text_is_shown_and_does_nothing(tmp_path: Path) -> None:
    seen, place = hostile(), Place(group=WINDOW.id)
    shelf = library(tmp_path)
    pages = [window_page(shelf, seen, place, Place.url)]
    pages += [
        trajectory_page(shelf, seen, replace(place, trajectory=m.trajectory_id), Place.url) for m in seen.group.members
    ]
    for page in pages:
        assert "<script>throw" not in page and "<img" not in page
        assert page.count("<script") == 1 and "onerror=alert(1)&gt;" in page
        page.encode("utf-8")
        assert not [link for link in links(page) if "evil" in link and not link.startswith("/windows/")]


def test_prices_trades_and_outcomes_of_a_window() -> None:
    view = window_view(hostile(), SHIPPED)
    nova = view.instruments[0]
    assert nova.name == "NOVA" and nova.seen == ((0.0, 100.0), (1.0, 105.0))
    assert [(t.minute, t.direction, t.member) for t in nova.trades] == [(0.0, 1, 1), (0.0, -1, 2)]
    assert nova.end == 110.0 and "+10.0 %" in nova.outcome
    assert [m.failed for m in view.members] == [1, 0]
    assert [m.pnl.rank for m in view.members] == [1, 2]
    assert view.gone == (HOSTILE,)


def test_a_running_run_updates_itself_and_a_torn_one_is_no_obstacle(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "x" / "y"
    folder.mkdir(parents=True)
    (folder / "status.json").write_text('{"status": "failed", "started": "2026-01-31T18:00:00+00:00", "error": "no"}')
    (folder / "metrics.jsonl").write_text('{"iteration": 0, "play/pnl": 1.0}\n{"iteration": 1, "play/pnl": 2.0}\n{"it')
    shelf = library(tmp_path)
    assert "data-live" not in run_page(shelf, ("x", "y"), Place.url)
    assert "<polyline points=" in runs_page(shelf.runs(), Place.url)
    (folder / "overrides.yaml").write_text("[broken")
    assert "unreadable" in runs_page(shelf.runs(), Place.url)


@pytest.mark.parametrize("text", ["../../etc", "a/b", "..", "", "x" * 300, "é", "a.b", HOSTILE])
def test_every_id_has_a_file_name_of_its_own(text: str) -> None:
    name = file_name(text)
    assert re.fullmatch(r"[A-Za-z0-9_-]+", name) and len(name) <= 80
    assert name != file_name(text + "!")


def test_links_between_files_are_relative() -> None:
    here = Place(run=("a", "b"), group="2026-01-31T18:00", trajectory="t")
    assert relative(here)(Place()) == "../../../../../index.html"
    assert relative(here)(replace(here, trajectory="u")) == "u.html"
