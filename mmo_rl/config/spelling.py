"""Spelling of values that people write in another way than a config takes them: names, seeds, models of a hub."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from mmo_rl.command_line import override
from mmo_rl.config.project import choice_folders, shipped
from mmo_rl.config.schema import Problem
from mmo_rl.errors import ConfigError

LISTED = 10
"""Largest number of seeds that a message lists."""
_NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9._-]+")
_SPAN = re.compile(r"(\d+)\s*(?:\.\.+|:|-)\s*(\d+)")
_JOINED = re.compile(r"[+-]?\d+(?:_\d+)+")
_SEVERAL = re.compile(r"\d+(?:\s*[,; ]\s*\d+)+")


def with_spelling(problem: Problem, found: object) -> Problem:
    """Adds what to type to a problem of a key at the top of the config."""
    if problem.key == "name" and isinstance(found, str) and (name := as_name(found)):
        return replace(
            problem, text=f"found {found!r}, expected letters, digits, dots, dashes or underscores; write name={name}"
        )
    if problem.key == "seed" and (seeds := _seeds(found)):
        return replace(problem, text=f"{problem.text}; several seeds are a sweep: mmo-rl -m seed={seeds}")
    return problem


def refuse_joined_digits(tree: Mapping[str, object], overrides: Sequence[str]) -> None:
    """Raises `ConfigError` for an override like ``name=2026_01_31`` of a text: it is read as the number 20260131."""
    for typed in overrides:
        key, _, value = typed.lstrip("+").partition("=")
        if _JOINED.fullmatch(value) is None:
            continue
        found: object = tree
        for part in key.split("."):
            found = found.get(part) if isinstance(found, Mapping) else None
        if isinstance(found, str):
            raise ConfigError(
                f"{typed} is read as {found}: digits that underscores join are a number",
                hint=f'quotes keep it as it is written: "{override(key, value)}"',
            )


def as_name(text: str) -> str:
    """Spells a text as a name: accents are dropped, other characters become underscores."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return _NOT_IN_A_NAME.sub("_", plain).strip("._-")[:100]


def _seeds(found: object) -> str | None:
    if isinstance(found, list) and found and all(isinstance(seed, int) for seed in found):
        return ",".join(map(str, found))
    text = str(found).strip()
    if (span := _SPAN.fullmatch(text)) is not None:
        seeds = range(int(span[1]), int(span[2]) + 1)
        return ",".join(map(str, seeds)) if len(seeds) <= LISTED else f"'range({seeds.start},{seeds.stop})'"
    return ",".join(re.findall(r"\d+", text)) if _SEVERAL.fullmatch(text) else None


def of_hub(name: str) -> str | None:
    """Returns what to type for the id of a model on the Hugging Face hub: the preset that has it, else its keys; None
    for text that is no id (``OWNER/NAME``)."""
    owner, slash, model = name.partition("/")
    if not slash or not owner or not model or "/" in model:
        return None
    presets = sorted(
        path for folder in [*choice_folders(), shipped("conf")] for path in (folder / "model").glob("*.yaml")
    )
    preset = next((path.stem for path in presets if _base_model(path).lower() == name.lower()), None)
    if preset is not None:
        return f"model={preset} is that model"
    return (
        f"another model of the hub is a preset with its id: model=qwen2_5_0_5b model.base_model={name}"
        f" model.name={as_name(model)}"
    )


def _base_model(path: Path) -> str:
    found = re.search(r"^base_model: *(\S+)", path.read_text("utf-8"), re.M)
    return "" if found is None else found[1]
