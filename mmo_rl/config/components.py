"""What a task gets: validated settings, and components built from them. The one place that makes components.

Components are plain classes that know neither Hydra nor this module; each is built when a task first asks for it, once,
and closed in reverse order when the run ends.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from mmo_rl.config.schema import TARGET, is_named, load, schema_of, unheard_warnings
from mmo_rl.config.settings import COMPONENTS, Settings, config_sha256, masked, validate
from mmo_rl.errors import ConfigError

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

    A constructor asks for what it needs by parameter name, beside the keys that YAML sets:

    ======================  ==========================================================================
    ``home``                folder of local data
    ``measured``            folder there of what base models were measured to earn; None where MMO_RL_MEASURE says again
    ``run_folder``          `mmo_rl.report.run_folder.RunFolder` of this run
    ``console``             `rich.console.Console` that people watch
    ``rejected_to``         file for what a source cannot read: in the run folder, else under ``home``
    ``model``, ``market``   the components of these names: base model and market specification
    ``model_location``      what transformers loads for the base model: a folder or hub id
    ``model_name``          the base model's short name
    ``load_model``          function that loads a causal language model and its tokenizer
    ``checkpoints``         folder of this run's weights
    ``arena``               `mmo_rl.market.arena.MarketArena` of this run's market
    ``group``, ``job_key``  the experiment's name, the run folder's
    ``pool``                read connections to the source's database
    ``database``            what is written: the component of this name
    ``recorder``, ``cache`` its recorder of play, its cache of judgments
    ======================  ==========================================================================
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
        self._values: dict[str, Callable[[], Any]] = {
            "home": lambda: settings.home,
            "measured": lambda: None if os.environ.get("MMO_RL_MEASURE") == "again" else settings.home / "measured",
            "console": lambda: console,
            "run_folder": lambda: self._needed(run_folder),
            "rejected_to": lambda: (settings.home if run_folder is None else run_folder.path) / "rejected.jsonl",
            "checkpoints": lambda: self._needed(run_folder).path / "checkpoints",
            "job_key": lambda: self._needed(run_folder).path.name,
            "group": lambda: settings.name,
            "report.name": lambda: " ".join(overrides) or "defaults",
            "model": self.model,
            "model_name": lambda: self.model().name,
            "model_location": lambda: self.model().location(),
            "load_model": self._load_model,
            "market": self.market,
            "arena": self.arena,
        }
        self._awaited: dict[str, Callable[[], Awaitable[Any]]] = {
            "database": self.database,
            "pool": self._pool,
            "recorder": self._recorder,
            "cache": self._cache,
        }
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
        return self._make_now("model")

    def market(self) -> Any:
        return self._make_now("market")

    def sampler(self) -> Any:
        return self._make_now("sampler")

    def trainer(self) -> Any:
        return self._make_now("trainer")

    def _load_model(self) -> Any:
        from mmo_rl.policy.local import load_model

        spec = self.model()
        return partial(load_model, threads=spec.threads, cache=spec.cache)

    def evaluator(self) -> Any:
        return self._make_now("evaluate")

    def report(self) -> Any:
        return self._make_now("report")

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
        return await self._make("source")

    async def judge(self) -> Any:
        return await self._make("judge")

    async def collector(self) -> Any:
        return await self._make("collect")

    async def policy(self) -> Any:
        return await self._make("policy")

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

    def _make_now(self, name: str) -> Any:
        if name not in self._made:
            node = self._node(name)
            asked = self._asked(node, name)
            if late := sorted(asked.keys() & self._awaited.keys()):
                raise TypeError(
                    f"{node[TARGET]} asks for {', '.join(late)}, which only a component that is awaited has"
                )
            made = build(node, **{p: self._values[key]() for p, key in asked.items()})
            self._keep(name, made)
        return self._made[name]

    async def _make(self, name: str) -> Any:
        if name not in self._made:
            node = await self._completed(self._node(name), name)
            made = build(node)
            if hasattr(made, "__aenter__"):
                made = await self._stack.enter_async_context(made)
            self._keep(name, made)
        return self._made[name]

    async def _completed(self, node: Mapping[str, Any], path: str) -> dict[str, Any]:
        """``node`` with what it and the components inside it leave to us."""
        values: dict[str, Any] = {}
        for key, value in node.items():
            if isinstance(value, Mapping) and TARGET in value:
                value = await self._completed(value, f"{path}.{key}")
            elif is_named(value):
                value = {name: await self._completed(n, f"{path}.{key}.{name}") for name, n in value.items()}
            values[key] = value
        for parameter, key in self._asked(node, path).items():
            values[parameter] = await self._awaited[key]() if key in self._awaited else self._values[key]()
        return values

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

    def _asked(self, node: Mapping[str, Any], path: str) -> dict[str, str]:
        """The parameters that YAML leaves to us, and the name that each is known by here."""
        asked = {}
        for parameter in schema_of(load(node[TARGET])).parameters.values():
            if parameter.name not in node and parameter.is_injected(path):
                qualified = f"{path}.{parameter.name}"
                asked[parameter.name] = qualified if qualified in self._values else parameter.name
        return asked

    def _needed(self, run_folder: RunFolder | None) -> RunFolder:
        if run_folder is None:
            raise TypeError(f"task={self._settings.task} has no run folder, and a component asks for it")
        return run_folder


def build(node: Mapping[str, Any], **injected: Any) -> Any:
    """Makes what a validated node describes, its nested components first; ``injected`` are further arguments.

    Raises `MmoRlError` where a constructor refuses its arguments.
    """
    arguments = {
        key: build(value)
        if isinstance(value, Mapping) and TARGET in value
        else ({name: build(inner) for name, inner in value.items()} if is_named(value) else value)
        for key, value in node.items()
        if key != TARGET
    }
    return load(node[TARGET])(**arguments, **injected)
