"""What a run has asked a training backend for and what came of it: one small file an iteration, written before the
request, after it and at its end, so that a run that was killed in between knows what is under way."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from mmo_rl.errors import TrainerError
from mmo_rl.types import TrainingGroup


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """The training of one iteration on the backend, which makes of its checkpoint ``step_before`` the checkpoint
    ``step`` (None: not ended).

    ``job_id`` None: it may or may not have been accepted. ``data`` is the fingerprint of what it was given, ``failure``
    why nothing came of it. ``tokens`` counts trained tokens, ``metrics`` are flat numbers.
    """

    iteration: int
    step_before: int
    data: str
    job_id: str | None = None
    step: int | None = None
    failure: str | None = None
    gradient_steps: int = 0
    tokens: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)


class Journal:
    """Files ``job-NNNN.json`` below ``folder``; that of iteration N is about policy version N + 1."""

    def __init__(self, *, folder: Path) -> None:
        self._folder = folder

    def path(self, iteration: int) -> Path:
        return self._folder / f"job-{iteration:04d}.json"

    def read(self, iteration: int) -> Job | None:
        """What is known of an iteration's training. Raises `TrainerError` where the file cannot be read."""
        file = self.path(iteration)
        if not file.exists():
            return None
        try:
            return Job(**json.loads(file.read_text("utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise TrainerError(
                f"{file} is not a job of this trainer ({error})",
                hint="put the file back as it was, or remove the run folder to start afresh",
            ) from error

    def write(self, job: Job) -> None:
        """Keeps ``job``, whole or not at all, on the disk. Raises `TrainerError` where it cannot be written."""
        file = self.path(job.iteration)
        partial = file.with_suffix(".partial")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with partial.open("w", encoding="utf-8") as out:
                json.dump(asdict(job), out, indent=2)
                out.flush()
                os.fsync(out.fileno())
            partial.replace(file)
        except OSError as error:
            raise TrainerError(
                f"could not write {file}: {error.strerror}",
                hint="make room on its disk and run the same command again",
            ) from error

    def forget(self, iteration: int) -> None:
        """For a request that the backend certainly did not accept."""
        self.path(iteration).unlink(missing_ok=True)

    def step(self, version: int) -> int:
        """The backend's checkpoint that is policy ``version``; 0 is the base model. Raises `TrainerError` where no such
        version was trained."""
        if version == 0:
            return 0
        job = self.read(version - 1)
        if job is None or job.step is None:
            raise TrainerError(
                f"policy version {version} is not in {self._folder}", hint="remove the run folder to start afresh"
            )
        return job.step

    def newest(self) -> int:
        """The newest policy version that was trained."""
        found = (self.read(int(file.stem[4:])) for file in self._folder.glob("job-*.json"))
        return max((job.iteration + 1 for job in found if job is not None and job.step is not None), default=0)


def fingerprint(groups: Sequence[TrainingGroup]) -> str:
    """A short hash of which answers are trained with which rewards."""
    rows = [(g.group_id, s.trajectory_id, s.step, s.reward, len(s.calls)) for g in groups for s in g.samples]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16]
