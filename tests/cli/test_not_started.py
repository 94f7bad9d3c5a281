"""Commands that cannot start: exit code 2 and no run folder, whatever is missing."""

from __future__ import annotations

import pytest

from tests.harness.project import Project


@pytest.mark.parametrize(
    ("typed", "missing"),
    [
        (("source=postgres", "iterations=1"), "DATABASE_URL is not set"),
        (("-m", "seed=0,1", "source=postgres", "iterations=1"), "DATABASE_URL is not set"),
        (("source=postgres", "database=embedded", "task=judge"), "DATABASE_URL is not set"),
        (("judge=ruler", "judge.model=gpt-4.1-mini", "iterations=1"), "OPENAI_API_KEY is not set"),
        (("report.mode=online", "report.project=p", "iterations=1"), "W&B has no key"),
    ],
)
def test_nothing_is_left_of_what_could_not_start(project: Project, typed: tuple[str, ...], missing: str) -> None:
    ran = project.attempt(*typed)
    assert (ran.code, missing in ran.err) == (2, True), ran.told
    assert not (project.root / "runs").exists(), list(project.root.rglob("*"))


def test_an_empty_folder_that_was_there_is_left(project: Project) -> None:
    mine = project.root / "mine" / "empty"
    mine.mkdir(parents=True)
    assert "DATABASE_URL is not set" in project.run("source=postgres", f"hydra.run.dir={mine}", code=2)
    assert mine.is_dir() and not (project.root / "runs").exists()
    letter = mine / "letter.txt"
    letter.write_text("mine")
    for typed in (("source=postgres",), ("judge=ruler", "judge.model=gpt-4.1-mini"), ("report.mode=online",)):
        project.run(*typed, "iterations=1", f"hydra.run.dir={mine}", code=2)
        assert list(mine.iterdir()) == [letter] and letter.read_text() == "mine", typed


def test_tasks_without_a_folder_say_it_with_the_same_code(project: Project) -> None:
    for task in ("check", "collect", "migrate"):
        assert "DATABASE_URL is not set" in project.run(f"task={task}", "source=postgres", code=2)


@pytest.mark.parametrize(("task", "code"), [("check", 3), ("plan", 0)])
def test_tasks_that_only_look_leave_nothing(project: Project, task: str, code: int) -> None:
    home = project.home / "new"
    project.with_variables(MMO_RL_HOME=str(home)).run(f"task={task}", "iterations=1", "collect.windows=1", code=code)
    assert not home.exists() and list(project.root.iterdir()) == []
