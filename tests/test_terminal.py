"""Text of configs, recordings, judges and endpoints on the terminal and in the log: shown as it is, and harmless."""

from __future__ import annotations

import ast
import io
import logging
import re
from pathlib import Path

import pytest
from rich.table import Table
from rich.text import Text

from mmo_rl.cli.log_format import LineFormatter
from mmo_rl.cli.run_log import logging_to
from mmo_rl.cli.sweep import print_rows
from mmo_rl.plain_text import harmless, one_line, write_whatever_it_can
from mmo_rl.report.comparison import print_comparison
from mmo_rl.report.judged_page import print_judged
from mmo_rl.report.progress import Stages
from mmo_rl.report.run_folder import RunFolder
from mmo_rl.terminal import Terminal, progress_bars, styled
from tests.report.test_judging import rows

ROOT = Path(__file__).parents[1]
MARKUP = "[/red] [bold]x[/bold] :smile: [/]"
HOSTILE = "\x1b]0;title\x1b\\\x1b[2J\x9b31m\u202eexe.txt\u2066\ud83d"
SHOWN = "␛]0;title␛\\␛[2J�31m�exe.txt��"


def terminal(**options: bool) -> tuple[Terminal, io.StringIO]:
    out = io.StringIO()
    return Terminal(file=out, width=120, **options), out


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain text, émoji 🎉, 中文, −3 °", "plain text, émoji 🎉, 中文, −3 °"),
        (HOSTILE, SHOWN),
        ("a\tb\nc", "a\tb\nc"),
        ("\r\x00\x07\x7f\u2028", "␍␀␇␡�"),
        ("क्‍ष 👩‍👩‍👧", "क्‍ष 👩‍👩‍👧"),  # scripts and emoji that need joiners stay whole
    ],
)
def test_controls_are_shown_and_honest_text_stays(text: str, shown: str) -> None:
    assert harmless(text) == shown
    assert len(harmless(text)) == len(text)
    assert one_line(text) == shown.replace("\n", "\\n")


def test_every_way_to_the_terminal_shows_text_as_it_stands() -> None:
    console, out = terminal()
    for text in (MARKUP, HOSTILE):
        table = Table(text, title=text, caption=text)
        table.add_row(text)
        table.add_row(Text(text, style="bold"))
        table.add_row(styled((text, "red"), " and ", text))
        console.print(table)
        console.print(text, style="dim")
        console.print(Text(text))
        console.say(text)
    told = out.getvalue()
    assert told.count(MARKUP) == told.count(SHOWN) == 10
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", told)


def test_a_style_is_an_argument_and_comes_through() -> None:
    console, out = terminal(force_terminal=True)
    console.print(styled(("[good]", "green"), " plain"))
    console.print(Text("\x1b[31mred", style="bold"))
    assert "\x1b[32m[good]\x1b[0m plain" in out.getvalue()
    assert "\x1b[1m␛[31mred\x1b[0m" in out.getvalue()


def test_a_line_cannot_begin_another() -> None:
    console, out = terminal()
    console.say("unknown actions: buy\nREADY. Next: rm -r runs")
    print_rows(("job",), [["a\nb  done"]], console)
    assert "buy\\nREADY" in out.getvalue() and "a\\nb  done" in out.getvalue()


def test_bars_show_labels_as_they_stand() -> None:
    console, out = terminal(force_terminal=True)
    with Stages(console=console, iterations=2, label=MARKUP) as stages, stages.stage("judge", HOSTILE) as advance:
        advance(1, 2, "[/x]")
        stages.say(MARKUP)
        stages.next_iteration("[/x]")
    with progress_bars(console) as bars:
        bars.add_task(MARKUP, total=1)
    told = out.getvalue()
    assert MARKUP in told and SHOWN in told and "[/x]" in told and "\x1b]0" not in told


# --- where strangers met it -------------------------------------------------------------------------------------------


def test_swept_tags_are_told() -> None:
    console, out = terminal()
    print_rows(("job",), [["report.tags=[/x]"], ["report.tags=[b]"]], console)
    assert "report.tags=[/x]" in out.getvalue() and "report.tags=[b]" in out.getvalue()


def test_a_policy_with_brackets_is_compared() -> None:
    console, out = terminal()
    known = {"ab/better": None, "ab/looks": 1, "ab/interval_level": 0.95, "ab/paired": True, "ab/markets": 2}
    summary = {"ab/a": "base", "ab/b": "x[/y]", "ab/agents": 8, **known}
    print_comparison(console, summary, Path("/projects/exp[v2]/runs/a"))
    assert "B: x[/y]" in out.getvalue() and "/projects/exp[v2]/runs/a/report.html" in out.getvalue()


def test_a_role_with_brackets_ends_no_judging(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "exp[v2]")
    folder.append("judgments", *(row for row in rows("w[/red]", (0.2, 0.1, 1.0), (0.7, 0.9, 2.0))))
    console, out = terminal()
    print_judged(console, folder)
    assert "w[/red]" in out.getvalue() and str(folder.path / "judgments.jsonl") in out.getvalue()


# --- the log ----------------------------------------------------------------------------------------------------------


def test_a_message_forges_no_line_of_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # pytest-xdist cannot send what pytest's own would keep
    path = tmp_path / "log.txt"
    log = logging.getLogger("mmo_rl.test_terminal")
    log.setLevel(logging.INFO)
    forged = "2026-12-01 00:00:00,000 INFO mmo_rl: all is well"
    with logging_to(path):
        log.info("endpoint said %s", f"no\n{forged}{HOSTILE}")
        try:
            raise ValueError(f"no\n{forged}{HOSTILE}")
        except ValueError:
            log.info("failed", exc_info=True)
    written = path.read_text(encoding="utf-8")
    assert not [line for line in written.splitlines() if line.startswith(forged[:19])]
    assert f"no\\n{forged}{SHOWN}" in written and f"    {forged}{SHOWN}" in written and "\x1b" not in written


def test_each_handler_formats_a_traceback_itself() -> None:
    try:
        raise ValueError("a")
    except ValueError as error:
        record = logging.LogRecord("n", logging.INFO, "p", 1, "m", None, (type(error), error, None))
    logging.Formatter().format(record)  # leaves its own text of the traceback at the record
    assert LineFormatter("%(message)s").format(record) == "m\n    ValueError: a"


# --- a terminal that has no Unicode -----------------------------------------------------------------------------------


def test_an_ascii_terminal_gets_plainer_characters() -> None:
    written = io.BytesIO()
    stream = io.TextIOWrapper(written, encoding="ascii")
    write_whatever_it_can(stream)
    print("P&L \u2212$5 \u2192 better\u2026 \u6f22", file=stream, flush=True)
    assert written.getvalue() == b"P&L -$5 -> better... ?\n"
    utf8 = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="surrogateescape")
    write_whatever_it_can(utf8)
    assert utf8.errors == "surrogateescape"


# --- one way to the terminal ------------------------------------------------------------------------------------------

ALLOWED = {
    "Console": ("mmo_rl/terminal.py",),
    "Progress": ("mmo_rl/terminal.py",),
    "TextColumn": ("mmo_rl/terminal.py",),
    "from_markup": (),
    "render_markup": (),
    "StreamHandler": (),
    "Formatter": ("mmo_rl/cli/log_format.py",),
    "print": ("mmo_rl/__main__.py",),
}
"""Names of rich, logging and Python that write text of any kind, and the modules that may use them."""
TAG = re.compile(r"\[/?(?:bold|dim|red|green|yellow|cyan|blue|italic)\b[^]]*\]|\[/\]")


def names_used(tree: ast.AST) -> set[str]:
    """The names of functions that a module calls, and of classes that it imports or calls."""
    called = {
        node.func.id if isinstance(node.func, ast.Name) else node.func.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute)
        if not (isinstance(node.func, ast.Attribute) and node.func.attr == "print")
    }
    return called | {alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names}


def test_nothing_else_writes_to_the_terminal() -> None:
    wrong = []
    for path in sorted(p for part in ("mmo_rl", "hydra_plugins") for p in (ROOT / part).rglob("*.py")):
        name, tree = path.relative_to(ROOT).as_posix(), ast.parse(path.read_text(encoding="utf-8"))
        wrong += [f"{name}: {used}" for used in names_used(tree) & ALLOWED.keys() if name not in ALLOWED[used]]
        strings = {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)}
        wrong += [f"{name}: {text!r}" for text in strings if TAG.search(text) and name != "mmo_rl/terminal.py"]
    assert wrong == []
