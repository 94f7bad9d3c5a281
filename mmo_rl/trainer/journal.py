"""Write-ahead log of remote training requests, one JSON file an iteration; makes them resumable.

A file is written before the request, after it and at its end: a run that was killed in between follows the same job.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import msgspec

from mmo_rl.errors import TrainerError
from mmo_rl.files import write_json
from mmo_rl.types import TrainingGroup


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingJob:
    """Training job of one iteration, which makes of the backend's checkpoint ``step_before`` the checkpoint ``step``
    (None: not ended).

    ``job_id`` None: it may or may not have been accepted. ``data`` is the fingerprint of its groups, ``failure`` the
    reason of a job that trained nothing. ``tokens`` counts trained tokens, ``metrics`` are flat numbers.
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
    """Log of jobs: files ``job-NNNN.json`` below ``folder``; that of iteration N is about policy version N + 1."""

    def __init__(self, *, folder: Path) -> None:
        self._folder = folder

    def path(self, iteration: int) -> Path:
        """Returns the file of an iteration."""
        return self._folder / f"job-{iteration:04d}.json"

    def read(self, iteration: int) -> TrainingJob | None:
        """Reads the job of an iteration; None where there is none. Raises `TrainerError` where it cannot be read."""
        file = self.path(iteration)
        if not file.exists():
            return None
        try:
            return msgspec.json.decode(file.read_bytes(), type=TrainingJob)
        except (OSError, msgspec.MsgspecError) as error:
            raise TrainerError(
                f"{file} is not a job of this trainer ({error})",
                hint="put the file back as it was, or remove the run folder to start afresh",
            ) from error

    def write(self, job: TrainingJob) -> None:
        """Writes ``job``, whole or not at all, durably. Raises `TrainerError` where it cannot be written."""
        file = self.path(job.iteration)
        try:
            write_json(file, asdict(job), durable=True)
        except OSError as error:
            raise TrainerError(
                f"could not write {file}: {error.strerror}",
                hint="make room on its disk and run the same command again",
            ) from error

    def forget(self, iteration: int) -> None:
        """Removes the job of an iteration, for a request that the backend certainly did not accept."""
        self.path(iteration).unlink(missing_ok=True)

    def step(self, version: int) -> int:
        """Returns the backend's checkpoint of policy ``version``; 0 is the base model. Raises `TrainerError` for a
        version that was not trained."""
        if version == 0:
            return 0
        job = self.read(version - 1)
        if job is None or job.step is None:
            raise TrainerError(
                f"policy version {version} is not in {self._folder}", hint="remove the run folder to start afresh"
            )
        return job.step

    def newest(self) -> int:
        """Returns the newest policy version that was trained; 0 where none was."""
        found = (self.read(int(file.stem[4:])) for file in self._folder.glob("job-*.json"))
        return max((job.iteration + 1 for job in found if job is not None and job.step is not None), default=0)


def fingerprint(groups: Sequence[TrainingGroup]) -> str:
    """Returns a short hash of the answers that are trained and of their rewards."""
    rows = [(g.group_id, s.trajectory_id, s.step, s.reward, len(s.calls)) for g in groups for s in g.samples]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16]
