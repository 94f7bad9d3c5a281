import io
from datetime import UTC, datetime

from mmo_rl.clock import window_at
from mmo_rl.report.iteration import iteration_metrics
from mmo_rl.report.selection import print_selection, selection_rows
from mmo_rl.report.summary import Evaluations, build_summary
from mmo_rl.terminal import Terminal
from mmo_rl.types import JudgeUsage, PolicyVersion, SelectedWindow, Selection, Trained

WINDOW = window_at(datetime(2025, 6, 1, 10, tzinfo=UTC), 1.0)
SELECTION = Selection(
    iteration=0,
    windows=(SelectedWindow(WINDOW, ("a", "b"), "bull"), SelectedWindow(WINDOW, ("c",), "bear")),
    windows_available=7,
    available=5,
    dropout_rate=0.3,
    dropped=2,
    excluded={"too_few_agents": 4, "held_out": 1200},
    agents={"x": (3, 1), "y": (2, 2)},
)
TRAINED = Trained(PolicyVersion("p", 1, "weights"), 3, 100, 0, {})


def test_everything_that_was_left_out_has_a_row_and_a_reason() -> None:
    summary = build_summary(
        selections=[SELECTION],
        rejected={"not JSON": 6},
        usage=JudgeUsage(),
        unscored=0,
        trained=[TRAINED],
        evaluations=Evaluations(),
        stage_seconds={},
        seed=0,
    )
    assert (summary["data/windows_used"], summary["data/agents"]) == (1, 2)
    console = Terminal(file=io.StringIO(), width=100)
    print_selection(console, summary)
    assert isinstance(console.file, io.StringIO)
    assert [line.strip() for line in console.file.getvalue().splitlines() if line.strip()] == [
        "Trajectories",
        "3  used, in 1 of 7 windows",
        "2  dropped by dropout, at a rate of 0.30",
        "1,200  held out (the newest windows)",
        "4  of windows with too few agents",
        "6  rejected: not JSON",
        "2 agents; the one with the most has 60.0% of what was available, 66.7% of what was used",
    ]


def test_an_iteration_reports_the_same() -> None:
    row = iteration_metrics(selection=SELECTION, scored=[], trained=TRAINED, stage_seconds={}, seed=0)
    assert row["data/windows_used"] == 1
    assert row["data/excluded/held_out"] == 1200
    assert row["data/largest_agent_share_before"] == 0.6


def test_nothing_selected_prints_nothing() -> None:
    console = Terminal(file=io.StringIO(), width=100)
    print_selection(console, {})
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue() == ""


def test_dropout_that_never_began_says_when_it_would() -> None:
    counts = {"data/trajectories_used": 8, "data/windows_used": 1, "data/windows_available": 1}
    rows = selection_rows(counts | {"data/trajectories_dropped": 0, "data/dropout_rate": 0.0})
    assert ("0", "dropped by dropout, which begins above sampler.target_trajectories an iteration") in rows
    assert len(selection_rows(counts)) == 1
