"""The cost of verifying an access token, compared with other libraries in one run.

Same token, same key in memory, signature and claims checked. Contenders take turns in each round, so that noise affects
them alike; a result is the median of the rounds' medians. Results are printed and written to
`bench/results/verify.json`. Takes two minutes, one of them for a million tokens with unknown keys.

    python bench/verify.py [--quick] [part ...]
"""

import asyncio
import gc
import math
import statistics
import time
import tracemalloc
import uuid
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import jwt
from common import Row, in_turn, measure, percentile, summary, versions
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from joserfc import jwt as joserfc_jwt
from joserfc.jwk import RSAKey
from joserfc.jwt import ClaimsOption

from ostiary import Verifier, VerifierConfig, _base64url, errors
from ostiary.testing import Issuer

with warnings.catch_warnings(record=True):  # it announces its successor, joserfc
    from authlib.jose import JsonWebToken

#: Limit for the whole run, in seconds.
LIMIT_SECONDS = 300

FLOOD_PER_SECOND = 10_000
UNKNOWN_PER_SECOND = 1_000_000 / 60
BASE = "cryptography, signature only"
LIBRARIES = ("ostiary", "cryptography", "pyjwt", "joserfc", "authlib")

Call = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Scale:
    """How much to measure."""

    rounds: int = 15
    calls: int = 300
    flood_seconds: int = 10
    unknown_seconds: int = 60


QUICK = Scale(rounds=3, calls=50, flood_seconds=2, unknown_seconds=3)


def contenders(issuer: Issuer) -> dict[str, Call]:
    """Return the functions to measure, by name."""
    token = new_token(issuer)
    public_key = issuer.private_key.public_key()
    signing_input, _, encoded_signature = token.encode().rpartition(b".")
    signature = _base64url.decode(encoded_signature)
    padding, digest = PKCS1v15(), SHA256()
    uncached, cached = Verifier(issuer.config(), remember=0), issuer.verifier()
    cached.verify(token)
    pyjwk = jwt.PyJWK(issuer.jwk())
    joserfc_key = RSAKey.import_key(public_key)
    iss: ClaimsOption = {"value": issuer.issuer, "essential": True}
    aud: ClaimsOption = {"value": issuer.audience, "essential": True}
    registry = joserfc_jwt.JWTClaimsRegistry(iss=iss, aud=aud, exp={"essential": True})
    authlib = JsonWebToken(["RS256"])
    pem = public_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    options = {"iss": iss, "aud": aud, "exp": {"essential": True}}

    def with_pyjwt() -> None:
        jwt.decode(token, pyjwk, algorithms=["RS256"], audience=issuer.audience, issuer=issuer.issuer)

    def with_joserfc() -> None:
        registry.validate(joserfc_jwt.decode(token, joserfc_key, algorithms=["RS256"]).claims)

    def with_authlib() -> None:
        authlib.decode(token, pem, claims_options=options).validate()

    return {
        BASE: lambda: public_key.verify(signature, signing_input, padding, digest),
        "ostiary, first sight": lambda: uncached.verify(token),
        "ostiary, remembered": lambda: cached.verify(token),
        "PyJWT, key at hand": with_pyjwt,
        "joserfc, key at hand": with_joserfc,
        "Authlib, key at hand": with_authlib,
    }


def new_token(issuer: Issuer, **header: object) -> str:
    """Return a token of the size that the auth service signs."""
    scopes = ["profile:read", "profile:write"]
    return issuer.token(subject=str(uuid.uuid4()), scopes=scopes, roles=["user"], header=header)


def costs(scale: Scale) -> Row:
    """Measure all contenders, in microseconds per call."""

    def typical(call: Call) -> float:
        return statistics.median(microseconds(call) for _ in range(scale.calls))

    calls = contenders(Issuer())
    rounds = in_turn({name: partial(typical, call) for name, call in calls.items()}, scale.rounds)
    base = statistics.median(rounds[BASE])
    return {
        name: {"us": summary(values, 2), "ratio_to_signature_only": round(statistics.median(values) / base, 3)}
        for name, values in rounds.items()
    }


def microseconds(call: Call) -> float:
    started_at = time.perf_counter_ns()
    call()
    return (time.perf_counter_ns() - started_at) / 1000


def memory(_scale: Scale) -> Row:
    """Measure the bytes that a cached token takes."""
    issuer, count = Issuer(), 2000
    tokens = [new_token(issuer) for _ in range(count)]
    verifier = issuer.verifier()
    verifier.verify(new_token(issuer))
    gc.collect()
    tracemalloc.start()
    for token in tokens:
        verifier.verify(token)
    gc.collect()
    taken = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return {"bytes_per_remembered_token": round(taken / count)}


class Endpoint:
    """A JWKS endpoint that responds once, then hangs, and counts requests."""

    def __init__(self, issuer: Issuer) -> None:
        self.issuer = issuer
        self.requests = 0

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        self.requests += 1
        if self.requests > 1:
            await reader.read()
        else:
            body = self.issuer.jwks()
            head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
            writer.write(head.encode() + body)
        writer.close()


async def flood(scale: Scale) -> Row:
    """Measure known tokens, idle and while tokens with unknown keys arrive and the JWKS endpoint hangs, in turn."""
    issuer = Issuer()
    endpoint = Endpoint(issuer)
    server = await asyncio.start_server(endpoint.handle, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    url = f"http://127.0.0.1:{port}/jwks"
    config = VerifierConfig(issuer=issuer.issuer, audience=issuer.audience, jwks_url=url)
    known = new_token(issuer)
    unknown = [new_token(issuer, kid=f"unknown-{number}") for number in range(500)]
    times: dict[bool, list[float]] = {False: [], True: []}
    async with Verifier(config, remember=0) as verifier:
        for flooded in [False, True] * (scale.flood_seconds // 2):
            await paced(verifier, known, unknown if flooded else [], times[flooded])
    server.close()
    quiet, under = (percentile(times[flooded], 0.99) for flooded in (False, True))
    return {"quiet_p99_us": round(quiet, 1), "flooded_p99_us": round(under, 1), "ratio": round(under / quiet, 3)}


async def paced(verifier: Verifier, known: str, unknown: list[str], times: list[float]) -> None:
    """For a second, verify a known token each millisecond, and ten unknown ones before it if there are any."""
    per_tick = FLOOD_PER_SECOND // 1000
    started_at = time.perf_counter()
    for tick in range(1000):
        for number in range(per_tick if unknown else 0):
            with suppress(errors.UnknownKey):
                verifier.verify(unknown[(tick * per_tick + number) % len(unknown)])
        times.append(microseconds(lambda: verifier.verify(known)))
        await asyncio.sleep(max(0.0, started_at + (tick + 1) / 1000 - time.perf_counter()))


async def unknown_keys(scale: Scale) -> Row:
    """Count the fetches that unknown keys cause: a million in a minute."""
    issuer = Issuer()
    endpoint = Endpoint(issuer)
    server = await asyncio.start_server(endpoint.handle, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/jwks"
    config = VerifierConfig(issuer=issuer.issuer, audience=issuer.audience, jwks_url=url)
    unknown = [new_token(issuer, kid=f"unknown-{number}") for number in range(500)]
    per_tick = math.ceil(UNKNOWN_PER_SECOND / 100)
    sent = 0
    async with Verifier(config) as verifier:
        before, started_at = endpoint.requests, time.perf_counter()
        for tick in range(scale.unknown_seconds * 100):
            for number in range(per_tick):
                with suppress(errors.UnknownKey):
                    verifier.verify(unknown[(tick + number) % len(unknown)])
                    raise AssertionError("an unknown key was accepted")
            sent += per_tick
            await asyncio.sleep(max(0.0, started_at + (tick + 1) / 100 - time.perf_counter()))
        seconds = time.perf_counter() - started_at
    server.close()
    return {"unknown_keys": sent, "seconds": round(seconds, 1), "fetches": endpoint.requests - before}


PARTS: dict[str, Callable[[Scale], Row]] = {
    "costs": costs,
    "memory": memory,
    "flood": lambda scale: asyncio.run(flood(scale)),
    "unknown_keys": lambda scale: asyncio.run(unknown_keys(scale)),
}

if __name__ == "__main__":
    measure("verify", PARTS, Scale(), QUICK, seconds=LIMIT_SECONDS, participants=versions(LIBRARIES, {}))
