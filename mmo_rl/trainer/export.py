"""Writes the training set for other trainers instead of training: ART JSONL and a data card."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from mmo_rl.errors import TrainerError
from mmo_rl.trainer.base import Capabilities, OnStep
from mmo_rl.types import PolicyCall, PolicyVersion, Trained, TrainingGroup, TrainingSample

CARD = "card.json"


class Folder(Protocol):
    @property
    def path(self) -> Path: ...


class ExportTrainer:
    """Implements `mmo_rl.trainer.base.Exporter`: a file ``iteration-NNNN.jsonl`` an iteration, and ``card.json``, in
    the folder ``path`` (None: ``export`` in the run folder).

    A line is one history, that of one LLM call: ``messages`` as the policy saw them and, last, its answer; ``reward``
    in [0, 1]; ``metadata`` with ``trajectoryId``, ``groupId`` (histories to compare with each other), ``step`` (null
    where the whole trajectory has one reward) and ``call`` (its number within that step or trajectory); where recorded
    ``promptTokenIds``, ``tokenIds`` and ``logprobs``. Nothing that the policy did not know is in it. A file appears
    whole or not at all.
    """

    capabilities = Capabilities(uses_logprobs=False, trains=False)

    def __init__(
        self, *, path: str | None = None, run_folder: Folder, model_name: str, group: str, job_key: str
    ) -> None:
        self.folder = Path(path).expanduser() if path is not None else run_folder.path / "export"
        self._run = f"{group}/{job_key}"
        self._base = PolicyVersion(model_name, 0, "")

    async def resume(self, version: int | None = None) -> PolicyVersion:
        """The base model: there is no other. Raises `TrainerError` where the folder holds another run's export or
        cannot be written: before anything is judged."""
        self._make_folder()
        card = self.folder / CARD
        try:
            owner = json.loads(card.read_text()).get("run") if card.exists() else self._run
        except (OSError, ValueError, AttributeError):
            owner = "something that is not a data card"
        if owner != self._run:
            raise TrainerError(
                f"{self.folder} holds the export of another run ({owner})",
                hint="choose another folder (trainer.path=...), or remove that one",
            )
        return self._base

    async def train(self, groups: Sequence[TrainingGroup], *, iteration: int, on_step: OnStep | None = None) -> Trained:
        """Writes the iteration's file, replacing an older one. Raises `TrainerError` where there is nothing to write,
        a reward is not finite, or the folder cannot be written."""
        lines = [_line(history) for group in groups for history in _histories(group)]
        if not lines:
            raise TrainerError(
                "nothing can be exported: no scored trajectory has an LLM call with a prompt and an answer",
                hint="mmo-rl task=check shows the trainable LLM calls of every window",
            )
        name = f"iteration-{iteration:04d}.jsonl"
        self._write(name, "".join(lines))
        for file in self.folder.glob("iteration-*.jsonl"):
            if file.name > name:  # left by a run that was killed: those iterations come again
                file.unlink()
        spread = sum(len({sample.reward for sample in group.samples}) > 1 for group in groups)
        rewards = [sample.reward for group in groups for sample in group.samples]
        return Trained(
            policy=self._base,
            gradient_steps=0,
            tokens=0,
            groups_skipped_zero_variance=len(groups) - spread,
            metrics={
                "histories": float(len(lines)),
                "groups": float(len(groups)),
                "reward_mean": sum(rewards) / len(rewards),
            },
        )

    def describe(self, facts: Mapping[str, Any]) -> str:
        """Writes the data card: ``facts`` (judge, dropout, fingerprint, config...) and what the files hold. Returns a
        sentence about the whole."""
        files, totals = [], {"histories": 0, "with_token_ids": 0, "with_logprobs": 0}
        trajectories: set[str] = set()
        groups: set[str] = set()
        for file in sorted(self.folder.glob("iteration-*.jsonl")):
            content = file.read_bytes()
            rows = [json.loads(line) for line in content.splitlines()]
            files.append({"name": file.name, "histories": len(rows), "sha256": hashlib.sha256(content).hexdigest()})
            trajectories |= {row["metadata"]["trajectoryId"] for row in rows}
            groups |= {f"{file.name}/{row['metadata']['groupId']}" for row in rows}
            totals["histories"] += len(rows)
            totals["with_token_ids"] += sum("tokenIds" in row for row in rows)
            totals["with_logprobs"] += sum("logprobs" in row for row in rows)
        counts = {"trajectories": len(trajectories), "groups": len(groups)} | totals
        card = {"run": self._run, "format": "ART JSONL, one history a line", "counts": counts, "files": files}
        self._write(CARD, json.dumps(card | dict(facts), indent=2) + "\n")
        return (
            f"{counts['histories']:,} histories of {counts['trajectories']:,} trajectories in"
            f" {counts['groups']:,} groups, {counts['with_logprobs']:,} with logprobs: {self.folder}"
        )

    async def aclose(self) -> None:
        """Holds nothing."""

    def _write(self, name: str, text: str) -> None:
        self._make_folder()
        partial = self.folder / f"{name}.partial"
        try:
            with partial.open("w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(self.folder / name)
        except OSError as error:
            raise self._unwritable(error) from None

    def _make_folder(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if not os.access(self.folder, os.W_OK):
                raise PermissionError(13, "Permission denied")
        except OSError as error:
            raise self._unwritable(error) from None

    def _unwritable(self, error: OSError) -> TrainerError:
        return TrainerError(
            f"cannot write to {self.folder}: {error.strerror or error}",
            hint="make room or give permission, or choose another folder: trainer.path=...",
        )


def _histories(group: TrainingGroup) -> Iterator[tuple[TrainingGroup, TrainingSample, int, PolicyCall]]:
    for sample in group.samples:
        if not math.isfinite(sample.reward):
            raise TrainerError(
                f"the reward of {sample.trajectory_id} in group {group.group_id} is {sample.reward}",
                hint="a judge must answer finite scores; see judgments.jsonl in the run folder",
            )
        for number, call in enumerate(sample.calls):
            yield group, sample, number, call


def _line(history: tuple[TrainingGroup, TrainingSample, int, PolicyCall]) -> str:
    group, sample, number, call = history
    # Only what a chat template reads: a recorded message may carry further keys.
    messages = [{"role": m["role"], "content": m["content"]} for m in call.messages]
    tokens = {"promptTokenIds": call.prompt_token_ids, "tokenIds": call.token_ids, "logprobs": call.logprobs}
    row = {
        "messages": [*messages, {"role": "assistant", "content": call.response}],
        "reward": sample.reward,
        "metadata": {
            "trajectoryId": sample.trajectory_id,
            "groupId": group.group_id,
            "step": sample.step,
            "call": number,
        },
        "metrics": {},
        **{name: list(values) for name, values in tokens.items() if values is not None},
    }
    return json.dumps(row, separators=(",", ":")) + "\n"
