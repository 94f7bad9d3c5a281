"""Rebuilds the shipped `tiny` base model: behaviour cloning of mixed-quality scripted play, on a CPU."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from mmo_rl.report.progress import Stages

if TYPE_CHECKING:
    from mmo_rl.config.components import Context


async def run(
    context: Context,
    *,
    output: str,
    examples: Annotated[int, Field(ge=64)] = 200_000,
    headlines: Annotated[int, Field(ge=0)] = 60_000,
) -> None:
    """Writes the model to the folder ``output``; ``examples`` whole prompts after ``headlines`` that hold only news."""
    from mmo_rl.lm.clone import clone
    from mmo_rl.market.teachers import demonstrations, headlines_only

    spec, seed = context.components.market(), context.settings.seed
    read_news = {"mistaken", "clumsy", "informed", "gullible"}
    with Stages(console=context.console, iterations=1) as stages:
        with stages.stage("play"):
            first = [headlines_only(e) for e in islice(demonstrations(spec, seed=seed + 1, only=read_news), headlines)]
            second = list(islice(demonstrations(spec, seed=seed), examples))
        with stages.stage("clone") as advance:
            model, tokenizer = clone([first, second], seed=seed, on_step=lambda done, total, loss: advance(done, total))
    folder = Path(output).expanduser()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    parameters = sum(p.numel() for p in model.parameters())
    context.console.print(
        f"{parameters / 1e6:.2f} M parameters in {folder}, cloned in {stages.seconds['clone']:.0f} s; "
        f"try it: mmo-rl model.path={folder} name=rebuilt"
    )
