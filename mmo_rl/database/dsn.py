"""Connection strings: parser, mask for secrets, arguments for asyncpg, messages for failed connections."""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NotRequired, TypedDict
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

import asyncpg

from mmo_rl.errors import ConnectionLost, DatabaseError, NoAddress

# Parameters of other clients (Prisma, libpq) that asyncpg would send to the server as settings, which refuses them.
_FOREIGN = """
    schema connection_limit pool_timeout pgbouncer connect_timeout socket_timeout statement_cache_size sslaccept
    sslidentity channel_binding max_idle_connection_lifetime single_use_connections supa gssencmode keepalives
    keepalives_idle keepalives_interval keepalives_count tcp_user_timeout application_name
"""
FOREIGN_PARAMETERS = frozenset(_FOREIGN.split())


TLS_FILES = ("sslrootcert", "sslcert", "sslkey", "sslcrl")
LOST = (
    asyncpg.PostgresConnectionError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.IdleInTransactionSessionTimeoutError,
)
"""Errors of a working connection that the server, or a proxy before it, closes."""


@dataclass(frozen=True, slots=True)
class ServerAddress:
    """Address of a database. ``masked`` may be shown; ``dsn`` may hold a password and is kept out of ``repr``."""

    dsn: str = field(repr=False)
    masked: str
    schema: str | None = None
    system_roots: bool = False
    """True where the server's certificate is verified against the authorities that this machine trusts."""


def read_dsn(dsn_env: str, environment: Mapping[str, str] | None = None) -> ServerAddress:
    """Reads the address in an environment variable. Raises `NoAddress`, which never quotes its value."""
    value = (os.environ if environment is None else environment).get(dsn_env, "").strip()
    example = f"export {dsn_env}='postgresql://USER:PASSWORD@HOST:5432/DATABASE'"
    if not value:
        raise NoAddress(f"the environment variable {dsn_env} is not set", hint=example)
    try:
        return parse_dsn(value)
    except ValueError as error:
        raise NoAddress(
            f"{dsn_env} is not a PostgreSQL connection string: {error}",
            hint=f"{example} (percent-encode @ : / ? # in the password, for example @ as %40)",
        ) from None


def parse_dsn(value: str) -> ServerAddress:
    """Parses a connection string.

    Raises ValueError with a text that quotes nothing of ``value``: a badly encoded password may be anywhere in it.
    """
    scheme = value.partition("://")[0]
    if "://" not in value or scheme.partition("+")[0] not in ("postgresql", "postgres"):
        raise ValueError("it must begin with postgresql://")
    if "#" in value or value.count("@") > 1:
        raise ValueError("its user or password contains a character that must be percent-encoded")
    try:
        parts = urlsplit("postgresql" + value[len(scheme) :])
        _ = parts.port
        query = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
    except ValueError:
        raise ValueError("its host, port or parameters cannot be read") from None
    if "@" in value and "@" not in parts.netloc:
        raise ValueError("its user or password contains a character that must be percent-encoded")
    parameters = dict(query)
    schema = parameters.get("schema")
    system_roots = _tls(parameters)
    kept = {k: v for k, v in parameters.items() if k not in FOREIGN_PARAMETERS}
    dsn = parts._replace(query=urlencode(kept, quote_via=quote)).geturl()
    if not parts.netloc:
        dsn = dsn.replace("postgresql:/", "postgresql:///", 1) if dsn.startswith("postgresql:/") else dsn
        while dsn.startswith("postgresql:////"):
            dsn = dsn.replace("postgresql:////", "postgresql:///", 1)
    user = unquote(parts.username or parameters.get("user", ""))
    host = parts.netloc.rpartition("@")[2] or parameters.get("host", "")
    database = parts.path.lstrip("/") or parameters.get("dbname", "")
    secret = ":***" if parts.password or "password" in parameters else ""
    masked = f"postgresql://{user}{secret}{'@' if user or secret else ''}{host}/{database}"
    return ServerAddress(dsn=dsn, masked=masked, schema=schema, system_roots=system_roots)


def _tls(parameters: dict[str, str]) -> bool:
    """Rewrites other clients' words for encryption into asyncpg's; true where the system's authorities verify.

    Prisma names the authority's certificate ``sslcert`` where there is no ``sslkey``, and ``sslaccept=strict`` asks for
    its verification; libpq says ``sslrootcert=system``.
    """
    accept = parameters.get("sslaccept")
    if accept is not None and "sslcert" in parameters and "sslkey" not in parameters:
        parameters.setdefault("sslrootcert", parameters.pop("sslcert"))
    system = parameters.get("sslrootcert") == "system" or (accept == "strict" and "sslrootcert" not in parameters)
    if system:
        parameters.pop("sslrootcert", None)
        parameters.pop("sslmode", None)
    elif accept == "strict":
        parameters["sslmode"] = "verify-full"
    return system


def connection_error(error: Exception, *, masked: str, dsn_env: str | None) -> DatabaseError:
    """Makes the error of a failed connection for users; ``masked`` is the address without its secret."""
    name = dsn_env or "the embedded database"
    kind: type[DatabaseError] = DatabaseError
    if isinstance(error, asyncpg.InvalidCatalogNameError):
        message, hint = f"there is no such database at {masked}", f"create it (createdb), or correct {name}"
    elif isinstance(error, asyncpg.InvalidAuthorizationSpecificationError):
        message, hint = f"the server refused the user or the password of {masked}", f"correct {name}"
    elif isinstance(error, asyncpg.TooManyConnectionsError):
        kind = ConnectionLost
        message, hint = f"{masked} has no free connections", "wait, or lower database.max_connections, and try again"
    elif isinstance(error, asyncpg.CannotConnectNowError):
        kind = ConnectionLost
        message, hint = f"{masked} is starting or shutting down", "try again in a few seconds"
    elif isinstance(error, LOST):
        kind = ConnectionLost
        message, hint = f"the connection to {masked} was lost", "see that the server is up, then type the command again"
    elif isinstance(error, TimeoutError):
        kind = ConnectionLost
        message, hint = f"no answer from {masked}", f"check that the server is up and that {name} names it"
    elif isinstance(error, socket.gaierror):
        kind = ConnectionLost
        message, hint = f"the host of {masked} is unknown", f"correct the host in {name}"
    elif isinstance(error, ssl.SSLError):
        reason = getattr(error, "verify_message", None) or error.reason or "the handshake failed"
        message, hint = f"no encrypted connection to {masked}: {reason}", f"correct sslmode or sslrootcert in {name}"
    elif isinstance(error, asyncpg.ClientConfigurationError) and "ssl" in str(error).lower():
        message, hint = f"no encrypted connection to {masked}: {error}", f"correct sslmode or sslrootcert in {name}"
    elif isinstance(error, OSError):
        kind = ConnectionLost
        reason = error.strerror or "connection refused"
        message = f"cannot reach {masked}: {reason}"
        hint = f"check that the server is up and that {name} names it"
    else:
        message, hint = f"cannot connect to {masked} ({type(error).__name__})", f"correct {name}"
    return kind(message, hint=hint)


class ConnectArguments(TypedDict):
    """Keyword arguments of ``asyncpg.connect``."""

    dsn: str
    timeout: float
    statement_cache_size: int
    server_settings: dict[str, str]
    ssl: NotRequired[ssl.SSLContext]


def connect_arguments(address: ServerAddress, *, timeout_s: float, application_name: str) -> ConnectArguments:
    """Builds the arguments for ``asyncpg.connect``.

    No statement is cached: behind a transaction pooler the next transaction may meet another server process. Settings
    are made inside each transaction for the same reason.
    """
    arguments: ConnectArguments = {
        "dsn": address.dsn,
        "timeout": timeout_s,
        "statement_cache_size": 0,
        "server_settings": {"application_name": application_name},
    }
    if address.system_roots:
        arguments["ssl"] = ssl.create_default_context()
    return arguments


def require_tls_files(address: ServerAddress, *, dsn_env: str) -> None:
    """Raises `DatabaseError` where a file of certificates that the connection string names does not exist."""
    for name, value in parse_qsl(urlsplit(address.dsn).query):
        if name in TLS_FILES and not Path(value).is_file():
            raise DatabaseError(f"there is no file {value}", hint=f"correct {name} in {dsn_env}")
