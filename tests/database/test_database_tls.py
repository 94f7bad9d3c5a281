"""What a connection string says about encryption, in the words of libpq and of Prisma, is kept."""

from __future__ import annotations

import asyncio
import shutil
import ssl
import subprocess
from pathlib import Path

import pytest

from mmo_rl.database.database import Database
from mmo_rl.database.dsn import parse_dsn
from mmo_rl.errors import DatabaseError

VARIABLE = "MMO_RL_TEST_DATABASE_URL"


@pytest.mark.parametrize(
    ("said", "kept", "system_roots"),
    [
        ("sslmode=require", "sslmode=require", False),
        ("sslmode=verify-full&sslrootcert=ca.pem", "sslmode=verify-full&sslrootcert=ca.pem", False),
        ("sslmode=verify-full&sslrootcert=system", "", True),
        ("sslmode=require&sslaccept=strict", "", True),
        ("sslmode=require&sslaccept=strict&sslcert=ca.pem", "sslmode=verify-full&sslrootcert=ca.pem", False),
        ("sslmode=require&sslaccept=accept_invalid_certs", "sslmode=require", False),
        ("sslcert=c.pem&sslkey=k.pem&sslmode=require", "sslcert=c.pem&sslkey=k.pem&sslmode=require", False),
    ],
)
def test_words_for_encryption(said: str, kept: str, system_roots: bool) -> None:
    address = parse_dsn(f"postgresql://me@host/game?{said}")
    assert address.dsn.partition("?")[2] == kept
    assert address.system_roots is system_roots


async def told(parameters: str, port: int, home: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv(VARIABLE, f"postgresql://me:s3cr3t@localhost:{port}/game?{parameters}")
    with pytest.raises(DatabaseError) as caught:
        async with Database(dsn_env=VARIABLE, home=home):
            pass
    assert "s3cr3t" not in str(caught.value)
    return str(caught.value)


async def test_files_that_do_not_exist_and_modes_that_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = tmp_path / "ca.pem"
    assert "correct sslrootcert" in await told(f"sslmode=verify-full&sslrootcert={missing}", 1, tmp_path, monkeypatch)
    assert "`sslmode` parameter must be one of" in await told("sslmode=always", 1, tmp_path, monkeypatch)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes a certificate with openssl")
async def test_a_certificate_is_verified_where_that_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asks a server that encrypts and then refuses the password: it got as far as that, or it did not."""
    certificate, key = tmp_path / "server.pem", tmp_path / "server.key"
    make = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost"
    command = [*make.split(), "-keyout", str(key), "-out", str(certificate)]
    await asyncio.to_thread(subprocess.run, command, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readexactly(8)  # asks for encryption
            writer.write(b"S")
            await writer.start_tls(context)
            length = int.from_bytes(await reader.readexactly(4))
            await reader.readexactly(length - 4)
            fields = b"SFATAL\0C28P01\0Mpassword authentication failed\0\0"
            writer.write(b"E" + (len(fields) + 4).to_bytes(4) + fields)
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass  # the client did not like the certificate
        finally:
            writer.close()

    async with await asyncio.start_server(refuse, "localhost", 0) as server:
        port = server.sockets[0].getsockname()[1]
        for accepted in ("sslmode=require", f"sslmode=verify-full&sslrootcert={certificate}"):
            assert "refused the user or the password" in await told(accepted, port, tmp_path, monkeypatch)
        for refused in ("sslmode=verify-full&sslrootcert=system", "sslmode=require&sslaccept=strict"):
            found = await told(refused, port, tmp_path, monkeypatch)
            assert "no encrypted connection" in found
            assert "certificate" in found
