"""``checkpoint.json``: what a checkpoint's folder holds and of which model it is, so that neither damage nor a mix-up
is ever loaded.

    {"format": 1, "model": "tiny", "base": "tiny", "version": 3, "shape": {"vocab_size": 512, ...},
     "files": {"model.safetensors": {"bytes": 1842344, "sha256": "..."}, ...}}

A folder without one is taken as it is: weights that were made elsewhere have none.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

FILE = "checkpoint.json"
FORMAT = 1
SHAPE = ("architectures", "model_type", "vocab_size", "hidden_size", "num_hidden_layers")
"""The keys of a model's config.json that tell it from another model."""


def seal(folder: Path, *, model: str, base: str, version: int) -> None:
    """Writes the manifest of all files in ``folder`` and returns when everything in it would survive a loss of power.

    ``base`` is the folder or hub id of the base model. Raises `OSError` where the disk refuses."""
    files = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.name != FILE):
        _sync(path)
        files[path.relative_to(folder).as_posix()] = {"bytes": path.stat().st_size, "sha256": _sha256(path)}
    made = Path(base).expanduser()
    content = {
        "format": FORMAT,
        "model": model,
        "base": made.name if made.exists() else base,
        "version": version,
        "shape": shape(folder) or shape(made),
        "files": files,
    }
    (folder / FILE).write_text(json.dumps(content, indent=2) + "\n")
    _sync(folder / FILE)
    for inner in (*(p for p in folder.rglob("*") if p.is_dir()), folder):
        sync_folder(inner)


def problem(
    folder: Path, *, model: str, base: str, needed: Callable[[str], bool] = lambda name: True
) -> tuple[str, str | None] | None:
    """What forbids to load ``folder`` as a version of ``model`` made from ``base``, and the name of the model that it
    is of, where that is what is wrong; None where nothing is. Files that are not ``needed`` are not read."""
    found = _read(folder)
    if found is None:
        return None
    if not isinstance(found, dict) or not isinstance(found.get("files"), dict):
        return f"its {FILE} is damaged", None
    if found.get("format") != FORMAT:
        return f"its format is {found.get('format')}, and this version of mmo-rl reads {FORMAT}", None
    if found.get("model") != model:
        return f"it is a checkpoint of the model {found.get('model')}, not of {model}", str(found.get("model"))
    expected = shape(Path(base).expanduser())
    if expected and found.get("shape") and found["shape"] != expected:
        differs = ", ".join(
            f"{key} {found['shape'].get(key)} instead of {value}"
            for key, value in expected.items()
            if found["shape"].get(key) != value
        )
        return f"it is a checkpoint of another {model} ({differs})", model
    return _damage(folder, found["files"], needed)


def model_named_in(folder: Path) -> str | None:
    """The name of the model that ``folder`` is a checkpoint of; None where it doesn't say."""
    found = _read(folder)
    name = found.get("model") if isinstance(found, dict) else None
    return name if isinstance(name, str) else None


def shape(folder: Path) -> dict[str, Any]:
    """What tells a model from another, from its config.json; empty where there is none."""
    try:
        config = json.loads((folder / "config.json").read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return {key: config.get(key) for key in SHAPE}


def sync_folder(folder: Path) -> None:
    """Makes the names in ``folder`` durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _damage(
    folder: Path, files: Mapping[str, Mapping[str, Any]], needed: Callable[[str], bool]
) -> tuple[str, None] | None:
    for name, known in files.items():
        path = folder / name
        if not needed(name):
            continue
        if not path.is_file():
            return f"its {name} is missing", None
        if (size := path.stat().st_size) != known["bytes"]:
            return f"its {name} has {size:,} bytes instead of {known['bytes']:,}", None
        if _sha256(path) != known["sha256"]:
            return f"its {name} is damaged (its checksum is wrong)", None
    return None


def _read(folder: Path) -> Any:
    try:
        return json.loads((folder / FILE).read_text("utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError):
        return {}


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())
