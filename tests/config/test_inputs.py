"""Identity by content: what a config names by path, noted with a run and compared when the run is found again."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

import pytest

from mmo_rl.config.fingerprint import Identity
from mmo_rl.config.inputs import changes, inputs_of, refuse_mixture
from mmo_rl.config.settings import masked
from mmo_rl.errors import ConfigError
from mmo_rl.lm.model import SHIPPED
from mmo_rl.report.run_folder import RunFolder
from tests.harness.config import compose_settings
from tests.harness.project import Project


def weights(folder: Path, content: str = "a") -> Path:
    """A folder that looks like a checkpoint."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_text(content)
    return folder


def test_a_run_that_gained_a_version_is_another_input_and_both_versions_are_named(tmp_path: Path) -> None:
    live = tmp_path / "runs" / "live" / "key"
    weights(live / "checkpoints" / "0002")
    settings = compose_settings(f"home={tmp_path}/home", "task=evaluate", "evaluate=pair", f"evaluate.b={live}")
    before = inputs_of(settings)
    assert list(before) == ["evaluate.b"] and before["evaluate.b"].version == 2
    (live / "checkpoints" / "0002" / "trainer_state.pt").write_text("of the optimizer: no answer depends on it")
    assert changes(before, inputs_of(settings)) == []
    weights(live / "checkpoints" / "0003", "b")
    (told,) = changes(before, inputs_of(settings))
    assert told.startswith(f"evaluate.b={live} ") and "now version 3, " in told and "then version 2, " in told


@pytest.mark.parametrize(
    ("keys", "name"),
    [
        (("model.path={}",), "model.path"),
        (("model.base_model={}",), "model.base_model"),
        (("task=collect", "policy.path={}"), "policy.path"),
        (("source=jsonl", "source.path={}", "collect=none"), "source.path"),
    ],
)
def test_every_path_of_a_config_is_taken_for_its_content(tmp_path: Path, keys: tuple[str, ...], name: str) -> None:
    folder = weights(tmp_path / "weights")
    (folder / "rows.jsonl").write_text("{}\n")
    settings = compose_settings(f"home={tmp_path}/home", *(key.format(folder) for key in keys))
    before = inputs_of(settings)
    assert list(before) == [name]
    for path in (folder / "model.safetensors", folder / "rows.jsonl"):
        path.write_text(path.read_text() + "more\n")
    assert len(changes(before, inputs_of(settings))) == 1
    shutil.rmtree(folder)
    assert inputs_of(settings) == {} and changes(before, {}) == []


def test_large_files_are_read_once_and_again_when_they_change(tmp_path: Path) -> None:
    folder = weights(tmp_path / "weights")
    large = folder / "model.safetensors"
    large.write_bytes(b"x" * (1 << 20))
    long_ago = time.time() - 60
    os.utime(large, (long_ago, long_ago))
    settings = compose_settings(f"home={tmp_path}/home", f"model.path={folder}")
    before = inputs_of(settings)
    (kept,) = (tmp_path / "home" / "checksums").iterdir()
    kept.write_text(json.dumps(json.loads(kept.read_text()) | {"sha256": "kept"}))
    assert inputs_of(settings) != before  # it is what was kept that counts, while size and time are the same
    large.write_bytes(b"x" * (1 << 20))
    assert inputs_of(settings) == before


def test_an_unfinished_run_does_not_go_on_with_other_weights(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    refuse_mixture(folder, ["model.path=x is not what it was"])  # nothing is done yet
    folder.append("checkpoints", {"iteration": 0})
    refuse_mixture(folder, [])
    with pytest.raises(ConfigError, match=r"model\.path=x") as told:
        refuse_mixture(folder, ["model.path=x is not what it was"])
    assert "name=ANOTHER_NAME" in str(told.value)


def test_a_comparison_is_measured_again_when_a_side_gained_a_version(project: Project) -> None:
    run = project.root / "runs" / "live" / "key"
    shutil.copytree(SHIPPED / "tiny", run / "checkpoints" / "0001")
    command = ("task=evaluate", "report=local", "evaluate.markets=2", "evaluate.looks=1", "evaluate.agents=2",
               "evaluate.a=noop", f"evaluate.b={run}", "name=ab")  # fmt: skip
    project.run(*command)
    assert "nothing is done again" in project.run(*command)
    shutil.copytree(SHIPPED / "tiny", run / "checkpoints" / "0002")
    told = project.run(*command)
    assert "nothing is done again" not in told and "now version 2, " in told and "then version 1, " in told
    assert len(project.folders("ab/*")) == 2
    assert "1 skipped" in project.run("-m", *command)


def test_a_run_of_a_version_without_a_key_is_the_same_where_that_has_its_default(tmp_path: Path) -> None:
    settings = compose_settings()
    folder = RunFolder(tmp_path)
    config = masked(settings)
    del config["evaluate"]["validation_markets"]
    folder.write_config(config)
    folder.set_status("done", config_sha256="of an earlier version")
    assert Identity.of(folder, settings).same_config(folder.status())
    changed = compose_settings("evaluate.validation_markets=4")
    assert not Identity.of(folder, changed).same_config(folder.status())
