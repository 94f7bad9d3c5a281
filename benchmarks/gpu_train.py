"""trainer=local on one CUDA GPU: tokens a second, memory and distance from the bare model's forward and backward pass.

    python benchmarks/gpu_train.py [--model FOLDER | --size 0.5B] [--lora-rank 16] [--out numbers.json] [--json]
    python benchmarks/gpu_train.py --device cpu --tiny       # the same path on a laptop, in a minute

``--model`` is a folder in Hugging Face format or a hub id; without one, random weights of Qwen2's architecture in the
``--size`` named, which train as fast as trained ones. The data are made up: in every group all agents answer prompts
that begin alike (the market) and end with a line of their own (the account), over several steps.

Numbers: ``trained``, ``packed`` and ``padded`` tokens a second of whole iterations, saving left out (packed: shared
prompts once; padded: all that is computed); ``histories_tokens_per_s`` what a trainer that repeats every prompt would
have to compute a second to be as fast; ``floor_ratio`` the time of the update over that of a forward and backward pass
of the bare model over as many padded tokens without logits (1 is perfect); peak memory in GiB.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mmo_rl.lm.encode import Encoder
from mmo_rl.lm.load import load_model
from mmo_rl.lm.model import SHIPPED, ModelSpec
from mmo_rl.report.run_folder import RunFolder
from mmo_rl.trainer.base import TrainerParts
from mmo_rl.trainer.local import LocalTrainer
from mmo_rl.types import PolicyCall, TrainingGroup, TrainingSample

SIZES = {
    # hidden size, intermediate size, layers, heads, key-value heads: those of Qwen2.5
    "0.5B": (896, 4864, 24, 14, 2),
    "1.5B": (1536, 8960, 28, 12, 2),
    "3B": (2048, 11008, 36, 16, 2),
    "7B": (3584, 18944, 28, 28, 4),
    "tiny": (64, 128, 2, 4, 2),
}
VOCABULARY = 151_936
GIB = 2**30


def random_model(folder: Path, size: str) -> str:
    """Random weights with the tokenizer of the shipped model; returns the folder."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    _, tokenizer = load_model(str(SHIPPED / "tiny"))
    hidden, intermediate, layers, heads, kv_heads = SIZES[size]
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=len(tokenizer) if size == "tiny" else VOCABULARY,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=32_768,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    Qwen2ForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def made_up(*, groups: int, agents: int, steps: int, market_words: int, seed: int) -> list[TrainingGroup]:
    """A group a step of a window, as a judge that scores decisions makes them."""
    draw = random.Random(seed)
    tickers = ("NOVA", "ORBIT", "ZETA", "KILO")
    found = []
    for window in range(groups):
        for step in range(steps):
            market = " ".join(f"{draw.choice(tickers)} {draw.uniform(-9, 9):+.1f}" for _ in range(market_words))
            samples = []
            for agent in range(agents):
                prompt = (
                    {"role": "system", "content": "You trade."},
                    {"role": "user", "content": f"t{step} {market}\ncash {draw.randrange(100, 2000)}"},
                )
                answer = f'{{"ticker":"{draw.choice(tickers)}","action":"BUY","size":{draw.randrange(1, 5)}}}'
                samples.append(
                    TrainingSample(f"w{window}-a{agent}", step, (PolicyCall(prompt, answer),), draw.random())
                )
            found.append(TrainingGroup(f"w{window}#{step}", tuple(samples)))
    return found


def floor_seconds(model: Any, *, rows: int, length: int, micro_rows: int, bf16: bool) -> float:
    """A forward and backward pass of the bare model over ``rows`` causal rows, without logits but one a row."""
    import torch

    device = model.device
    tokens = torch.randint(0, 100, (micro_rows, length), device=device)

    def once() -> None:
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16):
            logits = model(input_ids=tokens, use_cache=False, logits_to_keep=1).logits
        logits.float().sum().backward()

    once()
    _finish(device)
    started = time.perf_counter()
    for _ in range(max(1, rows // micro_rows)):
        once()
    _finish(device)
    model.zero_grad(set_to_none=True)
    return (time.perf_counter() - started) * rows / (max(1, rows // micro_rows) * micro_rows)


def _finish(device: Any) -> None:
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize()


async def measure(options: argparse.Namespace, say: Callable[[str], None]) -> dict[str, Any]:
    """All numbers of one run."""
    import torch

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        say("making the model" if options.model is None else f"loading {options.model}")
        location = options.model or random_model(folder / "model", options.size)
        trainer = LocalTrainer(
            learning_rate=5e-6,
            packed_tokens=options.packed_tokens,
            rows_per_step=options.rows_per_step,
            micro_batch_tokens=options.micro_batch_tokens,
            missing_logprobs="score",
            device=options.device,
            seed=0,
            parts=TrainerParts(
                model=ModelSpec(
                    name="benchmark",
                    base_model=location,
                    context_length=32_768,
                    max_completion_tokens=1024,
                    lora_rank=options.lora_rank,
                ),
                checkpoints=folder / "checkpoints",
                folder=RunFolder(folder),
                experiment="benchmark",
            ),
        )
        await trainer.resume()
        data = made_up(
            groups=options.windows, agents=options.agents, steps=options.steps, market_words=options.words, seed=0
        )
        say("warming up")
        await trainer.train(data[: options.steps], iteration=0)
        if options.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        say(f"training on {sum(len(g.samples) for g in data)} histories")
        trained = await trainer.train(data, iteration=1)
        peak = torch.cuda.max_memory_allocated() / GIB if options.device == "cuda" else None
        seconds = trained.tokens / trained.metrics["tokens_per_s"]
        _, tokenizer = load_model(trained.policy.path)
        encoder = Encoder(tokenizer)
        every = sum(encoder(call).length for group in data for sample in group.samples for call in sample.calls)
        await trainer.aclose()
        padded = round(trained.metrics["padded_tokens_per_s"] * seconds)
        say("the bare model")
        bare, _ = load_model(location, device=options.device, dtype="float32" if not options.lora_rank else None)
        floor = floor_seconds(
            bare,
            rows=max(1, padded // options.packed_tokens),
            length=options.packed_tokens,
            micro_rows=max(1, options.micro_batch_tokens // options.packed_tokens),
            bf16=options.device == "cuda",
        )
    return {
        "device": torch.cuda.get_device_name() if options.device == "cuda" else "cpu",
        "torch": torch.__version__,
        "model": options.model or f"random Qwen2 {options.size}",
        "parameters": sum(p.numel() for p in bare.parameters()),
        "lora_rank": options.lora_rank,
        "gradient_steps": trained.gradient_steps,
        "trained_tokens": trained.tokens,
        "seconds": round(seconds, 3),
        "trained_tokens_per_s": round(trained.metrics["tokens_per_s"], 1),
        "packed_tokens_per_s": round(trained.metrics["packed_tokens_per_s"], 1),
        "padded_tokens_per_s": round(trained.metrics["padded_tokens_per_s"], 1),
        "histories_tokens_per_s": round(every / seconds, 1),
        "padding_share": round(trained.metrics["padding_share"], 4),
        "floor_s": round(floor, 3),
        "floor_ratio": round(seconds / floor, 3),
        "peak_memory_gib": None if peak is None else round(peak, 2),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a folder in Hugging Face format or a hub id (default: random weights)")
    parser.add_argument("--size", choices=sorted(SIZES), default="0.5B", help="of the random weights")
    parser.add_argument("--lora-rank", type=int, default=0, help="0 trains all weights")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="a tiny model and little data, to see that all works")
    parser.add_argument("--windows", type=int, default=8)
    parser.add_argument("--agents", type=int, default=8)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--words", type=int, default=40, help="quotes in a prompt that all agents of a step see")
    parser.add_argument("--packed-tokens", type=int, default=4096)
    parser.add_argument("--rows-per-step", type=int, default=8)
    parser.add_argument("--micro-batch-tokens", type=int, default=16_384)
    parser.add_argument("--out", type=Path, help="also write the numbers into this file")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    options = parser.parse_args()
    if options.tiny:
        options.size, options.windows, options.agents, options.steps = "tiny", 2, 4, 4
        options.packed_tokens, options.rows_per_step, options.micro_batch_tokens, options.words = 512, 4, 2048, 10
    import torch

    if options.device == "cuda" and not torch.cuda.is_available():
        print(
            "there is no CUDA device here: run this on a machine with an NVIDIA GPU and a CUDA build of torch, or try "
            "the same path with --device cpu --tiny",
            file=sys.stderr,
        )
        return 2
    numbers = asyncio.run(measure(options, lambda line: None if options.json else print(line, file=sys.stderr)))
    text = json.dumps(numbers, indent=None if options.json else 2)
    if options.out is not None:
        options.out.write_text(text + "\n", encoding="utf-8")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
