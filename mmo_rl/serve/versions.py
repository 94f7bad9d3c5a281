"""What can be asked for by name: the versions of served runs, as they are on disk at this moment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mmo_rl.lm.model import ModelSpec

WEIGHTS = ("config.json", "adapter_config.json")
"""A folder that holds one of these holds weights: a whole model, or a LoRA adapter."""


@dataclass(frozen=True, slots=True)
class ServedVersion:
    """One set of weights with a name: ``id`` is ``NAME@N``. ``stamp`` differs where a folder of the same name was
    written anew; ``created`` in seconds since 1970 (0 where it is no folder of this machine)."""

    id: str
    path: str
    spec: ModelSpec
    stamp: tuple[int, int]
    created: int


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model by the name that clients use: its base ``spec`` is version 0, the numbered folders in ``checkpoints`` are
    the others. Where ``fixed`` is set, it is the only version: (number, folder of weights)."""

    name: str
    spec: ModelSpec
    checkpoints: Path | None = None
    fixed: tuple[int, str] | None = None

    def versions(self) -> dict[int, ServedVersion]:
        """Those that are there now, oldest first; what a running training publishes appears at the next look."""
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
        try:
            status = Path(path).stat()
        except OSError:  # a name at the hub
            return ServedVersion(f"{self.name}@{number}", path, self.spec, (0, 0), 0)
        stamp = (status.st_ino, status.st_mtime_ns)
        return ServedVersion(f"{self.name}@{number}", path, self.spec, stamp, int(status.st_mtime))


class UnknownModel(Exception):
    """Nothing is served by that name. The message names what is."""


class Catalogue:
    """The served models by name; a bare name stands for its newest version."""

    def __init__(self, models: Sequence[ServedModel]) -> None:
        self._models = {model.name: model for model in models}

    def find(self, name: str) -> ServedVersion:
        """The version that ``name`` means now (``tiny@3``, or ``tiny`` for the newest). Raises `UnknownModel`."""
        if name in self._models:
            return list(self._models[name].versions().values())[-1]
        bare, _, number = name.rpartition("@")
        if bare in self._models and number.isdecimal():
            version = self._models[bare].versions().get(int(number))
            if version is not None:
                return version
        names = ", ".join(version.id for version, newest in self.listed() if not newest)
        raise UnknownModel(f"The model '{name}' is not served here. There are: {names}; without @N the newest.")

    def listed(self) -> list[tuple[ServedVersion, str | None]]:
        """Every version, and the newest of each model once more with its bare name."""
        rows: list[tuple[ServedVersion, str | None]] = []
        for model in self._models.values():
            versions = list(model.versions().values())
            rows += [(versions[-1], model.name), *((version, None) for version in versions)]
        return rows


def holds_weights(folder: Path) -> bool:
    return any((folder / name).is_file() for name in WEIGHTS)
