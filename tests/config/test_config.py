"""Composition, validation, fingerprints and the making of components."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from omegaconf import OmegaConf
from pydantic import Field

from mmo_rl.command_line import override
from mmo_rl.config.building import build
from mmo_rl.config.composition import compose as wire
from mmo_rl.config.project import job_key, project_root, shipped
from mmo_rl.config.schema import Problem, check_keys, check_node, schema_of
from mmo_rl.config.settings import COMPONENTS, Settings, config_sha256, masked, refuse_secrets, task_names, validate
from mmo_rl.config.spelling import refuse_joined_digits
from mmo_rl.config.tasks import TASKS
from mmo_rl.errors import ConfigError
from mmo_rl.evaluate.base import Evaluator
from mmo_rl.judge.base import JudgeParts
from mmo_rl.lm.base import ModelParts
from mmo_rl.lm.load import load_model
from mmo_rl.lm.model import SHIPPED
from mmo_rl.policy.local import LocalPolicy
from tests.harness.config import compose_config as compose
from tests.harness.config import compose_settings

CONF = shipped("conf")
CHOICES = [
    f"{group}={choice.stem}"
    for group in (*COMPONENTS, "judge/template", "task")
    for choice in sorted((CONF / group).glob("*.yaml"))
]
NEEDED = {
    "evaluate=pair": ["task=evaluate"],
    "policy=endpoint": ["policy.endpoint.base_url=http://127.0.0.1:9/v1"],
    "judge/template": ["judge=ruler"],
    "task=build_model": ["build_model.output=somewhere"],
    "task=replay": ["run=runs/default/0123456789"],
    "task=new_experiment": ["from=runs/default/0123456789"],
    "source=jsonl": ["source.path=somewhere.jsonl", "collect=none"],
    "database=postgres": ["source=postgres"],
}


def refused(*overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        validate(compose(*overrides))
    assert caught.value.exit_code == 2
    return caught.value.message


# --- composition -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("choice", CHOICES)
def test_every_choice_of_every_group_is_valid(choice: str) -> None:
    needed = NEEDED.get(choice, NEEDED.get(choice.partition("=")[0], []))
    settings = validate(compose(*needed, choice))
    assert isinstance(settings, Settings)


def test_every_task_has_a_config_and_every_config_a_task() -> None:
    assert sorted(p.stem for p in (CONF / "task").glob("*.yaml")) == task_names()


def test_every_group_of_components_has_a_default() -> None:
    assert set(compose()) >= set(COMPONENTS)


# --- what is refused --------------------------------------------------------------------------------------------------


def test_unknown_keys_are_refused_behind_a_plus() -> None:
    assert refused("+typo=1").startswith("typo: found 1, but there is no such key")
    assert refused("+sampler.max_dropot=0.1").endswith("did you mean sampler.max_dropout?")
    assert "trainer.lrr: found 1, but LocalTrainer has no such key; its keys: learning_rate" in refused(
        "+trainer.lrr=1"
    )
    assert "check.formt: found 'json'" in refused("task=check", "+check.formt=json")


def test_all_mistakes_are_told_at_once_a_line_each() -> None:
    lines = refused("iterations=0", "sampler.max_dropout=abc", "+typo=1", "trainer.learning_rate=2").splitlines()
    assert lines[0] == "4 things are wrong in the configuration"
    assert sorted(line.strip().partition(":")[0] for line in lines[1:]) == [
        "iterations",
        "sampler.max_dropout",
        "trainer.learning_rate",
        "typo",
    ]


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("seed=-1", "seed: found -1, expected a number of at least 0"),
        ("seed=1.5", "seed: found 1.5, expected a whole number"),
        ("seed=true", "seed: found true, expected a whole number"),
        ("sampler.max_dropout=nan", "sampler.max_dropout: found nan, expected a"),
        ("sampler.max_dropout=null", "sampler.max_dropout: found null, expected a number"),
        ("sampler.min_agents=[5]", "sampler.min_agents: found [5], expected a whole number"),
        ("name=a/b", "name: found 'a/b', expected letters, digits, dots, dashes or underscores"),
        ("seed=007", "seed: found '007', expected a whole number; write seed=7"),
        ("seed=0x10", "seed: found '0x10', expected a whole number"),
        ("name=1.10", "name: found the number 1.1, expected text; quotes keep it as it is written: \"name='...'\""),
        ("name=12345678e90", "name: found the number 1.2345678e+97, expected text"),
        ("report.tags=[v1,1.10]", "report.tags: found the number 1.1, expected text"),
        ("trainer.learning_rate=-.5", "trainer.learning_rate: found -0.5, expected a"),
    ],
)
def test_wrong_types_and_ranges(override: str, told: str) -> None:
    assert refused(override).startswith(told)


@pytest.mark.parametrize("text", ["1.10", "2026_01_31", "007", "12345678e90", "nan"])
def test_quotes_keep_a_text_that_looks_like_a_number(text: str) -> None:
    assert compose_settings(override("name", text)).name == text


def test_digits_that_underscores_join_are_no_text() -> None:
    tree = compose_settings("name=2026_01_31", "iterations=1_0").tree()
    assert (tree["name"], tree["iterations"]) == ("20260131", 10)
    with pytest.raises(ConfigError, match="name=2026_01_31 is read as 20260131") as caught:
        refuse_joined_digits(tree, ["iterations=1_0", "name=2026_01_31"])
    assert caught.value.hint == "quotes keep it as it is written: \"name='2026_01_31'\""
    refuse_joined_digits(tree, ["iterations=1_0", "+typo=1_0"])


def test_a_wrong_value_that_is_used_in_many_places_is_told_once() -> None:
    assert "\n" not in refused("seed=abc")


def test_code_outside_the_package_is_never_named() -> None:
    assert "other code is never run" in refused("judge._target_=os.system")
    assert "did you mean OracleJudge?" in refused("judge._target_=mmo_rl.judge.oracle.OracleJudg")
    assert "no module mmo_rl.jduge" in refused("judge._target_=mmo_rl.jduge.oracle.OracleJudge")


def test_a_template_that_cannot_be_rendered_is_found_before_anything_starts() -> None:
    message = refused("judge=ruler", "judge.template.trajectory='{{ nonsense }}'")
    assert message.startswith("judge.template: ")
    assert "nonsense" in message


@pytest.mark.parametrize(
    "value",
    ["postgresql://u:s3cretpw@host/db", "host=h password=s3cretpw", "postgres://h/db?user=u&password=s3cretpw"],
)
def test_a_literal_password_is_refused_and_not_repeated(value: str) -> None:
    with pytest.raises(ConfigError, match="dsn_env") as caught:
        refuse_secrets([f"+source.dsn={value}"])
    assert "s3cretpw" not in str(caught.value)
    message = refused(f"++judge.credit='{value}'")
    assert message.startswith("judge.credit: holds a password")
    assert "s3cretpw" not in message


@pytest.mark.parametrize("value", ["planted-key-0001", "0123456789abcdef" * 2 + "01234567", "db.host/game"])
def test_a_secret_in_the_place_of_a_variables_name_is_refused_and_not_repeated(value: str) -> None:
    for key in ("judge.endpoint.api_key_env", "source.dsn_env"):
        with pytest.raises(ConfigError, match=f"{key}: must be the name of an environment variable") as caught:
            refuse_secrets([f"{key}={value}"])
        assert value not in str(caught.value)
    message = refused("judge=ruler", f"judge.endpoint.api_key_env='{value}'")
    assert "judge.endpoint.api_key_env: must be the name of an environment variable" in message
    assert value not in message


@pytest.mark.parametrize("value", ["KEY_1", "'my_key'", "A,B", "choice(A,B)", "${oc.env:NAME}", "null", ""])
def test_names_of_variables_are_taken(value: str) -> None:
    refuse_secrets([f"judge.endpoint.api_key_env={value}"])


@pytest.mark.parametrize("name", ["key", "api_key", "api-key", "subscription-key", "access_token", "sig"])
def test_a_key_among_the_parameters_of_an_address_is_refused(name: str) -> None:
    address = f"https://models.example/v1?version=2&{name}=planted0001"
    with pytest.raises(ConfigError, match="base_url: holds a password or key") as caught:
        refuse_secrets([f"judge.endpoint.base_url='{address}'"])
    assert "planted0001" not in str(caught.value)


def test_an_unset_interpolation_names_its_key() -> None:
    assert "NO_SUCH_VARIABLE" in refused("name=${oc.env:NO_SUCH_VARIABLE}")


# --- signatures are schemas ------------------------------------------------------------------------------------------


class Nested:
    def __init__(self, *, low: Annotated[int, Field(ge=0)], high: int = 1) -> None:
        if low > high:
            raise ValueError(f"low {low} is above high {high}")


class Thing:
    def __init__(
        self,
        *,
        mode: Literal["fast", "exact"],
        names: tuple[str, ...] = (),
        share: Annotated[float, Field(gt=0, lt=1)] | None = None,
        limits: dict[str, int] | None = None,
        part: Nested | None = None,
        on_tick: Callable[[int], None] | None = None,
        home: Path = Path(),
        parts: ModelParts,
    ) -> None: ...


def checked(values: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    problems: list[Problem] = []
    good = check_keys(schema_of(Thing), values, "thing", problems)
    return good, [str(p) for p in problems]


def test_values_are_converted_to_the_types_of_the_signature() -> None:
    good, problems = checked({"mode": "fast", "names": ["a", 2], "share": 0.5, "home": "/x"})
    assert problems == []
    assert good == {"mode": "fast", "names": ("a", "2"), "share": 0.5, "home": Path("/x")}


def test_parts_may_be_missing_and_cannot_be_set() -> None:
    assert checked({"mode": "fast"})[1] == []
    for name, kind in (("on_tick", "3"), ("parts", "3")):
        assert checked({"mode": "fast", name: 3})[1] == [
            f"thing.{name}: found {kind}, but Thing has no such key; its keys: mode, names, share, limits, home"
        ]


def test_every_kind_of_mistake_has_its_words() -> None:
    assert checked({})[1] == ["thing.mode: missing, expected one of 'fast', 'exact' (Thing)"]
    assert checked({"mode": "exakt"})[1] == [
        "thing.mode: found 'exakt', expected 'fast' or 'exact'; did you mean exact?"
    ]
    assert checked({"mode": "fast", "share": 1})[1] == ["thing.share: found 1, expected a number below 1"]
    assert checked({"mode": "fast", "names": ["a", True]})[1] == ["thing.names[1]: found true, expected text"]
    assert checked({"mode": "fast", "limits": {"a": "x"}})[1] == ["thing.limits: found 'x', expected a whole number"]


def test_a_constructor_that_refuses_its_keys_is_a_problem_of_the_config() -> None:
    problems: list[Problem] = []
    check_node({"_target_": "mmo_rl.market.spec.MarketSpec", "drift_low": 0.5, "drift_high": 0.1}, "market", problems)
    assert len(problems) <= 1
    node = {"_target_": "mmo_rl.lm.model.ModelSpec", "name": "x", "base_model": "y"}
    check_node(node, "model", problems := [])
    assert {p.key for p in problems} == {"model.context_length", "model.max_completion_tokens"}


# --- fingerprints -----------------------------------------------------------------------------------------------------


def test_the_job_key_does_not_depend_on_order_or_quoting() -> None:
    assert job_key(["seed=1", "name=a"]) == job_key(["name='a'", "seed=1"])
    assert job_key(["seed=1", "seed=2"]) == job_key(["seed=2"])
    assert job_key(["task=train"]) == job_key([])
    assert len({job_key([o]) for o in ("seed=1", "seed='1'", "seed=2", "+seed.a=1", "~seed", "seed=[1]")}) == 6


def test_the_job_key_is_stable() -> None:
    # Run folders of released versions are found again by these names.
    assert job_key([]) == "468231a8fc"
    assert job_key(["seed=1", "sampler.max_dropout=0.3"]) == "fdfbe47033"


def test_the_config_hash_follows_results_and_not_places(tmp_path: Path) -> None:
    here, there = (validate(compose(f"home={tmp_path / name}")) for name in ("a", "b"))
    assert config_sha256(here) == config_sha256(there) == config_sha256(validate(compose("report=local")))
    assert config_sha256(validate(compose("model.price_training_usd_per_mtok=1"))) == config_sha256(here)
    assert config_sha256(validate(compose("seed=1"))) != config_sha256(here)
    assert config_sha256(validate(compose("sampler.min_actions=4"))) != config_sha256(here)


def test_settings_are_written_as_the_yaml_they_came_from() -> None:
    settings = validate(compose("task=check", "check.format=json"))
    tree = masked(settings)
    assert tree["check"] == {"format": "json", "steps": True}
    assert tree["sampler"] == dict(settings.nodes["sampler"] or {})
    assert validate(OmegaConf.create(tree)) == settings


# --- where things are -------------------------------------------------------------------------------------------------


def test_the_project_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MMO_RL_ROOT", raising=False)
    inner = tmp_path / "project" / "deep" / "er"
    inner.mkdir(parents=True)
    monkeypatch.chdir(inner)
    assert project_root() == inner
    (tmp_path / "project" / "experiments").mkdir()
    assert project_root() == inner  # an empty folder of that name says nothing
    (tmp_path / "project" / "experiments" / "one.yaml").write_text("")
    assert project_root() == tmp_path / "project"
    monkeypatch.setenv("MMO_RL_ROOT", str(tmp_path))
    assert project_root() == tmp_path


# --- components -------------------------------------------------------------------------------------------------------


def test_the_composition_root_makes_one_frozen_object_of_everything() -> None:
    components = wire(validate(compose("market.ticks=3")))
    assert components.arena.ticks == 3
    assert components.sampler.rules.max_dropout == pytest.approx(0.3)
    assert components.model.name == "tiny"
    assert components.collector is not None and components.collector.windows == 16
    with pytest.raises(dataclasses.FrozenInstanceError):
        components.judge = components.judge  # type: ignore[misc]


async def test_what_base_models_earn_is_kept_unless_it_is_to_be_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = validate(compose("evaluate.markets=2", "evaluate.agents=1", f"home={tmp_path}"))
    model, tokenizer = load_model(str(SHIPPED / "tiny"))
    base = LocalPolicy(model=model, tokenizer=tokenizer, name="tiny", version=0, max_completion_tokens=24)
    for said, files in (("again", 0), ("", 1)):
        monkeypatch.setenv("MMO_RL_MEASURE", said)
        evaluator = wire(settings).evaluator
        assert isinstance(evaluator, Evaluator)
        await evaluator.evaluate(base, "greedy")
        assert len([*tmp_path.glob("measured/*")]) == files


def test_a_component_that_is_switched_off_is_none_and_its_node_an_error_with_the_way_out() -> None:
    settings = validate(compose("evaluate=none"))
    assert wire(settings).evaluator is None
    with pytest.raises(ConfigError, match="evaluate=none") as caught:
        settings.node("evaluate")
    assert caught.value.hint is not None


def test_build_makes_nested_components() -> None:
    node = validate(compose("judge=ruler", "judge.model=some-model")).nodes["judge"]
    assert node is not None
    judge = build({**node, "endpoint": {"base_url": "http://127.0.0.1:9/v1", "api_key_env": None}}, JudgeParts())
    assert type(judge).__name__ == "RulerJudge"


def test_the_readme_names_every_choice() -> None:
    readme = Path(__file__).parents[2].joinpath("README.md").read_text("utf-8")
    for group in (*COMPONENTS, "task"):
        (row,) = [line for line in readme.splitlines() if line.startswith(f"| `{group}` |")]
        assert set(row.split("|")[2].replace(" ", "").split(",")) == {p.stem for p in (CONF / group).glob("*.yaml")}


def test_the_size_of_a_judged_group_is_the_samplers() -> None:
    judge = validate(compose("judge=ruler", "sampler.max_per_window=4")).nodes["judge"]
    assert judge is not None and judge["max_per_window"] == 4


@pytest.mark.parametrize("task", sorted(TASKS))
def test_the_yaml_of_a_task_shows_the_defaults_of_its_options(task: str) -> None:
    """Hydra needs every key in YAML, and the options stand in the code: no default differs between the two."""
    written = OmegaConf.to_container(OmegaConf.load(CONF / "task" / f"{task}.yaml"))
    assert isinstance(written, dict)
    shown = {key: value for key, value in (written.get(task) or {}).items() if not str(value).startswith("${")}
    defaults = {f.name: f for f in dataclasses.fields(TASKS[task])}
    assert set(shown) <= set(defaults)
    for name, field in defaults.items():
        if field.default is not dataclasses.MISSING:
            assert shown[name] == field.default
