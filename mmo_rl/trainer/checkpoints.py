"""The published versions of a run's policy: numbered folders that appear whole or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from mmo_rl.errors import TrainerError
from mmo_rl.types import PolicyVersion


class Checkpoints:
    """Folders ``NNNN`` below ``folder``, one a version; version 0 is the base model at ``base``."""

    def __init__(self, *, folder: Path, name: str, base: str) -> None:
        self._folder = folder
        self._name = name
        self._base = base

    def path(self, version: int) -> Path:
        """The folder of a version above 0."""
        return self._folder / f"{version:04d}"

    def published(self) -> list[int]:
        """All versions above 0, oldest first."""
        if not self._folder.is_dir():
            return []
        return sorted(int(p.name) for p in self._folder.iterdir() if p.name.isdigit())

    def version(self, version: int) -> PolicyVersion:
        """A published version, or with 0 the base model."""
        return PolicyVersion(self._name, version, str(self.path(version)) if version else self._base)

    def rewind(self, version: int | None = None) -> int:
        """Forgets the versions after ``version`` (None: the newest stays the newest) and gives back its number.

        Raises `TrainerError` where it was never published."""
        published = self.published()
        chosen = max(published, default=0) if version is None else version
        if chosen != 0 and chosen not in published:
            raise TrainerError(
                f"checkpoint {chosen} is not in {self._folder}", hint="remove the run folder to start afresh"
            )
        for later in published:
            if later > chosen:
                shutil.rmtree(self.path(later))
        return chosen

    def publish(self, version: int, save: Callable[[Path], None]) -> PolicyVersion:
        """Has ``save`` write into a folder that becomes the version when it is whole. Raises `TrainerError`, and
        leaves nothing, where it cannot be written."""
        partial = self._folder / f"{version:04d}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        try:
            save(partial)
            partial.rename(self.path(version))
        except OSError as error:
            shutil.rmtree(partial, ignore_errors=True)
            raise TrainerError(
                f"could not save checkpoint {version}: {error.strerror}",
                hint=f"make room on the disk of {self._folder} and run the same command again",
            ) from error
        return self.version(version)
