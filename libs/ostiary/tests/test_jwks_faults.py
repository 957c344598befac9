"""A faulty JWKS server: the keys in memory stay, nothing blocks, and memory use stays bounded."""

import asyncio
import contextlib
import datetime as dt
import ipaddress
import json
import ssl
import time
import tracemalloc
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from jwks_server import JwksServer, Respond, reset, response, verifier_of
from timing import until

from ostiary import Verifier, VerifierConfig, _jwks, _polling, errors
from ostiary.testing import Issuer

pytestmark = [pytest.mark.enable_socket, pytest.mark.usefixtures("fast_refresh")]


async def drip(writer: asyncio.StreamWriter, _path: str) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n")
    while True:
        writer.write(b" ")
        await writer.drain()
        await asyncio.sleep(0.02)


async def gigabyte(writer: asyncio.StreamWriter, _path: str) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1073741824\r\n\r\n")
    for _ in range(1024):
        writer.write(b" " * 2**20)
        await writer.drain()


BAD_ANSWERS: dict[str, Respond | list[bytes]] = {
    "hangs": JwksServer.hang,
    "drips": drip,
    "sends a gigabyte": gigabyte,
    "resets": reset,
    "closes": [b""],
    "garbage": [b"\x16\x03\x01\x02\x00garbage\r\n\r\n"],
    "truncated JSON": [response(b'{"keys": [{"kty": "RSA"')],
    "truncated body": [b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 500\r\n\r\n{}"],
    "HTML": [response(b"<html></html>", content_type="text/html")],
    "wrong content type": [response(b'{"keys":[]}', content_type="text/plain")],
    "an empty set": [response(b'{"keys":[]}')],
    "ten thousand keys": [response(json.dumps({"keys": [{"kid": "k"}] * 10_000}).encode())],
    "500": [response(b"", "500 Internal JwksServer Error")],
    "429": [response(b"", "429 Too Many Requests", "Retry-After: 0")],
    "redirect": [response(b"", "302 Found", "Location: http://127.0.0.1:1/evil")],
    "compressed": [response(b"\x1f\x8b", "200 OK", "Content-Encoding: gzip")],
    "a huge header": [b"HTTP/1.1 200 OK\r\nX: " + b"x" * 500_000 + b"\r\n\r\n"],
    "204": [b"HTTP/1.1 204 No Content\r\n\r\n"],
}


def misbehave(server: JwksServer, name: str) -> None:
    bad = BAD_ANSWERS[name]
    if isinstance(bad, list):
        server.answer(*bad)
    else:
        server.respond = bad


#: Bad answers that only a time limit ends.
ENDLESS = {"hangs", "drips"}


@pytest.mark.parametrize("name", BAD_ANSWERS)
async def test_a_bad_response_keeps_the_current_keys_and_a_good_one_replaces_them(
    issuer: Issuer, stranger: Issuer, server: JwksServer, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.answer(response(issuer.jwks(), "200 OK", "Cache-Control: max-age=0"))
    async with verifier_of(issuer, server) as verifier:
        token, other = issuer.token(), Issuer(kid="other", private_key=stranger.private_key)
        assert verifier.verify(token).issuer == issuer.issuer
        with monkeypatch.context() as patch:
            if name in ENDLESS:
                patch.setattr(_jwks, "FETCH_TIMEOUT", 0.1)
            misbehave(server, name)
            seen = len(server.paths)
            await until(lambda: len(server.paths) >= seen + 3)
        assert verifier.verify(token).issuer == issuer.issuer
        server.answer(response(other.jwks()))
        await until(lambda: verifies(verifier, other.token()))
        with pytest.raises(errors.UnknownKey):
            verifier.verify(token)
    assert set(server.paths) == {"/jwks"}


@pytest.mark.parametrize("name", BAD_ANSWERS)
async def test_a_cold_start_with_a_bad_response_recovers(
    issuer: Issuer, server: JwksServer, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    misbehave(server, name)
    with monkeypatch.context() as patch:
        if name in ENDLESS:
            patch.setattr(_jwks, "FETCH_TIMEOUT", 0.1)
        verifier = await verifier_of(issuer, server).__aenter__()
    try:
        assert not verifier.ready
        with pytest.raises(errors.KeysUnavailable):
            verifier.verify(issuer.token())
        server.answer(response(issuer.jwks()))
        await until(lambda: verifier.ready)
        assert verifier.verify(issuer.token()).issuer == issuer.issuer
    finally:
        await verifier.__aexit__()


def verifies(verifier: Verifier, token: str) -> bool:
    try:
        verifier.verify(token)
    except errors.OstiaryError:
        return False
    return True


async def test_memory_is_bounded_for_a_body_of_a_gigabyte(issuer: Issuer, server: JwksServer) -> None:
    server.respond = gigabyte
    tracemalloc.start()
    try:
        async with verifier_of(issuer, server):
            await until(lambda: len(server.paths) >= 3)
        assert tracemalloc.get_traced_memory()[1] < 20 * 2**20
    finally:
        tracemalloc.stop()


async def test_retry_after_is_respected(issuer: Issuer, server: JwksServer) -> None:
    server.answer(response(b"", "503 Service Unavailable", "Retry-After: 30"))
    async with verifier_of(issuer, server):
        await asyncio.sleep(0.2)
        assert len(server.paths) == 1


async def test_verifying_does_not_wait_for_an_endpoint_that_hangs(issuer: Issuer, server: JwksServer) -> None:
    server.answer(response(issuer.jwks(), "200 OK", "Cache-Control: max-age=0"))
    async with verifier_of(issuer, server) as verifier:
        server.respond = JwksServer.hang
        known, unknown = issuer.token(), issuer.token(header={"kid": "unknown"})
        started_at = time.perf_counter()
        for _ in range(5_000):
            with contextlib.suppress(errors.UnknownKey):
                verifier.verify(unknown)
            assert verifier.verify(known).issuer == issuer.issuer
        # Ten thousand checks of tens of microseconds; one that waited would take a time-out each.
        assert time.perf_counter() - started_at < 10


async def test_unknown_keys_do_not_hammer_an_endpoint_that_fails(
    issuer: Issuer, server: JwksServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    cooldown = 0.1
    monkeypatch.setattr(_jwks, "UNKNOWN_KEY_COOLDOWN", cooldown)
    server.answer(response(issuer.jwks(), "200 OK", "Cache-Control: max-age=3600"))
    async with verifier_of(issuer, server) as verifier:
        server.respond = reset
        unknown = issuer.token(header={"kid": "unknown"})
        started_at = time.monotonic()
        while (passed := time.monotonic() - started_at) < 3 * cooldown:
            assert not verifies(verifier, unknown)
            await asyncio.sleep(0)
    # The first at the start, and then at most one in that time, though each fails.
    assert 2 <= len(server.paths) <= 2 + passed / cooldown


async def test_a_rotation_comes_through_a_flood_of_unknown_keys(issuer: Issuer, server: JwksServer) -> None:
    server.answer(response(issuer.jwks(), "200 OK", "Cache-Control: max-age=3600"))
    async with verifier_of(issuer, server) as verifier:
        following = Issuer(kid="following")
        server.answer(response(following.jwks()))
        token = following.token()
        flood = [issuer.token(header={"kid": f"unknown-{number}"}) for number in range(100)]

        async def attack() -> None:
            while True:
                for unknown in flood:
                    assert not verifies(verifier, unknown)
                await asyncio.sleep(0)

        attacker = asyncio.create_task(attack())
        await until(lambda: verifies(verifier, token))
        attacker.cancel()


class TestTls:
    @pytest.fixture
    def certificate(self, tmp_path: Path) -> tuple[Path, Path]:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
        now = dt.datetime.now(dt.UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(1)
            .not_valid_before(now - dt.timedelta(days=1))
            .not_valid_after(now + dt.timedelta(days=1))
            .add_extension(
                x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
            )
            .sign(key, SHA256())
        )
        (tmp_path / "cert.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
        (tmp_path / "key.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return tmp_path / "cert.pem", tmp_path / "key.pem"

    @pytest.mark.parametrize("trusted", [False, True])
    async def test_the_certificate_must_be_trusted(
        self, issuer: Issuer, certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, trusted: bool
    ) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate)
        if trusted:
            monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
        _polling.tls_context.cache_clear()
        server = JwksServer()
        server.answer(response(issuer.jwks()))
        async with server.listening(context):
            url = f"https://127.0.0.1:{server.port}/jwks"
            config = VerifierConfig(issuer=issuer.issuer, audience=issuer.audience, jwks_url=url)
            async with Verifier(config) as verifier:
                assert verifier.ready is trusted
        _polling.tls_context.cache_clear()


class TestDiscovery:
    """RFC 8414: the URL of the keys from the issuer's metadata."""

    def metadata(self, server: JwksServer, signer: Issuer, /, **changes: object) -> Respond:
        document = {"issuer": server.url, "jwks_uri": f"{server.url}/keys", **changes}

        async def respond(writer: asyncio.StreamWriter, path: str) -> None:
            writer.write(response(json.dumps(document).encode() if "well-known" in path else signer.jwks()))

        return respond

    async def test_keys_are_found(self, server: JwksServer) -> None:
        issuer = Issuer(server.url)
        server.respond = self.metadata(server, issuer)
        async with Verifier(VerifierConfig(issuer=server.url, audience="ostiary")) as verifier:
            assert verifier.verify(issuer.token()).issuer == server.url
        assert server.paths == ["/.well-known/oauth-authorization-server", "/keys"]

    async def test_an_issuer_may_have_a_path(self, server: JwksServer) -> None:
        """Section 3.1: the well-known part goes before it."""
        issuer = Issuer(f"{server.url}/tenant")
        server.respond = self.metadata(server, issuer, issuer=issuer.issuer)
        async with Verifier(VerifierConfig(issuer=issuer.issuer, audience="ostiary")) as verifier:
            assert verifier.ready
        assert server.paths[0] == "/.well-known/oauth-authorization-server/tenant"

    @pytest.mark.parametrize(
        "changes",
        [
            {"issuer": "https://evil.example"},
            {"issuer": None},
            {"jwks_uri": None},
            {"jwks_uri": "http://evil.example/keys"},
            {"jwks_uri": "file:///etc/keys"},
            {"jwks_uri": 1},
        ],
    )
    async def test_invalid_metadata_is_rejected(
        self, issuer: Issuer, server: JwksServer, changes: dict[str, object]
    ) -> None:
        """Section 3.3."""
        issuer = Issuer(server.url, private_key=issuer.private_key)
        server.respond = self.metadata(server, issuer, **changes)
        async with Verifier(VerifierConfig(issuer=server.url, audience="ostiary")) as verifier:
            assert not verifier.ready
        assert "/keys" not in server.paths


class TestClock:
    async def test_setting_the_clock_back_does_not_extend_keys(
        self, issuer: Issuer, server: JwksServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        server.answer(response(issuer.jwks(), "200 OK", "Cache-Control: max-age=3600"))
        token = issuer.token()
        async with verifier_of(issuer, server) as verifier:
            now = time.time()
            for shift in (-10 * 365 * 86400, 10 * 365 * 86400):
                shifted = now + shift
                monkeypatch.setattr(time, "time", lambda shifted=shifted: shifted)
                assert verifier.ready
                with pytest.raises((errors.NotYetValid, errors.Expired)):
                    verifier.verify(token)
