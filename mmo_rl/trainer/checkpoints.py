"""Checkpoints of a run's policy: numbered folders that appear whole or not at all, and are removed likewise."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from mmo_rl.errors import MmoRlError, TrainerError
from mmo_rl.files import sync_folder
from mmo_rl.lm.base import BaseModel
from mmo_rl.lm.manifest import fault, seal
from mmo_rl.milestones import reached
from mmo_rl.trainer.base import LostVersion
from mmo_rl.types import PolicyVersion

FULL_BELOW_BYTES = 1 << 20
"""A disk with less left is full: libraries that write weights do not always say why they could not."""


class Checkpoints:
    """Folders ``NNNN`` below ``folder``, one a version, each with a manifest of its files (`mmo_rl.lm.manifest`).

    Version 0 is what the first iteration starts from: the base ``model``, or, after a warm start, ``0000``.
    """

    def __init__(self, *, folder: Path, model: BaseModel) -> None:
        self._folder = folder
        self._model = model

    def path(self, version: int) -> Path:
        """Returns the folder of a version."""
        return self._folder / f"{version:04d}"

    def published(self) -> list[int]:
        """Lists the versions that have a folder, oldest first."""
        if not self._folder.is_dir():
            return []
        return sorted(int(p.name) for p in self._folder.iterdir() if p.name.isdecimal())

    def saved(self, version: int) -> Path | None:
        """Returns the folder of a version; None for the base model."""
        return self.path(version) if version or self.path(0).is_dir() else None

    def version(self, version: int) -> PolicyVersion:
        """Returns a published version; 0 without a folder of its own is the base model."""
        return PolicyVersion(self._model.name, version, str(self.saved(version) or self._model.location()))

    def rewind(self, version: int | None = None) -> int:
        """Removes the versions after ``version`` (None: the newest stays the newest) and returns its number; with -1
        all of them, a warm start too, which leaves version 0, the base model.

        Raises `LostVersion` where it is not there, `TrainerError` where it is damaged or of another model; nothing is
        removed then.
        """
        published = self.published()
        chosen = max(published, default=0) if version is None else version
        if chosen > 0 and chosen not in published:
            raise LostVersion(
                f"checkpoint {chosen} is not in {self._folder}", hint="remove the run folder to start afresh"
            )
        self._require_usable(chosen)
        for leftover in [*self._folder.glob("[0-9]*.partial"), *self._folder.glob("[0-9]*.removed")]:
            shutil.rmtree(leftover)
        for later in published:
            if later > chosen:
                self._remove(later)
        return max(chosen, 0)

    def publish(self, version: int, save: Callable[[Path], None]) -> PolicyVersion:
        """Publishes a version: ``save`` writes into a folder that gets the version's name once it is on the disk.

        Raises `TrainerError`, and leaves nothing, where it cannot be written.
        """
        partial = self._folder / f"{version:04d}.partial"
        try:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            reached("checkpoint started")
            save(partial)
            reached("weights written")
            seal(partial, model=self._model.name, base=self._model.location(), version=version)
            reached("checkpoint sealed")
            if self.path(version).exists():
                self._remove(version)
            partial.rename(self.path(version))
            reached("checkpoint named")
            sync_folder(self._folder)
            reached("checkpoint written")
        except MmoRlError:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        except Exception as error:  # torch and safetensors raise errors of their own for a full disk
            reason = self._reason(error)
            shutil.rmtree(partial, ignore_errors=True)
            raise TrainerError(
                f"could not save checkpoint {version}: {reason}; nothing of it was published",
                hint=f"make room on the disk of {self._folder} and run the same command again: it goes on from the "
                "last iteration that was saved",
            ) from error
        return self.version(version)

    def removable(self, earned: Mapping[int, float], *, last: int | None, best: int) -> list[int]:
        """Lists the versions, oldest first, that are neither among the ``last`` newest (None: all are kept) nor among
        the ``best`` that earned most when they played (``earned`` by version; of equals the older). Version 0 stays."""
        published = [version for version in self.published() if version]
        if last is None:
            return []
        most = sorted((v for v in published if v in earned), key=lambda v: (-earned[v], v))[:best]
        return [version for version in published[:-last] if version not in most]

    def remove(self, versions: Collection[int]) -> None:
        """Removes these versions' folders, those that are there."""
        for version in sorted(set(versions) & set(self.published())):
            self._remove(version)

    def _remove(self, version: int) -> None:
        """Removes a version's folder, after taking its name away: a removal may be interrupted."""
        going = self._folder / f"{version:04d}.removed"
        shutil.rmtree(going, ignore_errors=True)
        self.path(version).rename(going)
        reached("checkpoint withdrawn")
        shutil.rmtree(going)

    def _require_usable(self, version: int) -> None:
        """Raises `TrainerError` where the version's folder is damaged or of another model."""
        folder = self.path(version)
        found = fault(folder, model=self._model.name, base=self._model.location()) if folder.is_dir() else None
        if found is None:
            return
        hint = f"remove it and run the same command again, which goes on from the version before: rm -r {folder}"
        if found.other_model is not None:
            hint = "give this run a folder of its own (name=...), or remove the run folder to start afresh"
        raise TrainerError(f"the checkpoint {folder} cannot be used: {found.reason}", hint=hint)

    def _reason(self, error: Exception) -> str:
        """Returns the reason of a failed write, in words."""
        if isinstance(error, OSError) and error.errno != errno.ENOSPC:
            return error.strerror or str(error)
        told = str(error).splitlines()[0] if str(error) else type(error).__name__
        full = isinstance(error, OSError) or "No space left" in told or self._free() < FULL_BELOW_BYTES
        return "the disk is full" if full else told

    def _free(self) -> int:
        """Returns the free bytes of the disk."""
        return shutil.disk_usage(next(p for p in (self._folder, *self._folder.parents) if p.exists())).free
