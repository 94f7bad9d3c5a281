"""Training on the same recorded play: `trainer=local`, the step of TRL's GRPOTrainer, and the bare model's passes.

    python benchmarks/train.py [--windows 16] [--agents 8] [--rounds 3] [--threads 1] [--device cpu] [--json]

The shipped model plays windows of the default market; every answer is recorded with its token ids and logprobs. Then,
in turns within one run, on the same model and the same answers, each in as many gradient steps:

- local: `LocalTrainer.train` as a whole: rendering, packing, loss, optimizer, and the published checkpoint.
- trl: GRPOTrainer's own loss, backward pass and optimizer step on batches that are ready, padded to their longest; what
  TRL does to make them (generation, tokenising, scoring) is not counted.
- floor: forward and backward pass of the bare transformers model over the same padded batches, and nothing else.

Two shapes of the same play: ``trajectories``, one score for the eight answers of an agent's window, and ``decisions``,
a group for each tick, whose agents share most of their prompt. Numbers are answer tokens a second, medians over
rounds; rewards are drawn by chance, so that every group teaches.

Goal: local at least 1.5x TRL. Met on trajectories on a CPU: 1.62x to 1.66x, and 1.40x to 1.78x on decisions (three runs
of 2026-11-23, TRL 1.16.0, 8 windows, 3 rounds, one thread; 1.23x to 1.36x and 1.00x to 1.29x the bare model). What
answers have in common at their beginning is computed once, within a trajectory's calls and between the agents asked at
one moment (`mmo_rl/lm/prefix_tree.py`).

TRL is no dependency of this project; without it the other numbers are printed:

    pip install --target FOLDER --no-deps trl==1.16.0 datasets dill multiprocess pandas pytz
    PYTHONPATH=FOLDER python benchmarks/train.py
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mmo_rl.lm.load import load_model
from mmo_rl.lm.model import SHIPPED, ModelSpec
from mmo_rl.market.arena import MarketArena
from mmo_rl.market.base import Episode
from mmo_rl.market.spec import MarketSpec
from mmo_rl.policy.local import LocalPolicy
from mmo_rl.report.run_folder import RunFolder
from mmo_rl.rng import derive_seed
from mmo_rl.trainer.base import TrainerParts
from mmo_rl.trainer.local import LocalTrainer
from mmo_rl.types import PolicyCall, TrainingGroup, TrainingSample

LEARNING_RATE = 5e-4
CLIP = 0.2
GOAL = 1.5


# --- the play -------------------------------------------------------------------------------------------------------


def play(*, windows: int, agents: int, threads: int) -> list[Episode]:
    """Windows of the default market, all seats the shipped model's."""
    model, tokenizer = load_model(str(SHIPPED / "tiny"), threads=threads)
    policy = LocalPolicy(model=model, tokenizer=tokenizer, name="tiny", version=0, max_completion_tokens=24)
    arena = MarketArena(spec=MarketSpec())
    seeds = [derive_seed(0, "benchmark market", window) for window in range(windows)]
    return asyncio.run(
        arena.play(policy, market_seeds=seeds, seats=[None] * agents, temperature=1.0, seed=derive_seed(0, "play"))
    )


def groups_of(episodes: Sequence[Episode], *, by: str) -> list[TrainingGroup]:
    """The play as GRPO groups, with rewards by chance."""
    draw = random.Random(0)
    groups = []
    for window, episode in enumerate(episodes):
        calls = [[_call(step) for step in steps] for steps in episode.steps]
        if by == "trajectories":
            members = [
                TrainingSample(f"{window}/{agent}", None, tuple(made), draw.random())
                for agent, made in enumerate(calls)
            ]
            groups.append(TrainingGroup(str(window), tuple(members)))
            continue
        for tick, made in enumerate(zip(*calls, strict=True)):
            decisions = [
                TrainingSample(f"{window}/{agent}", tick, (call,), draw.random()) for agent, call in enumerate(made)
            ]
            groups.append(TrainingGroup(f"{window}#{tick}", tuple(decisions)))
    return groups


def _call(step: Any) -> PolicyCall:
    answer = step.completion
    return PolicyCall(step.messages, answer.text, answer.prompt_token_ids, answer.token_ids, answer.logprobs)


# --- the contestants ------------------------------------------------------------------------------------------------


def train_locally(groups: Sequence[TrainingGroup], *, device: Any, threads: int) -> tuple[float, int, int]:
    """Seconds, trained tokens and gradient steps of one update by `trainer=local`."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = LocalTrainer(
            learning_rate=LEARNING_RATE,
            clip_epsilon=CLIP,
            device=device,
            seed=0,
            parts=TrainerParts(
                model=ModelSpec(
                    name="tiny", base_model="tiny", context_length=512, max_completion_tokens=24, threads=threads
                ),
                checkpoints=Path(folder) / "checkpoints",
                folder=RunFolder(Path(folder)),
                experiment="benchmark",
            ),
        )

        async def update() -> tuple[float, int, int]:
            await trainer.resume(0)
            began = time.perf_counter()
            trained = await trainer.train(groups, iteration=0)
            seconds = time.perf_counter() - began
            await trainer.aclose()
            return seconds, trained.tokens, trained.gradient_steps

        return asyncio.run(update())


def batches_of(groups: Sequence[TrainingGroup], *, steps: int, pad: int, device: str) -> list[dict[str, Any]]:
    """Every answer once, in ``steps`` batches of about as many, those of like length together: prompts padded on the
    left, answers on the right, as TRL's trainer takes them."""
    import torch

    rows = []
    for group in groups:
        rewards = [sample.reward for sample in group.samples]
        mean, spread = statistics.fmean(rewards), statistics.pstdev(rewards) + 1e-6
        for sample in group.samples:
            rows += [(call, (sample.reward - mean) / spread) for call in sample.calls]
    rows.sort(key=lambda row: len(row[0].prompt_token_ids or ()))
    size = -(-len(rows) // steps)
    batches = []
    for first in range(0, len(rows), size):
        part = rows[first : first + size]
        prompts = [list(call.prompt_token_ids or ()) for call, _ in part]
        answers = [list(call.token_ids or ()) for call, _ in part]
        before, after = max(map(len, prompts)), max(map(len, answers))
        batches.append(
            {
                "prompt_ids": torch.tensor([[pad] * (before - len(p)) + p for p in prompts]),
                "prompt_mask": torch.tensor([[0] * (before - len(p)) + [1] * len(p) for p in prompts]),
                "completion_ids": torch.tensor([a + [pad] * (after - len(a)) for a in answers]),
                "completion_mask": torch.tensor([[1] * len(a) + [0] * (after - len(a)) for a in answers]),
                "old_per_token_logps": torch.tensor(
                    [
                        [*(call.logprobs or ()), *[0.0] * (after - len(a))]
                        for (call, _), a in zip(part, answers, strict=True)
                    ]
                ),
                "advantages": torch.tensor([advantage for _, advantage in part]),
            }
        )
    random.Random(0).shuffle(batches)
    return [{name: value.to(device) for name, value in batch.items()} for batch in batches]


def train_with_trl(groups: Sequence[TrainingGroup], *, steps: int, device: str, threads: int) -> float:
    """Seconds of TRL's loss, backward pass and optimizer step over all batches."""
    import torch
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    model, tokenizer = load_model(str(SHIPPED / "tiny"), device=device, threads=threads)
    with tempfile.TemporaryDirectory() as folder:
        config = GRPOConfig(
            output_dir=folder,
            learning_rate=LEARNING_RATE,
            epsilon=CLIP,
            beta=0.0,
            loss_type="bnpo",
            per_device_train_batch_size=8,
            num_generations=8,
            gradient_checkpointing=False,
            bf16=False,
            use_cpu=device == "cpu",
            report_to=[],
        )
        trainer = GRPOTrainer(
            model=model,
            args=config,
            reward_funcs=lambda completions, **_: [0.0] * len(completions),
            train_dataset=Dataset.from_dict({"prompt": ["-"]}),
            processing_class=tokenizer,
        )
        trainer.create_optimizer()
        trainer.current_gradient_accumulation_steps = 1
        trainer.model.train()
        torch.manual_seed(0)
        batches = batches_of(groups, steps=steps, pad=tokenizer.pad_token_id, device=device)
        began = time.perf_counter()
        for batch in batches:
            loss = trainer.compute_loss(trainer.model, batch)
            trainer.optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trainer.model.parameters(), 1.0)
            trainer.optimizer.step()
        return time.perf_counter() - began


def pass_bare(groups: Sequence[TrainingGroup], *, steps: int, device: str, threads: int) -> float:
    """Seconds of the bare model's forward and backward passes over all batches, logits at the answers only."""
    import torch

    model, tokenizer = load_model(str(SHIPPED / "tiny"), device=device, threads=threads)
    batches = batches_of(groups, steps=steps, pad=tokenizer.pad_token_id, device=device)
    began = time.perf_counter()
    for batch in batches:
        tokens = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
        mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
        answers = batch["completion_ids"].shape[1]
        logits = model(input_ids=tokens, attention_mask=mask, use_cache=False, logits_to_keep=answers + 1).logits
        loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), batch["completion_ids"].flatten())
        model.zero_grad()
        loss.backward()
    return time.perf_counter() - began


# --- the race -------------------------------------------------------------------------------------------------------


def race(groups: Sequence[TrainingGroup], *, rounds: int, device: str, threads: int) -> dict[str, Any]:
    """Medians over rounds in which everybody has a turn; a round before them warms up."""
    trl = importlib.util.find_spec("trl") is not None
    others: dict[str, Callable[..., float]] = {"floor": pass_bare} | ({"trl": train_with_trl} if trl else {})
    seconds: dict[str, list[float]] = {name: [] for name in ("local", *others)}
    tokens = steps = 0
    for number in range(rounds + 1):
        took: dict[str, float] = {}
        took["local"], tokens, steps = train_locally(groups, device=device, threads=threads)
        for name, run in others.items():
            took[name] = run(groups, steps=steps, device=device, threads=threads)
        if number:
            for name, value in took.items():
                seconds[name].append(value)
    speed = {name: tokens / statistics.median(values) for name, values in seconds.items()}
    result: dict[str, Any] = {"answer_tokens": tokens, "gradient_steps": steps}
    result |= {f"{name}_tokens_per_s": round(value) for name, value in speed.items()}
    result["local_over_floor"] = round(speed["local"] / speed["floor"], 2)
    if trl:
        result["local_over_trl"] = round(speed["local"] / speed["trl"], 2)
        result["met"] = speed["local"] >= GOAL * speed["trl"]
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--windows", type=int, default=16)
    parser.add_argument("--agents", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    episodes = play(windows=arguments.windows, agents=arguments.agents, threads=arguments.threads)
    results = {
        shape: race(
            groups_of(episodes, by=shape), rounds=arguments.rounds, device=arguments.device, threads=arguments.threads
        )
        for shape in ("trajectories", "decisions")
    }
    if arguments.json:
        print(json.dumps({"windows": arguments.windows, "agents": arguments.agents, "goal": GOAL, **results}))
        return
    for shape, result in results.items():
        print(f"{shape}: {result['answer_tokens']:,} answer tokens in {result['gradient_steps']} gradient steps")
        for name in ("local", "trl", "floor"):
            if f"{name}_tokens_per_s" in result:
                print(f"  {name:<6}{result[f'{name}_tokens_per_s']:>8,} answer tokens/s")
        print(f"  local is {result['local_over_floor']:.2f}x the bare model's passes over padded batches")
        if "local_over_trl" in result:
            print(f"  local is {result['local_over_trl']:.2f}x TRL's step (goal: at least {GOAL}x)")
        else:
            print("  TRL isn't installed; how to: python benchmarks/train.py --help, and the head of that file")


if __name__ == "__main__":
    main()
