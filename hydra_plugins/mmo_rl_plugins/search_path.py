"""Search path of an mmo-rl process: choices of the project and of installed packages, the shipped ones, experiments."""

from __future__ import annotations

import os

from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigResult
from hydra.plugins.search_path_plugin import SearchPathPlugin

from mmo_rl.config.project import choice_folders, project_root, shipped

GROUP = "experiments"


class ChoicesConfigSource(FileConfigSource):
    """A ``conf/`` folder of which only the config groups are seen: a primary config can be no one's but ours."""

    @staticmethod
    def scheme() -> str:
        return "mmo-rl-choices"

    def is_config(self, config_path: str) -> bool:
        return "/" in config_path.strip("/") and super().is_config(config_path)

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        if config_path.strip("/") == "":
            return [] if results_filter == ObjectType.CONFIG else super().list(config_path, ObjectType.GROUP)
        return super().list(config_path, results_filter)


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


class ProjectSearchPath(SearchPathPlugin):
    """Puts the choices of the project and of installed packages before the shipped ones, so that they win over those
    of their name, and adds the project's experiments, then the shipped ones."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        # The search path of other applications is none of our business.
        if not any(str(entry.path).endswith(str(shipped("conf"))) for entry in search_path.get_path()):
            return
        _forget_presets_of_the_same_name()
        _make_ours_the_basic_sweeper()
        for folder in choice_folders():
            search_path.prepend("mmo-rl", f"{ChoicesConfigSource.scheme()}://{folder}", anchor="main")
        for folder in dict.fromkeys([project_root() / GROUP, shipped(GROUP)]):
            search_path.append("mmo-rl", f"{ExperimentsConfigSource.scheme()}://{folder}")


def _forget_presets_of_the_same_name() -> None:
    """Drops presets of launcher packages that are named as one of ours: Hydra would take them for its schema."""
    repository = ConfigStore.instance().repo.get("hydra", {})
    for path in (shipped("conf") / "hydra").glob("*/*.yaml"):
        if path.parent.name in ("launcher", "sweeper"):
            repository.get(path.parent.name, {}).pop(path.name, None)


def _make_ours_the_basic_sweeper() -> None:
    """Puts our sweeper in the place of Hydra's default. Were it chosen by an override in our primary config, Hydra
    would ignore, without a word, an experiment that overrides the sweeper: of several overrides the first counts."""
    ours = ConfigStore.instance().load("hydra/sweeper/mmo_rl.yaml")
    ConfigStore.instance().store(group="hydra/sweeper", name="basic", node=ours.node, provider=ours.provider)
