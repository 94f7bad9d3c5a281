"""Validated settings of a composed config: the one place that reads a DictConfig.

Everything that is wrong is found at once, before anything is started. A component's keys are checked against its
constructor's own signature (`mmo_rl.config.schema`), so no second description of them exists.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, cast, get_type_hints

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationToMissingValueError, OmegaConfBaseException
from pydantic import BaseModel, ConfigDict, Field, InstanceOf
from pydantic_core import to_jsonable_python

from mmo_rl.config.dropout_rules import unknown_rule
from mmo_rl.config.hints import near, show
from mmo_rl.config.schema import (
    TARGET,
    Checked,
    Node,
    Parameter,
    Problem,
    Schema,
    check_keys,
    check_node,
    check_values,
    load,
    schema_of,
)
from mmo_rl.config.spelling import with_spelling
from mmo_rl.config.strategies import unknown_players
from mmo_rl.config.tasks import TASKS, TOP_KEYS, Options
from mmo_rl.config.upgrade import upgraded
from mmo_rl.errors import ConfigError
from mmo_rl.evaluate.base import Evaluator, RecordedComparer
from mmo_rl.report.mask import mask, mask_tree
from mmo_rl.trainer.base import Capabilities, Trainer

COMPONENTS = (
    "model",
    "policy",
    "source",
    "database",
    "vocabulary",
    "sampler",
    "judge",
    "trainer",
    "market",
    "collect",
    "evaluate",
    "report",
)
"""The config groups that hold a component; a run may do without some of them (``collect=none``)."""


class Settings(BaseModel):
    """A whole validated config. ``nodes`` maps a component's name to its node, or to None where it is switched off;
    ``options`` are the keys of the task's own node (``check.format``)."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    name: Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    seed: Annotated[int, Field(ge=0, lt=2**63)]
    iterations: Annotated[int, Field(ge=1)]
    home: Path
    task: str
    nodes: Mapping[str, Node | None]
    options: InstanceOf[Options]

    def tree(self) -> Checked:
        """The settings as they would be written in YAML."""
        top = self.model_dump(mode="json", exclude={"nodes", "options"})
        nodes = {name: _plain(node) for name, node in self.nodes.items()}
        options = _plain(asdict(self.options))
        task = {self.task: {**(nodes.get(self.task) or {}), **options}} if options else {}
        return top | nodes | task

    def node(self, name: str) -> Node:
        """The node of a component that the task cannot do without. Raises `ConfigError` where it is switched off."""
        node = self.nodes[name]
        if node is None:
            raise ConfigError(
                f"task={self.task} needs a {name}, and {name}=none has none",
                hint=f"choose one: mmo-rl --help lists the choices of {name}",
            )
        return node

    @property
    def reads_database(self) -> bool:
        """True where the source reads a database: its node says of which variable (None: the embedded server)."""
        return "dsn_env" in (self.nodes["source"] or {})

    @property
    def reads_written_database(self) -> bool:
        """True where the source reads the database that is written to."""
        source, database = self.nodes["source"] or {}, self.nodes["database"] or {}
        return self.reads_database and source["dsn_env"] == database.get("dsn_env")


def validate(cfg: DictConfig) -> Settings:
    """Checks the whole config; raises one `ConfigError` that names everything that is wrong, a line each."""
    tree = upgraded(_resolved(cfg))
    problems: list[Problem] = [*_secrets(tree), *_missing(tree)]
    if problems:
        raise _error(problems)
    top = _check_top(tree, problems)
    options = _check_options(tree, problems)
    nodes = {name: _check_component(name, _components_part(name, tree), problems) for name in COMPONENTS}
    if not problems:
        problems.extend(_wrong_evaluator(top["task"], nodes["evaluate"]))
        problems.extend(unknown_players(nodes["collect"]))
        problems.extend(unknown_rule(nodes["sampler"]))
    if not problems and top["task"] == "train":
        problems.extend(_useless_play(nodes))
        problems.extend(_unused_weights(nodes))
    if problems:
        raise _error(_without_echoes(problems, cfg))
    return Settings(**top, nodes=nodes, options=TASKS[top["task"]](**options))


def masked(settings: Settings) -> Checked:
    """The settings without secrets: the form that is shown and stored."""
    masked_tree: Checked = mask_tree(settings.tree())
    return masked_tree


def config_sha256(settings: Settings) -> str:
    """Fingerprint of everything in the config that a run's result depends on: not where local data lies, not where its
    numbers are sent, and not what things cost."""
    tree = {key: _without_prices(node) for key, node in settings.tree().items()}
    text = json.dumps(tree | {"home": None, "report": None}, sort_keys=True)
    text = text.replace(json.dumps(str(settings.home))[1:-1], "")
    return hashlib.sha256(text.encode()).hexdigest()


def _without_prices(node: object) -> Any:
    if not isinstance(node, Mapping):
        return node
    return {key: value for key, value in node.items() if not key.startswith("price")}


def task_names() -> list[str]:
    """The names of the tasks, sorted."""
    return sorted(TASKS)


def _useless_play(nodes: Mapping[str, Node | None]) -> Iterator[Problem]:
    """Problems of play that a run would record and could not train on."""
    collect, sampler, source, database, trainer = (
        nodes[n] or {} for n in ("collect", "sampler", "source", "database", "trainer")
    )
    if not collect or not trainer:
        return
    if not capabilities_of(trainer).trains:
        return
    if collect["agents"] < sampler["min_agents"]:
        yield Problem(
            "collect.agents",
            f"found {collect['agents']}, but a window is trained on from sampler.min_agents={sampler['min_agents']} on",
        )
    if "dsn_env" not in source or source["dsn_env"] != database.get("dsn_env"):
        yield Problem(
            "collect",
            "the play would be recorded in another place than the source reads from; collect=none trains on what the "
            "source has, and source=embedded database=embedded plays on this machine",
        )


def _unused_weights(nodes: Mapping[str, Node | None]) -> Iterator[Problem]:
    """Problem of weights that a training run is given as a policy, and would not start from."""
    path, trainer = (nodes["policy"] or {}).get("path"), nodes["trainer"]
    if path is not None and trainer is not None and capabilities_of(trainer).trains:
        yield Problem(
            "policy.path",
            f"found {show(path)}, but task=train plays what it trains; a run that starts from these weights: "
            f"model.path={path} policy.path=null",
        )


def _wrong_evaluator(task: str, node: Node | None) -> Iterator[Problem]:
    """Problems of an evaluator that cannot do the task: a training measures its own policy, ``task=evaluate`` compares
    any two."""
    if node is None or task not in ("train", "evaluate"):
        return
    kind = load(node[TARGET])
    measures = isinstance(kind, type) and (issubclass(kind, Evaluator) or issubclass(kind, RecordedComparer))
    if task == "train" and not measures:
        yield Problem("evaluate", "evaluate=pair is for task=evaluate; a training run measures itself: evaluate=market")
    if task == "evaluate" and measures:
        yield Problem("evaluate", "task=evaluate compares two policies: evaluate=pair, its default")


def capabilities_of(trainer: Node) -> Capabilities:
    """The capabilities of the trainer that a validated node describes."""
    return cast(type[Trainer], load(trainer[TARGET])).capabilities


# --- reading --------------------------------------------------------------------------------------------------------


def _resolved(cfg: DictConfig) -> Checked:
    try:
        tree = OmegaConf.to_container(cfg, resolve=True)
    except InterpolationToMissingValueError as error:
        missing = str(error.msg).splitlines()[0].rpartition(": ")[2]
        raise _error([Problem(missing, _MISSING.format(key=missing))]) from None
    except OmegaConfBaseException as error:
        key = error.full_key or "the config"
        raise ConfigError(f"{key}: {mask(str(error.msg or error).splitlines()[0])}", hint="mmo-rl --cfg job") from None
    assert isinstance(tree, dict)
    return {str(k): v for k, v in tree.items()}


def _check_top(tree: Node, problems: list[Problem]) -> Checked:
    """name, seed, iterations, home and task; and whatever else stands at the top, which is unknown."""
    hints = get_type_hints(Settings, include_extras=True)
    fields = {k: Parameter(k, hints[k], None, "key") for k in Settings.model_fields if k not in ("nodes", "options")}
    known = [*fields, *COMPONENTS, str(tree.get("task")), *TOP_KEYS.get(str(tree.get("task")), ())]
    for key in tree:
        if key not in known:
            hint = near(key, [k for k in known if k != "None"])
            hint = hint or f"; the keys at the top: {', '.join(known)}"
            problems.append(Problem(key, f"found {show(tree[key])}, but there is no such key{hint}"))
    problems.extend(Problem(name, "missing") for name in fields if name not in tree)
    wrong: list[Problem] = []
    values = check_values({fields[k]: tree[k] for k in fields if k in tree}, "", wrong)
    problems.extend(with_spelling(problem, tree.get(problem.key)) for problem in wrong)
    task = values.get("task")
    if task is not None and task not in task_names():
        problems.append(Problem("task", f"found {show(task)}, expected one of {', '.join(task_names())}"))
    return values


def _check_component(name: str, node: object, problems: list[Problem]) -> Checked | None:
    if node is None or node == {} or node == {"_target_": None}:
        return None
    if not isinstance(node, Mapping):
        problems.append(Problem(name, f"found {show(node)}, expected a choice of the group: {name}=NAME"))
        return None
    return check_node(node, name, problems)


def _check_options(tree: Node, problems: list[Problem]) -> Checked:
    """Checks the task's own node against its options. A task that bears a component's name (``judge``) shares that
    one's node: the keys that are options are the task's."""
    task = tree.get("task")
    if not isinstance(task, str) or task not in task_names():
        return {}
    node = tree.get(task) or {}
    if task in COMPONENTS:
        node = {k: v for k, v in node.items() if k in _keywords(task)} if isinstance(node, Mapping) else {}
    if not isinstance(node, Mapping):
        problems.append(Problem(task, f"found {show(node)}, expected keys of the task: {task}.KEY=VALUE"))
        return {}
    return check_keys(Schema(_Named(f"task={task}"), _keywords(task)), node, task, problems)


def _components_part(name: str, tree: Node) -> Any:
    """A component's node; of the one that bears the task's name, what is not the task's."""
    node = tree.get(name)
    if tree.get("task") != name or not isinstance(node, Mapping):
        return node
    return {k: v for k, v in node.items() if k not in _keywords(name)}


def _keywords(task: str) -> dict[str, Parameter]:
    """The keys of a task: the fields of its options."""
    return dict(schema_of(cast(Callable[..., object], TASKS[task])).parameters) if task in TASKS else {}


class _Named:
    """Stands for a task where messages name what a key belongs to."""

    def __init__(self, name: str) -> None:
        self.__name__ = name

    def __call__(self) -> None: ...


# --- what may not be in a config ------------------------------------------------------------------------------------


def refuse_secrets(overrides: list[str]) -> None:
    """Raises `ConfigError` where an override holds a password or key; the message does not repeat it."""
    problems = []
    for key, _, value in (o.partition("=") for o in overrides):
        named = _SECRET_NAME.search(key) and value not in ("null", "''", '""')
        if value and (_is_secret(value) or named):
            problems.append(Problem(key.lstrip("+~"), _SECRET_ADVICE))
        elif not {"$", "("} & set(value) and any(_is_no_variable(key, v.strip(" '\"")) for v in value.split(",")):
            problems.append(Problem(key.lstrip("+~"), _VARIABLE_ADVICE))
    if problems:
        raise _error(problems)


_MISSING = "missing, it has no default; set it: {key}=VALUE"
_SECRET_ADVICE = (
    "holds a password or key, which would end up in logs and folder names; put it into an environment variable and "
    "give that one's name (source.dsn_env=DATABASE_URL, judge.api_key_env=OPENAI_API_KEY)"
)
_VARIABLE_ADVICE = (
    "must be the name of an environment variable (letters, digits, _); this may be the secret itself, "
    "which would be stored with the run; put it into a variable: export NAME=..., and give NAME here"
)
_VARIABLE_KEY = re.compile(r"(?:^|[._])(?:api_key|dsn)_env$")
_VARIABLE = re.compile(r"(?![0-9a-f]{32,}$)[A-Za-z_][A-Za-z0-9_]*")
_SECRET_NAME = re.compile(r"(?i)(^|[._+])(password|passwd|secret|token|api_?key)$")
_LIBPQ_PASSWORD = re.compile(r"(?i)(?:^|[?&\s'\"])(?:password|sslpassword)\s*=\s*[^\s&]")


def _is_secret(text: str) -> bool:
    return mask(text, environ={}) != text or _LIBPQ_PASSWORD.search(text) is not None


def _is_no_variable(key: str, value: str) -> bool:
    """Tells a value of ``api_key_env`` or ``dsn_env`` that cannot be a variable's name: likely the secret itself."""
    return bool(value) and _VARIABLE_KEY.search(key) is not None and _VARIABLE.fullmatch(value) is None


def _secrets(tree: Node) -> Iterator[Problem]:
    for key, value in _leaves(tree):
        if isinstance(value, str) and len(value) < 2000 and _is_secret(value):
            yield Problem(key, _SECRET_ADVICE)
        elif isinstance(value, str) and value != "???" and _is_no_variable(key, value):
            yield Problem(key, _VARIABLE_ADVICE)


def _missing(tree: Node) -> Iterator[Problem]:
    for key, value in _leaves(tree):
        if value == "???":
            yield Problem(key, _MISSING.format(key=key))


def _without_echoes(problems: list[Problem], cfg: DictConfig) -> list[Problem]:
    """Leaves out what only repeats a problem: ``sampler.seed`` is ``${seed}``, so a wrong seed is told once."""
    written = dict(_leaves(OmegaConf.to_container(cfg, resolve=False)))
    wrong = {f"${{{problem.key}}}" for problem in problems}
    return [problem for problem in problems if written.get(problem.key) not in wrong]


def _leaves(value: object, path: str = "") -> Iterator[tuple[str, object]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _leaves(inner, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _leaves(inner, f"{path}[{index}]")
    else:
        yield path, value


def _error(problems: list[Problem]) -> ConfigError:
    lines = list(dict.fromkeys(str(p) for p in problems))
    if len(lines) == 1:
        return ConfigError(lines[0])
    return ConfigError("\n  ".join([f"{len(lines)} things are wrong in the configuration", *lines]))


def _plain(value: object) -> Any:
    """Validated values in JSON's own types."""
    return to_jsonable_python(value)
