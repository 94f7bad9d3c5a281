"""Extensions: classes and functions from outside this package that a config may name.

A dotted path (``my_project.judges.StrictJudge``, or with a colon before its last part) may name

1. an object of mmo_rl;
2. an object in a module of one's own: a file or package directly in the project root (`mmo_rl.config.project`), or
   beside a folder that ``--config-dir`` or ``hydra.searchpath=[file://...]`` names;
3. an object that an installed package registers by an entry point of the group ``mmo_rl.components`` or
   ``mmo_rl.strategies``.

Nothing else is imported. Folders of one's own stand at the end of ``sys.path``, so they hide no installed module.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType
from typing import Any, TypedDict

from mmo_rl.command_line import override, search_path_arguments, set_search_path_arguments
from mmo_rl.config.hints import near
from mmo_rl.config.project import project_root, registered

COMPONENTS = "mmo_rl.components"
"""Entry points of installed packages for classes: ``strict = "their_package.judges:StrictJudge"``."""
STRATEGIES = "mmo_rl.strategies"
"""Entry points for scripted strategies: ``careful = "their_package.strategies:Careful"``."""

_OURS = ("mmo_rl", "hydra_plugins")
_COMMAND_LINE = ("command-line", "hydra.searchpath in command-line")
"""Hydra's names for what added a folder to the search path: ``--config-dir``, and the override."""


@dataclass(frozen=True)
class Source:
    """One entry of Hydra's search path: what added it (``provider``), its scheme and its path."""

    provider: str
    schema: str
    path: str


class Package(TypedDict):
    """An object of an installed package: the package's name and version, and the hash of the object's module."""

    package: str
    version: str
    sha256: str | None


class Record(TypedDict):
    """The code from outside mmo_rl that a run has used. ``sources`` are the hashes of modules of one's own by their
    path below ``folder`` (or absolute), ``packages`` registered objects by their path, ``search_path`` what the command
    line added to the search path, by its ``arguments``."""

    folder: str
    sources: dict[str, str]
    packages: dict[str, Package]
    search_path: list[str]
    arguments: list[str]


class _State:
    """Folders and modules of one's own in this process."""

    def __init__(self) -> None:
        self.beside: tuple[Path, ...] = ()
        """Folders beside those that the command line adds to the search path."""
        self.search_path: tuple[str, ...] = ()
        """What the command line adds to the search path."""
        self.on_path: list[str] = []
        """What was added to ``sys.path``."""
        self.used: dict[str, Path] = {}
        """Top-level modules of one's own that were imported, and the folder of each."""
        self.hashes: dict[str, str] = {}
        """Hash of each imported source file."""
        self.registered: dict[str, EntryPoint] = {}
        """Registered objects that were imported, by their path."""


_state = _State()


def folders() -> list[Path]:
    """Returns the folders whose modules count as one's own, the project root first."""
    return list(dict.fromkeys([project_root(), *_state.beside]))


def use_search_path(sources: Iterable[Source]) -> None:
    """Takes over what the command line has added to the search path: folders for modules of one's own, and arguments
    for commands that are printed. Modules whose files have changed since they were imported are forgotten."""
    added = [source for source in sources if source.provider in _COMMAND_LINE]
    _state.beside = tuple(Path(source.path).resolve().parent for source in added if source.schema == "file")
    _state.search_path = tuple(f"{source.schema}://{source.path}" for source in added)
    directories = [source.path for source in added if source.provider == _COMMAND_LINE[0]]
    paths = [f"{source.schema}://{source.path}" for source in added if source.provider == _COMMAND_LINE[1]]
    searched = [override("hydra.searchpath", paths)] if paths else []
    set_search_path_arguments([*(a for d in directories for a in ("--config-dir", d)), *searched])
    _forget_changed()


def take_search_path(recorded: Mapping[str, Any] | None) -> None:
    """Takes over the search path of another run from its provenance, where the command line had added to it."""
    paths = ((recorded or {}).get("outside") or {}).get("search_path")
    if paths:
        use_search_path(Source(_COMMAND_LINE[1], *path.split("://", 1)) for path in paths)


def search_path_override() -> list[str]:
    """Returns the override that gives Hydra what this process has added to the search path; none where it has not."""
    return [override("hydra.searchpath", _state.search_path)] if _state.search_path else []


def find(path: str) -> object:
    """Imports the object that a dotted path names.

    Raises `ValueError` with a message for people where it may not run, does not exist, or its module has a mistake.
    """
    module, _, name = path.replace(":", ".").rpartition(".")
    if not module or not all(part.isidentifier() for part in (*module.split("."), name)):
        raise ValueError(f"found {path!r}, expected a path like my_project.judges.StrictJudge")
    top = module.partition(".")[0]
    if top not in _OURS and not _is_in_own_folder(path, top):
        entry = _registered(f"{module}.{name}")
        if entry is None:
            where = " or ".join(map(str, folders()))
            raise ValueError(
                f"found {path!r}, but there is no module {top} in {where}, and no installed package registers it "
                f"(entry point {COMPONENTS}); other code is never run from a config"
            )
        _state.registered[f"{module}.{name}"] = entry
    imported = _imported(path, module)
    if name not in vars(imported):
        names = [n for n in vars(imported) if not n.startswith("_")]
        raise ValueError(f"found {path!r}, but {module} has no {name}{near(name, names)}")
    found: object = vars(imported)[name]
    return found


def is_own(module: str) -> bool:
    """True for a module that `find` imported from a folder of one's own."""
    return module.partition(".")[0] in _state.used


def place(error: BaseException) -> str | None:
    """Returns the innermost line of one's own code in an error's traceback (``judges.py, line 12``), or None."""
    if isinstance(error, SyntaxError) and error.filename and _folder_of(Path(error.filename)) is not None:
        return f"{_shown(Path(error.filename))}, line {error.lineno}"
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if _folder_of(Path(frame.filename)) is not None:
            return f"{_shown(Path(frame.filename))}, line {frame.lineno}"
    return None


def record() -> Record | None:
    """Returns the code and choices from outside that this process has used; None where it used none."""
    root = project_root()
    sources = {_name_below(root, file): _state.hashes.setdefault(str(file), _sha256(file) or "") for file in _files()}
    packages = {path: _package(entry) for path, entry in _state.registered.items()}
    if not sources and not packages and not _state.search_path:
        return None
    return {
        "folder": str(root),
        "sources": dict(sorted(sources.items())),
        "packages": packages,
        "search_path": list(_state.search_path),
        "arguments": list(search_path_arguments()),
    }


def changed_sources(sources: Mapping[str, str]) -> list[tuple[str, str, str]]:
    """Returns name, recorded hash and hash now of recorded source files that are not as they were."""
    root = project_root()
    now = {name: _sha256(root / name) for name in sources}
    return [(name, was, now[name] or "missing") for name, was in sources.items() if now[name] != was]


# --- import -----------------------------------------------------------------------------------------------------------


def _registered(path: str) -> EntryPoint | None:
    entries = (entry for group in (COMPONENTS, STRATEGIES) for entry in registered(group).values())
    return next((entry for entry in entries if entry.value.replace(":", ".") == path), None)


def _is_in_own_folder(path: str, top: str) -> bool:
    """Checks that a top-level module lies in a folder of one's own and is the one that Python would import, before any
    of it runs. Raises `ValueError` where an installed module of the same name comes first."""
    _update_import_path()
    for folder in folders():
        spec = PathFinder.find_spec(top, [str(folder)])
        if spec is None or not _holds_code(spec):
            continue
        if _state.used.get(top, folder) != folder:
            _forget([top])
        known = sys.modules.get(top)
        other = importlib.util.find_spec(top) if known is None else known.__spec__
        if other is not None and _locations(other) != _locations(spec):
            raise ValueError(
                f"found {path!r}, but Python takes another module named {top} first, {_locations(other)[0]}; give the "
                f"one in {folder} another name"
            )
        _state.used[top] = folder
        return True
    return False


def _imported(path: str, module: str) -> ModuleType:
    try:
        imported = importlib.import_module(module)
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and error.name and f"{module}.".startswith(f"{error.name}."):
            raise ValueError(f"found {path!r}, but there is no module {error.name}") from None
        if module.partition(".")[0] in _OURS:
            if isinstance(error, ModuleNotFoundError):
                raise ValueError(f"{path} needs the package {error.name!r}: pip install 'mmo-rl[local]'") from None
            raise
        told = f"{type(error).__name__}: {error.msg if isinstance(error, SyntaxError) else error}"
        raise ValueError(f"{path} cannot be imported: {place(error) or module}: {told}") from None
    if is_own(module):
        for file in _files():
            _state.hashes.setdefault(str(file), _sha256(file) or "")
    return imported


def _update_import_path() -> None:
    """Puts the folders of one's own at the end of ``sys.path``, and takes away those that are none any more."""
    wanted = [str(folder) for folder in folders()]
    for entry in [e for e in _state.on_path if e not in wanted]:
        _state.on_path.remove(entry)
        if entry in sys.path:
            sys.path.remove(entry)
    for entry in wanted:
        if entry not in sys.path:
            sys.path.append(entry)
            _state.on_path.append(entry)
    importlib.invalidate_caches()


def _locations(spec: ModuleSpec) -> list[str]:
    """Returns the file of a module, or the folders of a package."""
    found = [spec.origin] if spec.origin else list(spec.submodule_search_locations or ())
    return [str(Path(entry).resolve()) for entry in found] if spec.has_location or not spec.origin else found


def _holds_code(spec: ModuleSpec) -> bool:
    """True for a module, or a package that holds Python files: a folder of data is no package."""
    if spec.origin is not None:
        return True
    return any(any(Path(place).rglob("*.py")) for place in spec.submodule_search_locations or ())


# --- files ------------------------------------------------------------------------------------------------------------


def _files() -> list[Path]:
    """Returns the source files of one's own that are imported."""
    if not _state.used:
        return []
    own = tuple(str(folder) for folder in {folder.resolve() for folder in _state.used.values()})
    files = []
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if file and Path(file).is_absolute() and name.partition(".")[0] not in (*_OURS, "__main__"):
            path = Path(file).resolve()
            if str(path).startswith(own) and _folder_of(path) is not None:
                files.append(path)
    return files


def _folder_of(file: Path) -> Path | None:
    """Returns the folder of one's own from which Python imports a file; None for other code, installed packages in an
    environment below such a folder included."""
    resolved = file.resolve()
    own = [folder for folder in {*folders(), *_state.used.values()} if resolved.is_relative_to(folder)]
    if not own or _is_of_package(resolved):
        return None
    places = [Path(entry or ".").resolve() for entry in sys.path]
    nearest = max((p for p in places if resolved.is_relative_to(p)), key=lambda p: len(p.parts), default=None)
    return nearest if nearest in own else None


def _is_of_package(file: Path) -> bool:
    package = Path(__file__).resolve().parents[1]
    return file.is_relative_to(package) or file.is_relative_to(package.parent / "hydra_plugins")


def _forget_changed() -> None:
    """Drops imported modules of one's own where a source file has changed: the next import reads it anew."""
    if any(_sha256(Path(file)) != known for file, known in _state.hashes.items()):
        _forget(list(_state.used))


def _forget(tops: Sequence[str]) -> None:
    files = {str(file) for file in _files()}
    for name in [n for n, m in sys.modules.items() if str(getattr(m, "__file__", None)) in files]:
        del sys.modules[name]
    for name in [n for n in sys.modules if n.partition(".")[0] in tops]:
        del sys.modules[name]
    for top in tops:
        _state.used.pop(top, None)
    _state.hashes.clear()


def _package(entry: EntryPoint) -> Package:
    dist = entry.dist
    spec = importlib.util.find_spec(entry.module)
    file = None if spec is None or spec.origin is None else _sha256(Path(spec.origin))
    name, version = ("unknown", "unknown") if dist is None else (dist.name, dist.version)
    return {"package": name, "version": version, "sha256": file}


def _sha256(file: Path) -> str | None:
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError:
        return None


def _name_below(root: Path, file: Path) -> str:
    return file.relative_to(root).as_posix() if file.is_relative_to(root) else str(file)


def _shown(file: Path) -> str:
    return _name_below(project_root(), file.resolve())
