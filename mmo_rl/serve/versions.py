"""Served models and their versions by name, as they are on disk at this moment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mmo_rl.lm.model import ModelSpec

WEIGHTS = ("config.json", "adapter_config.json")
"""Files of which a folder of weights has one: of a whole model, or of a LoRA adapter."""
MOST_DIGITS = 9
"""Of a version's number in a request."""


@dataclass(frozen=True, slots=True)
class ServedVersion:
    """Set of weights with a name: ``id`` is ``NAME@N``. ``stamp`` differs for a folder of the same name with new
    content; ``created`` in seconds since 1970 (0 where it is no folder of this machine)."""

    id: str
    path: str
    spec: ModelSpec
    stamp: tuple[int, int]
    created: int


@dataclass(frozen=True, slots=True)
class ServedModel:
    """Model by the name that clients use: its base ``spec`` is version 0, the numbered folders in ``checkpoints`` are
    the others. ``fixed``, where set, is the only version: (number, folder of weights)."""

    name: str
    spec: ModelSpec
    checkpoints: Path | None = None
    fixed: tuple[int, str] | None = None

    def versions(self) -> dict[int, ServedVersion]:
        """Lists the present versions by number, oldest first; a new call finds those that were published meanwhile."""
        if self.fixed is not None:
            number, path = self.fixed
            return {number: self._version(number, path)}
        found = {0: self._version(0, self.spec.location())}
        if self.checkpoints is not None and self.checkpoints.is_dir():
            folders = [f for f in self.checkpoints.iterdir() if f.name.isdecimal() and holds_weights(f)]
            for folder in sorted(folders, key=lambda f: int(f.name)):
                found[int(folder.name)] = self._version(int(folder.name), str(folder))
        return found

    def _version(self, number: int, path: str) -> ServedVersion:
        """Makes a version of the weights at ``path``."""
        try:
            status = Path(path).stat()
        except OSError:  # a name at the hub
            return ServedVersion(f"{self.name}@{number}", path, self.spec, (0, 0), 0)
        stamp = (status.st_ino, status.st_mtime_ns)
        return ServedVersion(f"{self.name}@{number}", path, self.spec, stamp, int(status.st_mtime))


class UnknownModel(Exception):
    """Error for a name that is not served; its message lists the names that are."""


class Catalogue:
    """Served models by name; a bare name stands for its newest version."""

    def __init__(self, models: Sequence[ServedModel]) -> None:
        self._models = {model.name: model for model in models}

    def find(self, name: str) -> ServedVersion:
        """Finds the version that ``name`` means now (``tiny@3``, or ``tiny`` for the newest). Raises `UnknownModel`."""
        if name in self._models:
            return list(self._models[name].versions().values())[-1]
        bare, _, number = name.rpartition("@")
        if bare in self._models and number.isdecimal() and len(number) <= MOST_DIGITS:
            version = self._models[bare].versions().get(int(number))
            if version is not None:
                return version
        names = ", ".join(version.id for version, newest in self.listed() if not newest)
        raise UnknownModel(f"The model '{name}' is not served here. There are: {names}; without @N the newest.")

    def listed(self) -> list[tuple[ServedVersion, str | None]]:
        """Lists every version, and the newest of each model once more with its bare name."""
        rows: list[tuple[ServedVersion, str | None]] = []
        for model in self._models.values():
            versions = list(model.versions().values())
            rows += [(versions[-1], model.name), *((version, None) for version in versions)]
        return rows


def holds_weights(folder: Path) -> bool:
    """Tells that a folder holds a model or an adapter."""
    return any((folder / name).is_file() for name in WEIGHTS)
