"""Scripted players by name: shipped, installed and one's own ones are found, anything else is refused with a reason."""

from pathlib import Path

import pytest

from mmo_rl.config.strategies import find_player, player_names
from mmo_rl.errors import ConfigError
from mmo_rl.market.base import Script
from mmo_rl.market.strategies import SHIPPED

OWN = """
from mmo_rl.market.strategies import HOLD


class Careful:
    def __call__(self, observation, rng):
        return HOLD


def patient(observation, rng):
    return HOLD


LIMIT = 3
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project folder with a module of one's own; the same for all tests, as a module is imported once."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "own_players.py").write_text(OWN, "utf-8")
    return folder


@pytest.fixture
def own(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder as the project root."""
    monkeypatch.setenv("MMO_RL_ROOT", str(project))


def test_a_shipped_name_needs_no_path() -> None:
    assert all(find_player(name) is SHIPPED[name] for name in SHIPPED)


@pytest.mark.parametrize(("path", "name"), [("own_players.Careful", "Careful"), ("own_players:patient", "patient")])
def test_a_strategy_of_ones_own_is_named_by_its_path_and_plays_under_its_last_part(
    own: None, path: str, name: str
) -> None:
    found = find_player(path)
    assert isinstance(found, Script) and found.name == name


def test_an_installed_package_adds_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metadata = tmp_path / "site" / "their_players-1.0.dist-info"
    metadata.mkdir(parents=True)
    (tmp_path / "site" / "their_players.py").write_text(OWN, "utf-8")
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: their-players\nVersion: 1.0\n", "utf-8")
    (metadata / "entry_points.txt").write_text("[mmo_rl.strategies]\ncareful = their_players:Careful\n", "utf-8")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    with pytest.raises(ConfigError, match="other code is never run from a config"):
        find_player("their_players.patient")
    found = find_player("careful")
    assert isinstance(found, Script) and found.name == "careful"
    assert "careful" in player_names()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("momentun", "did you mean momentum"),
        ("zzz", "one of conservative, balanced.*my_project.strategies.Careful"),
        ("no_such_package.Careful", "there is no module no_such_package in"),
        ("own_players.Careless", "own_players has no Careless"),
        ("own_players.LIMIT", "cannot play: it is of type int"),
    ],
)
def test_a_name_that_is_no_player_is_refused_with_the_reason(own: None, name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        find_player(name)
