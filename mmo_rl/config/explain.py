"""Hydra's errors in one line each: what was found, what was expected, what to type next.

Hydra stops at the first override that it cannot apply. Here the others are tried as well, so that all mistakes of a
command line are told at once.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mmo_rl.config import extensions
from mmo_rl.config.project import choice_folders, searched, shipped
from mmo_rl.config.spelling import as_name, of_hub
from mmo_rl.errors import ConfigError, MmoRlError

_HELP = "mmo-rl --help lists groups and choices; mmo-rl --cfg job prints the composed config"


def explain(error: Exception, arguments: Sequence[str]) -> MmoRlError:
    """Turns any error into a message. Mistakes in the command or the config become `ConfigError`; others, such as a
    defect or a full disk, are told by their type and text."""
    if isinstance(error, MmoRlError):
        return error
    if isinstance(error, (HydraException, OmegaConfBaseException)) or _raised_by_hydra(error):
        lines = _all_problems(error, arguments)
        text = lines[0] if len(lines) == 1 else "\n  ".join([f"{len(lines)} overrides are wrong", *lines])
        return ConfigError(text, hint=_HELP)
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return MmoRlError(
            f"{where}{error.strerror or error}",
            hint="check the path, its permissions and the disk space; MMO_RL_ROOT=DIR moves runs, MMO_RL_HOME=DIR data",
        )
    if line := extensions.place(error):
        return MmoRlError(
            f"{line}: {type(error).__name__}: {error}",
            hint="this is code of your own; the traceback is in the run's log.txt, HYDRA_FULL_ERROR=1 shows it here",
        )
    return MmoRlError(
        f"unexpected {type(error).__name__}: {error}",
        hint="the traceback is in the run's log.txt; HYDRA_FULL_ERROR=1 with the same command shows it here",
    )


def _raised_by_hydra(error: Exception) -> bool:
    """Hydra refuses some overrides and flags with a plain ValueError."""
    traceback = error.__traceback__
    module = ""
    while isinstance(error, ValueError) and traceback is not None:
        module = traceback.tb_frame.f_globals.get("__name__", "")
        traceback = traceback.tb_next
    return module.partition(".")[0] == "hydra"


def _all_problems(error: Exception, arguments: Sequence[str]) -> list[str]:
    overrides, mode, config_dir = _command(arguments)
    wrong: list[tuple[str, Exception]] = []
    left, current = list(overrides), error
    while (culprit := _culprit(current, left)) is not None:
        wrong.append((culprit, current))
        left.remove(culprit)
        try:
            config = _compose(left, mode, config_dir)
        except (HydraException, OmegaConfBaseException, ValueError) as next_error:
            current = next_error
        else:
            return [_line(e, o, config) for o, e in wrong]
    config = OmegaConf.create()
    return [*(_line(e, o, config) for o, e in wrong), _line(current, None, config)]


def _command(arguments: Sequence[str]) -> tuple[list[str], RunMode, str | None]:
    """The overrides, the mode and ``--config-dir`` of a command line."""
    from hydra._internal.utils import get_args_parser

    parsed, _ = get_args_parser().parse_known_args(list(arguments))
    return list(parsed.overrides), RunMode.MULTIRUN if parsed.multirun else RunMode.RUN, parsed.config_dir


def _compose(overrides: list[str], mode: RunMode, config_dir: str | None) -> DictConfig:
    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from hydra._internal.utils import create_config_search_path
    from hydra.core.config_search_path import SearchPathQuery

    search_path = create_config_search_path(f"file://{shipped('conf')}")
    if config_dir is not None:
        place = SearchPathQuery(provider="schema")
        search_path.prepend(provider="command-line", path=f"file://{os.path.abspath(config_dir)}", anchor=place)
    return ConfigLoaderImpl(search_path).load_configuration("config", overrides, run_mode=mode)


def _culprit(error: Exception, overrides: Sequence[str]) -> str | None:
    """The override that an error is about, or None where that is not one of them."""
    if isinstance(error, OverrideParseException):
        return error.override if error.override in overrides else None
    text = _text(error)
    missing = str(error.missing_cfg_file or "") if isinstance(error, MissingConfigException) else ""
    quoted = [missing] if missing else re.findall(r"'([^']*)'", re.sub(r"^In '[^']*': ", "", text))
    merging = re.match(r"Error merging override (\S+)", text)
    names = [n.removeprefix("/") for n in [*quoted, *([merging[1]] if merging else [])]]
    for name in names:
        for override in overrides:
            key, _, value = override.lstrip("+~").partition("=")
            if name in (override, override.lstrip("+~"), key, f"{key}/{value}"):
                return override
    if text.startswith("Config group override"):  # it does not say which
        groups = [o for o in overrides if _choices_of(o.lstrip("+~").partition("=")[0])]
        return next((o for o in groups if not isinstance(_value(o), (str, list))), None)
    return None


def _value(override: str) -> object:
    return OmegaConf.create(f"value: {override.partition('=')[2]}").value


def _line(error: Exception, override: str | None, config: DictConfig) -> str:
    from mmo_rl.config.hints import near

    text = _text(error)
    if isinstance(error, OverrideParseException):
        return _unreadable(error.override, text)
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        return _missing(error, near)
    if "requires --multirun" in text or text.startswith("Ambiguous value"):
        return f"{override}: several values are a sweep, which needs -m (a list is key=[a,b], a text key='a,b')"
    if override is None:
        return text.splitlines()[0] if text else type(error).__name__
    key = override.lstrip("+~").partition("=")[0]
    if key == "experiments" and not override.startswith("+"):
        return f"{override}: an experiment is added; did you mean +{override}?"
    if text.startswith("Config group override"):
        return f"{override}: expected the name of a choice: {key}=NAME{_choices_of(key)}"
    if text.startswith("Could not append"):
        return f"{override}: {key} exists already; set it without the +"
    if text.startswith("Could not delete"):
        return f"{override}: there is nothing to delete{near(key, _keys(config))}"
    if text.startswith(("Could not override", "Error merging")) or "does not exist" in text:
        candidates = [*_keys(config), *_groups(config)]
        return f"{override}: there is no key or group {key}{near(key, candidates) or _siblings(key, config)}"
    return f"{override}: {text.splitlines()[0]}"


def _unreadable(override: str, text: str) -> str:
    from mmo_rl.config.settings import task_names

    if re.fullmatch(r"[\w-]+", override):
        if override in task_names():
            return f"found {override!r}, expected key=value; did you mean task={override}?"
        return f"found {override!r}, expected key=value, group=choice or task=NAME"
    opened = override.count("'") % 2 or override.count('"') % 2
    if opened or any(override.count(a) != override.count(b) for a, b in ("[]", "{}", "()")):
        reason = "a quote or bracket is not closed"
    else:
        lines = [line for line in text.splitlines()[1:] if line.strip(" ^") and not line.startswith("See ")]
        reason = lines[0].strip().partition(" expecting ")[0] if lines else "its syntax is wrong"
    key, _, value = override.partition("=")
    if key == "name" and not opened and (name := as_name(value)):
        return f"{override!r}: expected letters, digits, dots, dashes or underscores; write name={name}"
    return f"{override!r} cannot be read: {reason}; quote text with special characters: 'key=\"...\"'"


def _missing(error: MissingConfigException, near: Callable[..., str]) -> str:
    group, _, choice = str(error.missing_cfg_file).rpartition("/")
    options = list(error.options or [])
    if not group:
        return f"there is no config {choice!r}"
    kind, _, hub = str(error.missing_cfg_file).partition("/")
    if kind == "model" and (told := of_hub(hub)) is not None:
        return f"model={hub}: expected the name of a choice: {', '.join(_names_of(kind))}; {told}"
    plus = "+" if group == "experiments" else ""
    hint = near(choice, options, prefix=f"{plus}{group}=") or ""
    found = f"Could not find '{group}/{choice}'"
    listed = f"the choices of {plus}{group}: {', '.join(options) or 'none'}{hint}"
    return f"{found}; {listed} (looked in {searched()})"


def _text(error: Exception) -> str:
    """The message, with the cause that Hydra hides behind an empty one."""
    text = str(error).strip()
    cause = error.__cause__
    return text if text or cause is None else str(cause).strip()


def _keys(config: object, path: str = "") -> Iterator[str]:
    if isinstance(config, DictConfig):
        config = OmegaConf.to_container(config, resolve=False)
    if isinstance(config, Mapping):
        for key, value in config.items():
            if path or key != "hydra":
                name = f"{path}.{key}" if path else str(key)
                if str(key) != "_target_":
                    yield name
                yield from _keys(value, name)


def _groups(config: DictConfig) -> Iterable[str]:
    choices = OmegaConf.select(config, "hydra.runtime.choices") or {}
    return [str(k) for k in choices if not str(k).startswith("hydra/")]


def _names_of(group: str) -> list[str]:
    folders = [*choice_folders(), shipped("conf")]
    return sorted({path.stem for folder in folders for path in (folder / group).glob("*.yaml")})


def _choices_of(group: str) -> str:
    names = _names_of(group)
    return f"; the choices: {', '.join(names)}" if names else ""


def _siblings(key: str, config: DictConfig) -> str:
    parent = key.rpartition(".")[0]
    names = [k for k in _keys(config) if k.rpartition(".")[0] == parent]
    return f"; the keys there: {', '.join(n.rpartition('.')[2] for n in names)}" if names else ""
