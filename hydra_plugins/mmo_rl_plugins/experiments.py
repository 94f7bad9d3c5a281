"""Makes ``experiments/`` a config group, ``+experiments=NAME``, and nothing beside that folder."""

from __future__ import annotations

import os

from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigResult
from hydra.plugins.search_path_plugin import SearchPathPlugin

from mmo_rl.config.project import project_root, shipped

GROUP = "experiments"


class ExperimentsConfigSource(FileConfigSource):
    """One folder of experiment files, seen as the group ``experiments`` and as nothing else.

    The group exists even where the folder does not, so that a misspelt experiment is an error and never a new key.
    """

    @staticmethod
    def scheme() -> str:
        return "mmo-rl-experiments"

    def _inside(self, config_path: str) -> str | None:
        """``config_path`` relative to the folder, or None where it is not below the group."""
        head, _, rest = config_path.strip("/").partition("/")
        return rest if head == GROUP else None

    def available(self) -> bool:
        return True

    def is_group(self, config_path: str) -> bool:
        inside = self._inside(config_path)
        if inside is None:
            return config_path.strip("/") == ""
        return inside == "" or super().is_group(inside)

    def is_config(self, config_path: str) -> bool:
        inside = self._inside(config_path)
        return bool(inside) and super().is_config(str(inside))

    def load_config(self, config_path: str) -> ConfigResult:
        return super().load_config(str(self._inside(config_path)))

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        inside = self._inside(config_path)
        if inside is None:
            return [GROUP] if config_path.strip("/") == "" and results_filter != ObjectType.CONFIG else []
        folder = os.path.join(self.path, inside)
        found: list[str] = []
        for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else ():
            if name.endswith(".yaml") or os.path.isdir(os.path.join(folder, name)):
                self._list_add_result(
                    files=found, file_path=f"{config_path}/{name}", file_name=name, results_filter=results_filter
                )
        return sorted(set(found))


class ExperimentsSearchPath(SearchPathPlugin):
    """Adds the project's experiments, then the shipped ones: a project's file wins over a shipped one of its name."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        # The search path of other applications is none of our business.
        if not any(str(entry.path).endswith(str(shipped("conf"))) for entry in search_path.get_path()):
            return
        _forget_presets_of_the_same_name()
        folders = dict.fromkeys([project_root() / GROUP, shipped(GROUP)])
        for folder in folders:
            search_path.append("mmo-rl", f"{ExperimentsConfigSource.scheme()}://{folder}")


def _forget_presets_of_the_same_name() -> None:
    """Launcher packages bring presets of their own: Hydra would take one for the schema of ours that bears its name."""
    repository = ConfigStore.instance().repo.get("hydra", {})
    for path in (shipped("conf") / "hydra").glob("*/*.yaml"):
        if path.parent.name in ("launcher", "sweeper"):
            repository.get(path.parent.name, {}).pop(path.name, None)
