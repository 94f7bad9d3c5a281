"""Task build_model: rebuilds the shipped `tiny` base model by behaviour cloning of mixed-quality scripted play."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import cast

from mmo_rl.command_line import command_line, override
from mmo_rl.commands.base import Command, Context
from mmo_rl.config.building import build
from mmo_rl.config.tasks import BuildModelOptions
from mmo_rl.lm.clone import clone
from mmo_rl.market.spec import MarketSpec
from mmo_rl.market.teachers import demonstrations, headlines_only
from mmo_rl.report.progress import Stages

READ_NEWS = frozenset({"mistaken", "clumsy", "informed", "gullible"})
"""Teachers whose answers follow the news."""


async def run(context: Context, options: BuildModelOptions) -> None:
    """Writes the model and its tokenizer to the folder ``output``, and prints the command that trains it."""
    spec, seed = cast(MarketSpec, build(context.settings.node("market"))), context.settings.seed
    with Stages(console=context.console, iterations=1) as stages:
        with stages.stage("play"):
            news = islice(demonstrations(spec, seed=seed + 1, only=READ_NEWS), options.headlines)
            first = [headlines_only(example) for example in news]
            second = list(islice(demonstrations(spec, seed=seed), options.examples))
        with stages.stage("clone") as advance:
            model, tokenizer = clone([first, second], seed=seed, on_step=lambda done, total, loss: advance(done, total))
    folder = Path(options.output).expanduser()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    parameters = sum(p.numel() for p in model.parameters())
    context.console.print(
        f"{parameters / 1e6:.2f} M parameters in {folder}, cloned in {stages.seconds['clone']:.0f} s; "
        f"try it: {command_line(override('model.path', str(folder)), 'name=rebuilt')}"
    )


COMMAND = Command(run=run)
