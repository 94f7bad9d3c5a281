"""Export of the training set for other trainers, instead of training: ART JSONL, chats, preference pairs, a card."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import Field

from mmo_rl.errors import TrainerError
from mmo_rl.files import write_text
from mmo_rl.trainer.base import AssistantTurns, Capabilities, OnStep, TrainerParts, TrainingRules
from mmo_rl.trainer.export_card import FILES, readme, said, total
from mmo_rl.trainer.export_formats import FormatName, Rows, art_rows, chat_rows, dpo_rows, messages_with_tools
from mmo_rl.trainer.export_verifiers import verifiers_rows
from mmo_rl.trainer.signal import require_finite
from mmo_rl.types import JsonDict, PolicyVersion, Trained, TrainingGroup

CARD, README = "card.json", "README.md"


class ExportTrainer:
    """Implements `mmo_rl.trainer.base.Exporter`: a file of each of the ``formats`` an iteration in the folder ``path``
    (None: ``export`` in the run folder), with ``card.json`` and a ``README.md`` by which Hugging Face's ``datasets``
    loads each format by name.

    ``art`` are files ``iteration-NNNN.jsonl`` of all answers; ``chat`` are ``chat-NNNN.jsonl``, the ``best_share`` by
    reward for supervised fine-tuning; ``dpo`` are ``dpo-NNNN.jsonl``, preference pairs whose rewards differ by
    ``min_margin`` or more; ``verifiers`` are ``verifiers-NNNN.jsonl``, episodes of all answers. The functions of
    `mmo_rl.trainer.export_formats` and `mmo_rl.trainer.export_verifiers` define their rows. Nothing that the policy
    did not know is in a row, its reward apart. A file appears whole or not at all, and not where it would be empty;
    the same iteration exported again replaces it with the same bytes.
    """

    capabilities: ClassVar[Capabilities] = Capabilities(uses_logprobs=False, trains=False)
    rules = TrainingRules()

    def __init__(
        self,
        *,
        path: str | None = None,
        formats: Annotated[list[FormatName], Field(min_length=1)],
        assistant_turns: AssistantTurns = "action",
        best_share: Annotated[float, Field(gt=0, le=1)] = 0.1,
        min_margin: Annotated[float, Field(ge=0, le=1)] = 0.1,
        parts: TrainerParts,
    ) -> None:
        self.folder = Path(path).expanduser() if path is not None else parts.folder.path / "export"
        self.assistant_turns: AssistantTurns = assistant_turns
        self._formats = tuple(dict.fromkeys(formats))
        self._best_share = best_share
        self._min_margin = min_margin
        self._run = f"{parts.experiment}/{parts.folder.path.name}"
        self._base = PolicyVersion(parts.model.name, 0, "")

    async def resume(self, version: int | None = None) -> PolicyVersion:
        """Returns the base model: there is no other version.

        Raises `TrainerError` where the folder holds another run's export or cannot be written: before anything is
        judged.
        """
        self._make_folder()
        self._card()
        return self._base

    async def train(self, groups: Sequence[TrainingGroup], *, iteration: int, on_step: OnStep | None = None) -> Trained:
        """Writes the iteration's files, replacing older ones. Raises `TrainerError` where there is nothing to write,
        a reward is not finite, or the folder cannot be written."""
        require_finite(groups)
        histories = sum(len(sample.calls) for group in groups for sample in group.samples)
        if not histories:
            raise TrainerError(
                "nothing can be exported: no scored trajectory has an LLM call with a prompt and an answer",
                hint="mmo-rl task=check shows the trainable LLM calls of every window",
            )
        made = {name: self._rows(name, groups) for name in self._formats}
        # Files of this and of later iterations were left by a run that was killed: those iterations come again.
        kept = [file for file in self._card().get("files", ()) if file["iteration"] < iteration]
        for begin in FILES.values():
            for file in self.folder.glob(f"{begin}-*.jsonl"):
                if file.name > f"{begin}-{iteration:04d}.jsonl":
                    file.unlink()
        written = [self._write_rows(name, rows, iteration) for name, rows in made.items()]
        self._write(CARD, _json({"run": self._run, "files": [*kept, *written]}))
        spread = sum(len({sample.reward for sample in group.samples}) > 1 for group in groups)
        rewards = [sample.reward for group in groups for sample in group.samples]
        return Trained(
            policy=self._base,
            gradient_steps=0,
            tokens=0,
            groups_skipped_zero_variance=len(groups) - spread,
            metrics={
                "histories": float(histories),
                "groups": float(len(groups)),
                "reward_mean": sum(rewards) / len(rewards),
                **{f"{name}_rows": float(len(rows.rows)) for name, rows in made.items()},
            },
        )

    def describe(self, facts: Mapping[str, Any]) -> str:
        """Writes the data card: ``facts`` (judge, dropout, fingerprint, config...) and what the files hold. Returns a
        sentence about the whole."""
        files = self._card().get("files", [])
        formats = {name: total(name, [file for file in files if file["format"] == name]) for name in self._formats}
        self._write(CARD, _json({"run": self._run, "formats": formats, "files": files, **facts}))
        self._write(README, readme(self._run, formats))
        told = "; ".join(said(name, whole) for name, whole in formats.items())
        return f"{told}: {self.folder}"

    async def aclose(self) -> None:
        """Does nothing: no resources are held."""

    def _rows(self, name: FormatName, groups: Sequence[TrainingGroup]) -> Rows:
        if name == "art":
            return art_rows(groups)
        if name == "chat":
            return chat_rows(groups, best_share=self._best_share)
        if name == "verifiers":
            return verifiers_rows(groups)
        return dpo_rows(groups, min_margin=self._min_margin)

    def _write_rows(self, name: FormatName, rows: Rows, iteration: int) -> JsonDict:
        """Writes the file of one format, or removes it where it would be empty; returns its entry in the card."""
        file = f"{FILES[name]}-{iteration:04d}.jsonl"
        text = "".join(json.dumps(row, separators=(",", ":")) + "\n" for row in rows.rows)
        if text:
            self._write(file, text)
        else:
            (self.folder / file).unlink(missing_ok=True)
        return {
            "name": file if text else None,
            "format": name,
            "iteration": iteration,
            "rows": len(rows.rows),
            "left_out": dict(rows.left_out),
            **rows.facts,
            **({"messages_with_tools": tools} if (tools := messages_with_tools(rows.rows)) else {}),
            "sha256": hashlib.sha256(text.encode()).hexdigest() if text else None,
        }

    def _card(self) -> JsonDict:
        """Reads the card of the folder. Raises `TrainerError` where that is another run's."""
        file = self.folder / CARD
        owner, card = self._run, {}
        try:
            if file.exists():
                card = json.loads(file.read_text(encoding="utf-8"))
                owner = card.get("run")
        except (OSError, ValueError, AttributeError):
            owner = "something that is not a data card"
        if owner != self._run:
            raise TrainerError(
                f"{self.folder} holds the export of another run ({owner})",
                hint="choose another folder (trainer.path=...), or remove that one",
            )
        return card

    def _write(self, name: str, text: str) -> None:
        """Writes a file of the export. Raises `TrainerError` where the disk refuses."""
        self._make_folder()
        try:
            write_text(self.folder / name, text, durable=True)
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


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, indent=2) + "\n"
