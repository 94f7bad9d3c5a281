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


def test_tasks_without_a_folder_say_it_with_the_same_code(project: Project) -> None:
    for task in ("check", "collect", "migrate"):
        assert "DATABASE_URL is not set" in project.run(f"task={task}", "source=postgres", code=2)
