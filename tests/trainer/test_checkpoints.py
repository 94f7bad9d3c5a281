"""Versions appear whole, stay what they were, and go only when asked."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mmo_rl.errors import PolicyError, TrainerError
from mmo_rl.lm.manifest import FILE
from mmo_rl.lm.model import SHIPPED, ModelSpec
from mmo_rl.policy.base import PolicyParts
from mmo_rl.policy.local import local_policy
from mmo_rl.trainer.base import LostVersion
from mmo_rl.trainer.checkpoints import Checkpoints
from tests.trainer.made import model_spec

TINY = SHIPPED / "tiny"


def checkpoints(folder: Path, name: str = "tiny", base: str = str(TINY)) -> Checkpoints:
    return Checkpoints(folder=folder, model=model_spec(base, name=name))


def save(folder: Path) -> None:
    shutil.copytree(TINY, folder, dirs_exist_ok=True)


def published(folder: Path, *versions: int) -> Checkpoints:
    made = checkpoints(folder)
    for version in versions:
        assert made.publish(version, save).version == version
    return made


def spec(name: str = "tiny") -> ModelSpec:
    return ModelSpec(name=name, base_model="tiny", context_length=512, max_completion_tokens=24)


def test_a_version_says_what_it_is_and_of_which_files(tmp_path: Path) -> None:
    published(tmp_path, 3)
    told = json.loads((tmp_path / "0003" / FILE).read_text())
    assert (told["format"], told["model"], told["base"], told["version"]) == (1, "tiny", "tiny", 3)
    assert told["shape"]["architectures"] == ["LlamaForCausalLM"] and told["shape"]["vocab_size"] > 0
    assert set(told["files"]) == {p.name for p in TINY.iterdir() if p.is_file()}
    assert checkpoints(tmp_path).rewind() == 3


def cut(file: Path) -> None:
    os.truncate(file, file.stat().st_size - 1000)


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize(("harm", "said"), [(cut, "bytes instead of"), (flip, "checksum"), (Path.unlink, "is missing")])
def test_damage_is_found_and_told_with_what_to_type(tmp_path: Path, harm: Callable[[Path], None], said: str) -> None:
    published(tmp_path, 1, 2)
    harm(tmp_path / "0002" / "model.safetensors")
    with pytest.raises(TrainerError, match=said) as refused:
        checkpoints(tmp_path).rewind()
    assert f"rm -r {tmp_path / '0002'}" in str(refused.value)
    with pytest.raises(PolicyError, match=said):
        local_policy(parts=PolicyParts(model=spec()), path=str(tmp_path / "0002"))
    assert checkpoints(tmp_path).rewind(1) == 1  # the version before is as good as ever
    assert checkpoints(tmp_path).published() == [1]


def test_a_torn_manifest_is_damage_and_a_folder_made_elsewhere_is_not(tmp_path: Path) -> None:
    published(tmp_path, 1)
    cut(tmp_path / "0001" / FILE)
    with pytest.raises(TrainerError, match=r"checkpoint\.json is damaged"):
        checkpoints(tmp_path).rewind()
    (tmp_path / "0001" / FILE).unlink()
    assert local_policy(parts=PolicyParts(model=spec()), path=str(tmp_path / "0001")).version == 1


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    published(tmp_path, 1)
    with pytest.raises(TrainerError, match="of the model tiny, not of other"):
        checkpoints(tmp_path, name="other").rewind()
    with pytest.raises(PolicyError, match="of the model tiny, not of other") as refused:
        local_policy(parts=PolicyParts(model=spec("other")), path=str(tmp_path / "0001"))
    assert "model=tiny" in str(refused.value)
    wider = tmp_path / "wider"
    shutil.copytree(TINY, wider)
    config = json.loads((wider / "config.json").read_text())
    (wider / "config.json").write_text(json.dumps(config | {"vocab_size": 99}))
    with pytest.raises(TrainerError, match=r"another tiny \(vocab_size \d+ instead of 99\)"):
        checkpoints(tmp_path, base=str(wider)).rewind()
    assert checkpoints(tmp_path).published() == [1]


def test_a_version_that_is_gone_is_told_from_one_that_is_damaged(tmp_path: Path) -> None:
    published(tmp_path, 1)
    with pytest.raises(LostVersion, match="checkpoint 2 is not in"):
        checkpoints(tmp_path).rewind(2)
    assert checkpoints(tmp_path).published() == [1]


def full(folder: Path) -> None:
    """Real weights, and then a file on a device that is always full."""
    save(folder)
    (folder / "trainer_state.pt").symlink_to("/dev/full")
    with open(folder / "trainer_state.pt", "wb") as file:
        file.write(b"x" * 100_000)


def too_large(folder: Path) -> None:
    """The word of the library that writes the weights, which is no `OSError`."""
    import torch
    from safetensors.torch import save_file

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        save_file({"w": torch.zeros(100_000)}, folder / "model.safetensors")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize(
    ("fails", "said"),
    [(full, "the disk is full"), (too_large, "File too large")],
)
def test_a_disk_that_refuses_leaves_nothing_and_loses_nothing(
    tmp_path: Path, fails: Callable[[Path], None], said: str
) -> None:
    made = published(tmp_path, 1)
    with pytest.raises(TrainerError, match=said) as refused:
        made.publish(2, fails)
    assert f"make room on the disk of {tmp_path}" in str(refused.value)
    assert [p.name for p in tmp_path.iterdir()] == ["0001"]
    assert made.publish(2, save).version == 2  # after room was made
    assert checkpoints(tmp_path).rewind() == 2


KILLED = """
import os, shutil, signal, sys
from pathlib import Path
from mmo_rl.lm.model import ModelSpec
from mmo_rl.milestones import listen
from mmo_rl.trainer.checkpoints import Checkpoints

folder, moment, base = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
model = ModelSpec(name="tiny", base_model=base, path=base, context_length=512, max_completion_tokens=24)
made = Checkpoints(folder=folder, model=model)

def end(milestone, detail):
    if milestone == moment:
        if moment == "checkpoint withdrawn":  # in the middle of its removal
            (folder / "0002.removed" / "config.json").unlink()
        os.kill(os.getpid(), signal.SIGKILL)

with listen(end):
    made.publish(2, lambda partial: shutil.copytree(base, partial, dirs_exist_ok=True))
    made.remove([2])
"""


@pytest.mark.parametrize(
    ("moment", "there"),
    [
        ("checkpoint started", 1),
        ("weights written", 1),
        ("checkpoint sealed", 1),
        ("checkpoint named", 2),
        ("checkpoint written", 2),
        ("checkpoint withdrawn", 1),
    ],
)
def test_a_process_killed_at_any_moment_leaves_whole_versions(tmp_path: Path, moment: str, there: int) -> None:
    published(tmp_path, 1)
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), moment, str(TINY)], check=False)
    assert killed.returncode == -signal.SIGKILL
    again = checkpoints(tmp_path)
    assert again.rewind() == there
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"{n:04d}" for n in range(1, there + 1)]
    assert again.publish(2, save).version == 2


def test_the_newest_stay_and_those_that_earned_most(tmp_path: Path) -> None:
    made = published(tmp_path, 0, 1, 2, 3, 4, 5)
    earned = {0: 9.0, 1: 1.0, 2: 5.0, 3: 5.0, 4: 2.0, 7: 99.0}
    assert made.removable(earned, last=None, best=1) == []
    assert made.removable(earned, last=9, best=0) == []
    assert made.removable(earned, last=2, best=0) == [1, 2, 3]
    assert made.removable(earned, last=2, best=1) == [1, 3]  # of equals the older stays
    assert made.removable({}, last=1, best=3) == [1, 2, 3, 4]
    made.remove([1, 3, 8])
    assert made.published() == [0, 2, 4, 5]
    assert made.version(0).path == str(tmp_path / "0000")
    assert checkpoints(tmp_path / "other").version(0).path == str(TINY)


def test_going_back_removes_what_is_half_done_and_nothing_of_others(tmp_path: Path) -> None:
    made = published(tmp_path, 1)
    (tmp_path / "0001.zip").write_bytes(b"a copy that somebody made")
    (tmp_path / "0002.partial").mkdir()
    (tmp_path / "0003.removed").mkdir()
    assert made.rewind(1) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0001", "0001.zip"]
