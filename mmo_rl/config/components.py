"""What a task gets: validated settings, and components built from them. The one place that makes components.

Components are plain classes that know neither Hydra nor this module; each is built when a task first asks for it, once,
and closed in reverse order when the run ends.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from mmo_rl.config.schema import TARGET, is_named, load, schema_of, unheard_warnings
from mmo_rl.config.settings import COMPONENTS, Settings, config_sha256, masked, validate
from mmo_rl.config.strategies import find_player
from mmo_rl.errors import ConfigError
from mmo_rl.evaluate.base import EvaluatorParts
from mmo_rl.judge.base import JudgeParts
from mmo_rl.lm.base import ModelParts
from mmo_rl.market.base import CollectorParts
from mmo_rl.policy.base import PolicyParts
from mmo_rl.report.base import ReportParts
from mmo_rl.source.base import SourceParts
from mmo_rl.trainer.base import TrainerParts
from mmo_rl.types import Parts

if TYPE_CHECKING:
    from rich.console import Console

    from mmo_rl.report.run_folder import RunFolder
    from mmo_rl.types import PolicyVersion

__all__ = ["COMPONENTS", "Components", "Context", "Settings", "config_sha256", "masked", "validate"]


@dataclass(frozen=True)
class Context:
    """What ``run(context, **options)`` of a task works with.

    ``run_folder`` is None for tasks that leave none; ``overrides`` are the task's overrides as typed.
    """

    settings: Settings
    components: Components
    console: Console
    run_folder: RunFolder | None
    overrides: tuple[str, ...]

    @property
    def home(self) -> Path:
        return self.settings.home


class Components:
    """The components of one run, by the name of their config group; an asynchronous context manager.

    What a component needs beside its YAML keys are the ``parts`` of its room's ``base.py``.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        console: Console,
        run_folder: RunFolder | None = None,
        overrides: Sequence[str] = (),
    ) -> None:
        self._settings = settings
        self._overrides = tuple(overrides)
        self._made: dict[str, Any] = {}
        self._console = console
        self._run_folder = run_folder
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        await self._stack.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._stack.__aexit__(kind, error, traceback)

    def has(self, name: str) -> bool:
        """Whether the config has a component of this group (``collect=none`` has none)."""
        return self._settings.nodes[name] is not None

    # --- made without waiting --------------------------------------------------------------------------------------

    def model(self) -> Any:
        return self._make_now("model", ModelParts(cache=self._settings.home / "models"))

    def market(self) -> Any:
        return self._make_now("market")

    def sampler(self) -> Any:
        return self._make_now("sampler")

    def trainer(self) -> Any:
        if "trainer" not in self._made:
            folder = self._folder()
            parts = TrainerParts(
                model=self.model(),
                checkpoints=folder.path / "checkpoints",
                folder=folder,
                experiment=self._settings.name,
            )
            self._make_now("trainer", parts)
        return self._made["trainer"]

    def evaluator(self) -> Any:
        again = os.environ.get("MMO_RL_MEASURE") == "again"
        measured = None if again else self._settings.home / "measured"
        return self._make_now("evaluate", EvaluatorParts(arena=self.arena(), measured=measured))

    def report(self) -> Any:
        return self._make_now("report", ReportParts(folder=self._folder()))

    def arena(self) -> Any:
        if "arena" not in self._made:
            from mmo_rl.market.arena import MarketArena

            self._made["arena"] = MarketArena(spec=self.market())
        return self._made["arena"]

    def arenas(self, scenarios: Sequence[str]) -> dict[str, Any]:
        """The arena of each named market config, with this run's own ``market.KEY=VALUE``; without names that of the
        run's own market."""
        from mmo_rl.config.scenarios import market_node
        from mmo_rl.market.arena import MarketArena

        if not scenarios:
            return {"market": self.arena()}
        arenas: dict[str, Any] = {}
        for name in scenarios:
            with unheard_warnings() if arenas else contextlib.nullcontext():
                arenas[name] = MarketArena(spec=build(market_node(name, self._overrides)))
        return arenas

    # --- made with a connection ------------------------------------------------------------------------------------

    async def database(self) -> Any:
        return await self._make("database")

    async def source(self) -> Any:
        if "source" not in self._made:
            node = self._node("source")
            folder = self._settings.home if self._run_folder is None else self._run_folder.path
            rejected = folder / "rejected.jsonl"
            pool = {"pool": await self._pool()} if "dsn_env" in node else {}
            await self._make("source", SourceParts(**pool, rejected_to=rejected))
        return self._made["source"]

    async def judge(self) -> Any:
        if "judge" not in self._made:
            cache = await self._cache() if _takes_parts(self._node("judge")) else None
            await self._make("judge", JudgeParts(cache=cache))
        return self._made["judge"]

    async def collector(self) -> Any:
        if "collect" not in self._made:
            parts = CollectorParts(arena=self.arena(), recorder=await self._recorder(), find_player=find_player)
            await self._make("collect", parts)
        return self._made["collect"]

    async def policy(self) -> Any:
        return await self._make("policy", PolicyParts(model=self.model()))

    async def published(self, version: PolicyVersion) -> Any:
        """The policy of a version that this run's trainer published, or of its base model: weights on this machine, or
        the endpoint of the trainer's backend, asked as ``policy=endpoint`` says where that is chosen."""
        trainer = self.trainer()
        if not trainer.capabilities.serves:
            from mmo_rl.policy.local import open_policy

            return open_policy(version, self.model())
        key = f"policy {version.version}"
        if key not in self._made:
            from mmo_rl.policy.endpoint import EndpointPolicy

            chosen = self._settings.nodes["policy"] or {}
            options = dict(chosen) if str(chosen.get(TARGET, "")).endswith(".EndpointPolicy") else {}
            options |= {"max_completion_tokens": self.model().max_completion_tokens, "version": version.version}
            options |= asdict(trainer.served(version.version))
            options.pop(TARGET, None)
            self._made[key] = await self._stack.enter_async_context(EndpointPolicy(**options))
        return self._made[key]

    # --- how -------------------------------------------------------------------------------------------------------

    async def _pool(self) -> Any:
        """Read connections to where the source says; shared with what is written where that is the same database."""
        dsn_env = self._node("source").get("dsn_env")
        written = self._settings.nodes["database"]
        if written is not None and written.get("dsn_env") == dsn_env:
            return (await self.database()).read_only()
        if "source database" not in self._made:
            from mmo_rl.database.database import Database

            database = Database(dsn_env=dsn_env, home=self._settings.home)
            self._made["source database"] = await self._stack.enter_async_context(database)
        return self._made["source database"].read_only()

    async def _recorder(self) -> Any:
        if "recorder" not in self._made:
            from mmo_rl.database.recorder import TrajectoryRecorder

            self._made["recorder"] = TrajectoryRecorder(database=await self.database())
        return self._made["recorder"]

    async def _cache(self) -> Any:
        if "cache" not in self._made:
            from mmo_rl.database.judgments import StoredJudgments

            self._made["cache"] = StoredJudgments(database=await self.database())
        return self._made["cache"]

    def _make_now(self, name: str, parts: Parts | None = None) -> Any:
        if name not in self._made:
            self._keep(name, build(self._node(name), parts))
        return self._made[name]

    async def _make(self, name: str, parts: Parts | None = None) -> Any:
        if name not in self._made:
            made = build(self._node(name), parts)
            if hasattr(made, "__aenter__"):
                made = await self._stack.enter_async_context(made)
            self._keep(name, made)
        return self._made[name]

    def _keep(self, name: str, made: Any) -> None:
        self._made[name] = made
        if hasattr(made, "aclose"):
            self._stack.push_async_callback(made.aclose)

    def _node(self, name: str) -> Mapping[str, Any]:
        node = self._settings.nodes[name]
        if node is None:
            raise ConfigError(
                f"task={self._settings.task} needs a {name}, and {name}=none has none",
                hint=f"choose one: mmo-rl --help lists the choices of {name}",
            )
        return node

    def _folder(self) -> RunFolder:
        if self._run_folder is None:
            raise TypeError(f"task={self._settings.task} has no run folder, and a component asks for it")
        return self._run_folder


def _takes_parts(node: Mapping[str, Any]) -> bool:
    """True where the component of ``node``, or one inside it, takes collaborators."""
    inner = [value for value in node.values() if isinstance(value, Mapping)]
    inner += [v for value in inner if is_named(value) for v in value.values()]
    return schema_of(load(node[TARGET])).takes_parts or any(_takes_parts(n) for n in inner if TARGET in n)


def build(node: Mapping[str, Any], parts: Parts | None = None) -> Any:
    """The component that a validated node describes, its nested components first; ``parts`` go to each that takes them.

    Raises `MmoRlError` where a constructor refuses its arguments.
    """
    target = load(node[TARGET])
    schema = schema_of(target)
    arguments: dict[str, Any] = {}
    for key, value in node.items():
        if key == TARGET:
            continue
        if isinstance(value, Mapping) and TARGET in value:
            arguments[key] = build(value, parts)
        elif is_named(value):
            arguments[key] = {name: build(inner, parts) for name, inner in value.items()}
        elif schema.parameters[key].kind == "node":
            arguments[key] = schema.parameters[key].annotation(**value)
        else:
            arguments[key] = value
    if schema.takes_parts:
        arguments["parts"] = parts
    return target(**arguments)
