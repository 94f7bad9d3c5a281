"""task=serve as it is typed: served, played against, trained on, and stopped."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from mmo_rl.chat.endpoint import Endpoint
from mmo_rl.config.served import served_models
from mmo_rl.errors import ConfigError
from mmo_rl.lm.load import load_model
from mmo_rl.lm.manifest import seal
from mmo_rl.lm.model import SHIPPED, require_whole
from mmo_rl.market.arena import MarketArena
from mmo_rl.market.spec import MarketSpec
from mmo_rl.policy.endpoint import EndpointPolicy
from mmo_rl.policy.local import LocalPolicy
from mmo_rl.trainer.local import LocalTrainer
from mmo_rl.types import PolicyCall, PolicyVersion, TrainingGroup, TrainingSample
from tests.harness.project import Output, Project
from tests.trainer.made import trainer_parts

TINY = {
    "_target_": "mmo_rl.lm.model.ModelSpec",
    "name": "tiny",
    "base_model": "tiny",
    "context_length": 512,
    "max_completion_tokens": 24,
    "threads": 1,
}


def a_run(root: Path, key: str, *, task: str = "train", versions: tuple[int, ...] = ()) -> Path:
    """A run's folder as training leaves it; its versions are the base model's weights with less and less certainty."""
    import torch

    folder = root / "runs" / "default" / key
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(json.dumps({"task": task, "model": TINY}))
    model, tokenizer = load_model(str(SHIPPED / "tiny"), threads=1)
    for version in versions:
        with torch.no_grad():
            model.model.norm.weight.mul_(0.5)
        model.save_pretrained(folder / "checkpoints" / f"{version:04d}")
        tokenizer.save_pretrained(folder / "checkpoints" / f"{version:04d}")
    return folder


@contextmanager
def serve(root: Path, *arguments: str) -> Iterator[tuple[str, Callable[[], tuple[int, str]]]]:
    """The URL that a server tells, and what stops it with Ctrl-C: its exit code and all that it printed."""
    environment = os.environ | {"MMO_RL_ROOT": str(root), "MMO_RL_HOME": str(root / "home")}
    command = [sys.executable, "-m", "mmo_rl", "task=serve", "serve.port=0", *arguments]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(command, cwd=root, env=environment, **pipes) as process:
        output = Output(process)

        def stop() -> tuple[int, str]:
            process.send_signal(signal.SIGINT)
            return output.rest()

        try:
            found = re.match(r"serving at (http://127\.0\.0\.1:\d+/v1)", output.wait_for("serving at "))
            assert found is not None
            yield found[1], stop
        finally:
            process.kill()


def test_a_served_run_plays_as_it_does_here_and_trains_on_what_it_recorded(tmp_path: Path) -> None:
    run = a_run(tmp_path, "0123456789", versions=(1, 2))

    async def play(policy: Any, temperature: float) -> Any:
        arena = MarketArena(spec=MarketSpec(ticks=2))
        return await arena.play(policy, market_seeds=[1, 2], seats=[None, None], temperature=temperature, seed=0)

    async def both(url: str) -> list[Any]:
        model, tokenizer = load_model(str(run / "checkpoints" / "0002"), threads=1)
        here = LocalPolicy(model=model, tokenizer=tokenizer, name="tiny", version=2, max_completion_tokens=24)
        async with EndpointPolicy(model="tiny", endpoint=Endpoint(base_url=url, api_key_env=None)) as there:
            played = []
            for temperature in (0.0, 1.0):
                mine, served = await play(here, temperature), await play(there, temperature)
                assert [e.pnl for e in mine] == [e.pnl for e in served]
                played = served
            return list(played)

    with serve(tmp_path, f"serve.runs=[{run}]", "serve.verbose=true") as (url, stop):
        episodes = asyncio.run(both(url))
        assert httpx.get(url.removesuffix("/v1") + "/health").json()["loaded"] == ["tiny@2"]
        code, printed = stop()
    assert code == 0 and printed.rstrip().endswith("stopped")
    assert "tiny: tiny@0, tiny@1, tiny@2" in printed and "curl" in printed and re.search(r"tiny@2: \d+ \+", printed)
    steps = [step for episode in episodes for agent in episode.steps for step in agent if step.completion.text]
    trained = train(steps, run / "checkpoints" / "0002", tmp_path / "trained")
    assert trained["unknown_logprobs_share"] == 0.0 and trained["kl"] == pytest.approx(0.0, abs=1e-7)


def train(steps: list[Any], weights: Path, to: Path) -> dict[str, float]:
    """What a trainer says that starts from the policy that was served and takes one step."""
    samples = []
    for number, step in enumerate(steps):
        said = step.completion
        call = PolicyCall(step.messages, said.text, said.prompt_token_ids, said.token_ids, said.logprobs)
        samples.append(TrainingSample(str(number), None, (call,), number % 2))
    trainer = LocalTrainer(
        learning_rate=1e-4,
        rows_per_step=1024,
        missing_logprobs="refuse",
        seed=0,
        parts=trainer_parts(to, str(weights)),
    )

    async def once() -> dict[str, float]:
        await trainer.resume()
        return dict((await trainer.train([TrainingGroup("g", tuple(samples))], iteration=0)).metrics)

    return asyncio.run(once())


@pytest.mark.slow
def test_collect_and_evaluate_through_the_endpoint(project: Project) -> None:
    run = a_run(project.root, "0123456789", versions=(1,))
    with serve(project.root, f"serve.runs=[{run}]") as (url, stop):
        ran = project.attempt(
            "task=collect", "collect.windows=1", "policy=endpoint", f"policy.base_url={url}", "policy.model=tiny@1"
        )
        assert ran.code == 0, ran.err
        pair = ("evaluate.markets=4", "evaluate.looks=1", "report=local", "evaluate.format=json")
        told = project.attempt("task=evaluate", *pair, f"evaluate.a=tiny@0@{url}", f"evaluate.b=tiny@1@{url}")
        assert told.code == 0, told.err
        local = project.attempt("task=evaluate", *pair, "model.threads=1", "evaluate.a=base", f"evaluate.b={run}")
        assert local.code == 0, local.err
        served, here = json.loads(told.out), json.loads(local.out)
        assert served["ab/pnl_difference"] == pytest.approx(here["ab/pnl_difference"], abs=1e-6)
        assert stop()[0] == 0


def test_what_cannot_be_served_is_told_before_anything_starts(project: Project) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ran = project.attempt("task=serve", f"serve.port={port}")
        assert ran.code == 2 and f"port {port} of 127.0.0.1 is in use" in ran.err
        assert "serve.port=0" in ran.err


def test_runs_have_the_names_of_their_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = a_run(tmp_path, "one", versions=(3,)), a_run(tmp_path, "two")
    (base,) = served_models([], TINY, home=tmp_path)
    assert (base.name, list(base.versions())) == ("tiny", [0])
    (alone,) = served_models([str(one)], TINY, home=tmp_path)
    assert [v.id for v in alone.versions().values()] == ["tiny@0", "tiny@3"]
    assert [m.name for m in served_models([str(one), str(two)], TINY, home=tmp_path)] == ["default/one", "default/two"]
    (checkpoint,) = served_models([str(one / "checkpoints" / "0003")], TINY, home=tmp_path)
    assert [v.id for v in checkpoint.versions().values()] == ["tiny@3"]
    (weights,) = served_models([str(SHIPPED / "tiny")], TINY, home=tmp_path)
    assert weights.spec.context_length == weights.spec.max_completion_tokens == 512
    published = one / "checkpoints" / "0003"
    seal(published, model="tiny", base=str(SHIPPED / "tiny"), version=3)
    (copied,) = served_models([str(shutil.copytree(published, tmp_path / "best"))], TINY, home=tmp_path)
    (version,) = copied.versions().values()
    assert version.id == "best@0"
    require_whole(PolicyVersion(version.spec.name, 0, version.path), version.spec)
    for wrong, message in (
        (str(tmp_path / "none"), "is no folder"),
        (str(tmp_path), "holds neither"),
        (str(a_run(tmp_path, "judged", task="judge")), "task=judge, which trains nothing"),
    ):
        with pytest.raises(ConfigError, match=message) as caught:
            served_models([wrong], TINY, home=tmp_path)
        assert caught.value.hint is not None and "run folders" in caught.value.hint
    with pytest.raises(ConfigError, match="2 of them would be called tiny"):
        served_models([str(SHIPPED / "tiny"), str(SHIPPED / "tiny")], TINY, home=tmp_path)
