"""Connections are encrypted, and a renewed certificate is taken without a restart."""

from __future__ import annotations

import asyncio
import datetime
import os
import ssl
from contextlib import suppress

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from websockets.asyncio.client import connect

from tests.workers.conftest import Client, running
from workers import gateway
from workers.access.tls import Certificate, CertificateError


def renew(folder, common_name):
    """A self-signed certificate for this machine; returns its paths."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    contents = {
        "tls.crt": certificate.public_bytes(serialization.Encoding.PEM),
        "tls.key": key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
    }
    for file, content in contents.items():
        (folder / f"{file}.new").write_bytes(content)
        os.replace(folder / f"{file}.new", folder / file)
    return folder / "tls.crt", folder / "tls.key"


async def connected(server, trusted):
    """Open a stream over TLS; returns the connection and the name in the server's certificate."""
    context = ssl.create_default_context(cafile=trusted)
    url = server.url.replace("ws://127.0.0.1", "wss://localhost")
    connection = await connect(url, proxy=None, ssl=context, compression=None)
    subject = connection.transport.get_extra_info("peercert")["subject"]
    return connection, subject[0][0][1]


async def test_a_renewed_certificate_is_for_those_who_come_after(tmp_path):
    certificate = Certificate(*renew(tmp_path, "first"))
    first_trusted = tmp_path / "first.crt"
    first_trusted.write_bytes((tmp_path / "tls.crt").read_bytes())
    async with running(tls=certificate.context) as server:
        early, name = await connected(server, first_trusted)
        renew(tmp_path, "second")
        certificate.refresh()
        late, later_name = await connected(server, tmp_path / "tls.crt")
        for connection in (early, late):
            speaker = Client(connection)
            await speaker.send({"type": "start", "partials": False}, b"hola.", b".", {"type": "stop"})
            assert (await speaker.rest())[-1]["type"] == "done"

    assert (name, later_name) == ("first", "second")


async def test_who_takes_his_time_over_tls_is_cut_off(tmp_path, monkeypatch):
    monkeypatch.setattr(gateway, "START_SECONDS", 0.3)
    certificate = Certificate(*renew(tmp_path, "name"))
    async with running(tls=certificate.context) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(server.address.split(":")[1]))
        writer.write(b"\x16\x03\x01")  # a record's first bytes
        async with asyncio.timeout(10):
            with suppress(ConnectionError):
                assert await reader.read() == b""
        writer.close()


async def test_half_a_renewal_changes_nothing(tmp_path, caplog):
    chain, key = renew(tmp_path, "first")
    certificate = Certificate(chain, key)
    old = key.read_bytes()
    first_trusted = tmp_path / "first.crt"
    first_trusted.write_bytes(chain.read_bytes())
    renew(tmp_path, "second")
    key.write_bytes(old)
    async with running(tls=certificate.context) as server:
        certificate.refresh()
        connection, name = await connected(server, first_trusted)
        await connection.close()

    assert name == "first"
    assert "left as it was" in caplog.text


def test_what_is_no_certificate_is_said_so(tmp_path):
    chain, key = renew(tmp_path, "first")
    chain.write_text("none")
    with pytest.raises(CertificateError, match="no usable certificate"):
        Certificate(chain, key)
    with pytest.raises(CertificateError, match="no usable certificate"):
        Certificate(tmp_path / "missing", key)
