import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from pytest_httpserver import HTTPServer

from mmo_rl.errors import PolicyError
from mmo_rl.lm.load import load_model, require_model
from mmo_rl.lm.memory import free_bytes, parameters, require_memory
from mmo_rl.lm.model import SHIPPED, ModelSpec
from mmo_rl.policy.local import LocalPolicy, open_policy
from mmo_rl.types import PolicyVersion

TINY = SHIPPED / "tiny"
TICK = "t0\nPULSE +0\nNOVA +1\nORION +0\nKITE -2\nLAUNCH 54%\nMERGER 43%\nnews NOVA soars @wire\ncash 5 order 3 bet 3"
LONG = ({"role": "system", "content": "You trade."}, {"role": "user", "content": TICK})
SHORT = ({"role": "user", "content": "news ZEN sinks @anon"},)


@pytest.fixture
def policy() -> LocalPolicy:
    model, tokenizer = load_model(str(TINY))
    return LocalPolicy(model=model, tokenizer=tokenizer, name="tiny", version=0, max_completion_tokens=24)


def test_the_shipped_model_is_small_and_whole() -> None:
    assert sum(f.stat().st_size for f in TINY.iterdir()) < 2_000_000
    model, tokenizer = load_model(str(TINY))
    assert 0.4e6 < sum(p.numel() for p in model.parameters()) < 2e6
    assert model.config.model_type == "llama"
    for text in ('{"ticker":"NOVA","action":"BUY","size":2}', "Grüße, 世界 \U0001f600\n\t", "<b>&"):
        assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


async def test_answers_do_not_depend_on_who_else_is_asked(policy: LocalPolicy) -> None:
    alone = await policy.complete([SHORT], temperature=0, seed=0)
    together = await policy.complete([LONG, SHORT, LONG], temperature=0, seed=5)
    assert together[1].text == alone[0].text
    assert together[1].logprobs == pytest.approx(alone[0].logprobs, abs=1e-4)
    assert together[0].token_ids == together[2].token_ids


async def test_the_same_seed_gives_the_same_answers(policy: LocalPolicy) -> None:
    one = await policy.complete([LONG] * 20, temperature=1.0, seed=3)
    assert one == await policy.complete([LONG] * 20, temperature=1.0, seed=3)
    assert one != await policy.complete([LONG] * 20, temperature=1.0, seed=4)
    assert len({c.text for c in one}) > 3


async def test_token_ids_and_logprobs_belong_to_the_text(policy: LocalPolicy) -> None:
    import torch

    (completion,) = await policy.complete([LONG], temperature=1.0, seed=1)
    assert completion.token_ids and completion.logprobs and completion.prompt_token_ids
    assert policy.tokenizer.decode(completion.token_ids, skip_special_tokens=True) == completion.text
    ids = torch.tensor([[*completion.prompt_token_ids, *completion.token_ids]])
    with torch.no_grad():
        logp = policy.model(ids).logits.log_softmax(-1)[0]
    start = len(completion.prompt_token_ids)
    direct = [logp[start + i - 1, token].item() for i, token in enumerate(completion.token_ids)]
    assert completion.logprobs == pytest.approx(direct, abs=1e-4)


async def test_a_prompt_beyond_the_context_is_not_answered_and_costs_the_others_nothing() -> None:
    prompts = [[{"role": "user", "content": "t0\n" + "NOVA +1\n" * lines}] for lines in (1, 200, 2)]
    spec = ModelSpec(name="tiny", base_model="tiny", context_length=4096, max_completion_tokens=24)
    policy = open_policy(PolicyVersion("tiny", 0, spec.location()), spec)
    found = await policy.complete(prompts, temperature=1.0, seed=0)
    assert re.fullmatch(r"the prompt has \d+ tokens, and the model's context 512 .*", found[1].error or "")
    assert found[1].token_ids is None and not found[1].text
    policy.context_length = None
    without_limit = await policy.complete(prompts, temperature=1.0, seed=0)
    assert [found[n].token_ids for n in (0, 2)] == [without_limit[n].token_ids for n in (0, 2)]
    policy.context_length = len(found[0].prompt_token_ids or ()) + 1
    (cut,) = await policy.complete(prompts[:1], temperature=1.0, seed=0)
    assert cut.error is None and cut.token_ids == (found[0].token_ids or ())[:1]


async def test_the_base_answers_in_the_games_language_but_not_always(policy: LocalPolicy) -> None:
    answers = [c.text for c in await policy.complete([LONG] * 200, temperature=1.0, seed=0)]
    valid = 0
    for answer in answers:
        try:
            valid += json.loads(answer)["action"] in ("BUY", "SELL", "HOLD")
        except (ValueError, KeyError, TypeError):
            continue
    assert 120 < valid < 200


def test_a_model_that_is_not_there_says_what_to_do(tmp_path: Path) -> None:
    spec = ModelSpec(name="x", base_model="x", path=str(tmp_path), context_length=64, max_completion_tokens=8)
    with pytest.raises(PolicyError, match=r"config\.json"):
        spec.location()
    with pytest.raises(PolicyError, match="could not load"):
        load_model(str(tmp_path))


def test_a_model_that_is_nowhere_is_told_with_what_to_type(
    httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    template = httpserver.url_for("") + "{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    httpserver.expect_request("/some/model/resolve/main/config.json").respond_with_data("{}")
    require_model("some/model")
    require_model(str(tmp_path))
    with pytest.raises(PolicyError, match="no/model are not on this machine, and the hub answers 500") as caught:
        require_model("no/model")
    assert "model.path=FOLDER" in str(caught.value.hint)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(PolicyError, match="HF_HUB_OFFLINE is set"):
        require_model("some/model")


def test_a_model_computes_with_its_own_number_of_threads() -> None:
    """The last digits of a sum follow from it, and with them the token that is drawn."""
    script = f"import torch; from mmo_rl.lm.load import load_model; load_model({str(TINY)!r}, threads=2)"
    script += "; print(torch.get_num_threads())"
    beside_others = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    ran = subprocess.run([sys.executable, "-c", script], env=beside_others, capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["2"]


def test_a_tokenizer_without_a_chat_template_is_refused(tmp_path: Path) -> None:
    """It cannot say what the policy would have seen; a base model's often has none."""
    for file in TINY.iterdir():
        if file.name != "chat_template.jinja":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    config = tmp_path / "tokenizer_config.json"
    config.write_text(json.dumps({k: v for k, v in json.loads(config.read_text()).items() if k != "chat_template"}))
    with pytest.raises(PolicyError, match="has no chat template") as caught:
        load_model(str(tmp_path))
    assert "instruct model" in str(caught.value.hint)


def test_a_model_that_keeps_more_than_keys_and_values_is_refused(tmp_path: Path) -> None:
    from transformers import AutoTokenizer, Lfm2Config, Lfm2ForCausalLM

    AutoTokenizer.from_pretrained(SHIPPED / "tiny").save_pretrained(tmp_path)
    sizes = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2}
    Lfm2ForCausalLM(Lfm2Config(vocab_size=512, **sizes, layer_types=["conv", "full_attention"])).save_pretrained(
        tmp_path
    )
    with pytest.raises(PolicyError, match="Lfm2ForCausalLM keeps a state"):
        load_model(str(tmp_path))


def test_a_model_larger_than_what_is_free_is_told_before_it_is_read(tmp_path: Path) -> None:
    model, _ = load_model(str(TINY))
    count = sum(parameter.numel() for parameter in model.parameters())
    assert parameters(TINY) == count and parameters(tmp_path) == 0
    require_memory(str(TINY), bytes_a_parameter=4)
    with pytest.raises(PolicyError, match=r"take .* GB of memory, and .* GB are free") as caught:
        require_memory(str(TINY), bytes_a_parameter=10**9)
    assert caught.value.hint is not None and "smaller model" in caught.value.hint


def test_the_free_memory_is_that_of_the_container_where_that_is_less(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 9000 kB\nMemAvailable:  4000 kB\nSwapFree: 1000 kB\n")
    assert free_bytes(meminfo=meminfo, cgroup=tmp_path) == 5000 * 1024
    for name, text in (("max", "100000"), ("current", "90000"), ("stat", "anon 70000\nfile 15000\n")):
        (tmp_path / f"memory.{name}").write_text(text)
    assert free_bytes(meminfo=meminfo, cgroup=tmp_path) == 25000
    (tmp_path / "memory.max").write_text("max\n")
    assert free_bytes(meminfo=meminfo, cgroup=tmp_path) == 5000 * 1024
    assert free_bytes(meminfo=tmp_path / "none", cgroup=tmp_path) is None
