"""Resolves ``serve.runs`` to named models: run folders, checkpoints, folders of weights, or the base model."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

from mmo_rl.config.building import build
from mmo_rl.config.project import project_root
from mmo_rl.config.schema import Node, Problem, check_node
from mmo_rl.errors import ConfigError
from mmo_rl.lm.base import ModelParts
from mmo_rl.lm.manifest import model_named_in
from mmo_rl.lm.model import ModelSpec
from mmo_rl.report.run_folder import RunFolder
from mmo_rl.serve.versions import WEIGHTS, ServedModel, holds_weights

HINT = "give run folders such as runs/default/0123456789, or folders of weights in Hugging Face format"


def served_models(runs: str | Sequence[str], model: Node | None, *, home: Path) -> list[ServedModel]:
    """Named models that ``runs`` (one or several) serve; the base model of the config node ``model`` where there are
    none.

    A run has the name of its model, or ``EXPERIMENT/KEY`` where several runs share that. A folder of weights is named
    after itself, and a checkpoint of a run after the run's model. ``home``: where GGUF files are unpacked. Raises
    `ConfigError` for what is neither.
    """
    runs = [runs] if isinstance(runs, str) else runs
    if not runs:
        spec = _spec(model, "model", home)
        spec.location()
        return [ServedModel(spec.name, spec)]
    found = [(_run_of(text), text) for text in runs]
    models = [_of_run(folder, home) if folder else _of_weights(text, model, home) for folder, text in found]
    shared = Counter(one.name for one in models)
    models = [
        replace(one, name=f"{folder.parent.name}/{folder.name}") if folder and shared[one.name] > 1 else one
        for one, (folder, _) in zip(models, found, strict=True)
    ]
    for name, count in Counter(one.name for one in models).items():
        if count > 1:
            raise ConfigError(f"serve.runs: {count} of them would be called {name}", hint="give each of them once")
    return models


def _run_of(text: str) -> Path | None:
    """The run folder that is meant, None where it is a folder of weights."""
    folder = _folder(text)
    if not folder.is_dir():
        raise ConfigError(f"serve.runs: {text} is no folder", hint=HINT)
    if holds_weights(folder):
        return None
    if not (folder / "config.yaml").is_file():
        raise ConfigError(f"serve.runs: {text} holds neither a run's config.yaml nor {' or '.join(WEIGHTS)}", hint=HINT)
    return folder


def _of_run(folder: Path, home: Path) -> ServedModel:
    config = RunFolder(folder).config() or {}
    if config.get("task") != "train":
        raise ConfigError(
            f"serve.runs: {folder} is a run of task={config.get('task')}, which trains nothing", hint=HINT
        )
    spec = _spec(config.get("model"), f"{folder / 'config.yaml'}: model", home)
    spec.location()
    return ServedModel(spec.name, spec, checkpoints=folder / "checkpoints")


def _folder(text: str) -> Path:
    """Finds a folder below the working directory, else below the project's root, as comparisons do."""
    path = Path(text).expanduser()
    return (path if path.exists() else project_root() / path).resolve()


def _of_weights(text: str, model: Node | None, home: Path) -> ServedModel:
    folder = _folder(text)
    number = int(folder.name) if folder.name.isdecimal() else 0
    run = folder.parent.parent
    if folder.parent.name == "checkpoints" and (run / "config.yaml").is_file():
        of_run = _of_run(run, home)
        return ServedModel(of_run.name, of_run.spec, fixed=(number, str(folder)))
    spec = _spec(model, "model", home)
    if (folder / "config.json").is_file():
        try:
            context = json.loads((folder / "config.json").read_text("utf-8"))["max_position_embeddings"]
            spec = ModelSpec(
                name=model_named_in(folder) or folder.name,
                base_model=str(folder),
                context_length=context,
                max_completion_tokens=context,
            )
        except (ValueError, KeyError, TypeError):
            pass  # then the limits are those of the group `model`
    return ServedModel(folder.name, spec, fixed=(number, str(folder)))


def _spec(node: Node | None, where: str, home: Path) -> ModelSpec:
    problems: list[Problem] = []
    checked = check_node(node or {}, "model", problems)
    if problems:
        raise ConfigError(f"{where}: {problems[0]}", hint="that config was written by another version of mmo-rl")
    return cast(ModelSpec, build(checked, ModelParts(cache=home / "models")))
