"""Connection strings: understood as the clients of games write them, and never shown with a password."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmo_rl.database.dsn import parse_dsn, read_dsn
from mmo_rl.errors import DatabaseError


def test_a_variable_that_is_not_set_says_what_to_type() -> None:
    with pytest.raises(DatabaseError, match="DATABASE_URL is not set") as caught:
        read_dsn("DATABASE_URL", {})
    assert caught.value.hint is not None
    assert caught.value.hint.startswith("export DATABASE_URL='postgresql://")


@pytest.mark.parametrize(
    "value",
    [
        "mysql://me:secret@host/db",
        "host=localhost password=secret",
        "secret",
        "postgresql://me:sec#ret@host/db",
        "postgresql://me:sec@ret@host/db",
        "postgresql://me:sec/ret@host/db",
        "postgresql://me:1?sec=ret@host/db",
        "postgresql://me:secret@host:port/db",
        "postgresql://me:secret@[host/db",
    ],
)
def test_what_cannot_be_read_is_refused_without_quoting_it(value: str) -> None:
    with pytest.raises(DatabaseError) as caught:
        read_dsn("DATABASE_URL", {"DATABASE_URL": value})
    shown = str(caught.value)
    assert "DATABASE_URL is not a PostgreSQL connection string" in shown
    for part in ("secret", "sec#ret", "sec@ret", "sec/ret", "ret@"):
        assert part not in shown


def test_the_password_is_in_neither_the_masked_form_nor_the_repr() -> None:
    address = parse_dsn("postgresql://me:s3cr3t@host:6543/game")
    assert address.masked == "postgresql://me:***@host:6543/game"
    assert "s3cr3t" not in repr(address)
    assert "s3cr3t" in address.dsn
    assert "s3cr3t" not in parse_dsn("postgresql://host/game?user=me&password=s3cr3t").masked


def test_parameters_of_other_clients_are_not_sent_to_the_server() -> None:
    address = parse_dsn(
        "postgres://me:pw@host/game?schema=play&pgbouncer=true&connection_limit=5&sslmode=require&channel_binding=require"
    )
    assert address.dsn == "postgresql://me:pw@host/game?sslmode=require"
    assert address.schema == "play"


def test_a_driver_in_the_scheme_is_accepted() -> None:
    assert parse_dsn("postgresql+asyncpg://me@host/game").dsn == "postgresql://me@host/game"


def test_a_socket_folder_instead_of_a_host() -> None:
    address = parse_dsn("postgresql:///game?host=%2Frun%2Fpostgresql")
    assert address.dsn.startswith("postgresql:///game?host=")
    assert address.masked == "postgresql:///run/postgresql/game"
    assert parse_dsn("postgresql://me@/game?host=/run/postgresql").dsn.startswith("postgresql://me@/game?host=")


@given(st.text(max_size=60))
def test_any_text_is_understood_or_refused(text: str) -> None:
    for value in (text, f"postgresql://{text}", f"postgresql://me:{text}@host/db"):
        with contextlib.suppress(ValueError):
            assert parse_dsn(value).masked.startswith("postgresql://")
