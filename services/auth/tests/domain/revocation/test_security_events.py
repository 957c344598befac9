"""Ended sessions as security event tokens (RFC 8417), polled by receivers (RFC 8936)."""

import asyncio
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import httpx
import jwt
import pytest

from ostiary.feed import Kind
from ostiary_auth.domain.context import Context
from ostiary_auth.domain.oauth.model import Client
from ostiary_auth.domain.revocation.security_events import EVENTS_SCOPE, SESSION_REVOKED
from ostiary_auth.services import Services

RECEIVER = "mail-service"
ISSUER = "http://localhost:8080"
AT_ONCE = {"returnImmediately": True}


class Receiver:
    """A registered receiver, with a service to poll."""

    def __init__(self, services: Services, client: httpx.AsyncClient, headers: Mapping[str, str]) -> None:
        self.services = services
        self._client = client
        self._headers = headers

    async def poll(self, **members: object) -> dict[str, Any]:
        response = await self.respond(members)
        assert response.status_code == 200, response.text
        return dict(response.json())

    async def respond(self, body: object) -> httpx.Response:
        return await self._client.post("/events/poll", json=body, headers=self._headers)

    async def end_sessions(self, count: int = 1, kind: Kind = Kind.SESSION) -> list[str]:
        ended = [str(uuid4()) for _ in range(count)]
        for target in ended:
            async with self.services.store.write() as transaction:
                await self.services.revocations.revoke(transaction, Context(datetime.now(UTC)), kind, target)
        return ended

    async def read(self, sets: Mapping[str, str]) -> list[dict[str, Any]]:
        """Verify events as a receiver does, with the published keys, and return their claims."""
        jwks = jwt.PyJWKSet.from_dict((await self._client.get("/.well-known/jwks.json")).json())
        claims = []
        for event_id, token in sets.items():
            header = jwt.get_unverified_header(token)
            assert header["typ"] == "secevent+jwt"
            options: Any = {"require": ["iss", "iat", "jti", "aud", "events"]}
            key = jwks[header["kid"]]
            read = jwt.decode(token, key, algorithms=["RS256"], audience=RECEIVER, issuer=ISSUER, options=options)
            assert read["jti"] == event_id
            claims.append(read)
        return claims


async def register(services: Services, client: httpx.AsyncClient, scope: str = EVENTS_SCOPE) -> Receiver:
    registered = Client(RECEIVER, RECEIVER, ("client_credentials",), (scope,), ("ostiary",))
    _, secret = await services.clients.create(registered, Context(datetime.now(UTC)))
    form = {"grant_type": "client_credentials", "client_id": RECEIVER, "client_secret": str(secret)}
    token = (await client.post("/oauth/token", data=form)).json()["access_token"]
    return Receiver(services, client, {"Authorization": f"Bearer {token}"})


@pytest.fixture
async def receiver(services: Services, client: httpx.AsyncClient) -> Receiver:
    return await register(services, client)


async def test_an_ended_session_is_told_as_caep_has_it(receiver: Receiver) -> None:
    before = int(time.time())
    (session,) = await receiver.end_sessions()
    answer = await receiver.poll(**AT_ONCE)
    (event,) = await receiver.read(answer["sets"])
    assert event["sub_id"] == {"format": "opaque", "id": session}
    assert list(event["events"]) == [SESSION_REVOKED]
    assert before <= event["events"][SESSION_REVOKED]["event_timestamp"] <= time.time()
    assert "sub" not in event
    assert "exp" not in event
    assert answer["moreAvailable"] is False


async def test_what_is_not_acknowledged_is_told_again(receiver: Receiver) -> None:
    await receiver.end_sessions(2)
    first, again = await receiver.poll(**AT_ONCE), await receiver.poll(**AT_ONCE)
    assert list(first["sets"]) == list(again["sets"])
    assert len(first["sets"]) == 2
    after = await receiver.poll(ack=list(first["sets"]), **AT_ONCE)
    assert after == {"sets": {}, "moreAvailable": False}


async def test_events_come_in_parts_in_their_order(receiver: Receiver) -> None:
    sessions = await receiver.end_sessions(5)
    told: list[str] = []
    answer = await receiver.poll(maxEvents=2, **AT_ONCE)
    while answer["sets"]:
        told += [event["sub_id"]["id"] for event in await receiver.read(answer["sets"])]
        assert answer["moreAvailable"] is (len(told) < 5)
        answer = await receiver.poll(maxEvents=2, ack=list(answer["sets"]), **AT_ONCE)
    assert told == sessions


async def test_an_event_without_acknowledgement_holds_up_those_after_it(receiver: Receiver) -> None:
    await receiver.end_sessions(3)
    one, two, three = (await receiver.poll(**AT_ONCE))["sets"]
    assert list((await receiver.poll(ack=[one, three], **AT_ONCE))["sets"]) == [two, three]
    assert list((await receiver.poll(ack=[two, three], **AT_ONCE))["sets"]) == []


async def test_an_event_that_the_receiver_cannot_read_is_not_told_again(receiver: Receiver) -> None:
    await receiver.end_sessions()
    (event_id,) = (await receiver.poll(**AT_ONCE))["sets"]
    errors = {event_id: {"err": "invalid_key", "description": "unknown"}}
    assert (await receiver.poll(setErrs=errors, **AT_ONCE))["sets"] == {}


async def test_acknowledging_alone_brings_nothing(receiver: Receiver) -> None:
    await receiver.end_sessions()
    (event_id,) = (await receiver.poll(**AT_ONCE))["sets"]
    assert await receiver.poll(maxEvents=0, ack=[event_id]) == {"sets": {}, "moreAvailable": False}
    assert (await receiver.poll(**AT_ONCE))["sets"] == {}


async def test_a_poll_waits_for_the_next_event(receiver: Receiver) -> None:
    waiting = asyncio.create_task(receiver.poll())
    done, _ = await asyncio.wait({waiting}, timeout=0.2)
    assert not done
    (session,) = await receiver.end_sessions()
    (event,) = await receiver.read((await asyncio.wait_for(waiting, 10))["sets"])
    assert event["sub_id"]["id"] == session


async def test_only_ended_sessions_are_told(receiver: Receiver) -> None:
    await receiver.end_sessions(kind=Kind.TOKEN)
    await receiver.end_sessions(kind=Kind.SUBJECT)
    assert (await receiver.poll(**AT_ONCE))["sets"] == {}


@pytest.mark.parametrize("event_id", ["", "1", "other.1", "x" * 128, ".", "9.", "1.-1"])
async def test_an_unknown_id_acknowledges_nothing(receiver: Receiver, event_id: str) -> None:
    await receiver.end_sessions()
    assert len((await receiver.poll(ack=[event_id], **AT_ONCE))["sets"]) == 1


@pytest.mark.parametrize("body", [[], {"maxEvents": -1}, {"maxEvents": "5"}, {"ack": "a"}, {"setErrs": {"a": 1}}])
async def test_what_is_no_poll_is_refused(receiver: Receiver, body: object) -> None:
    assert (await receiver.respond(body)).status_code == 422


async def test_only_receivers_are_told(services: Services, client: httpx.AsyncClient) -> None:
    assert (await client.post("/events/poll", json=AT_ONCE)).status_code == 401
    other = await register(services, client, "introspect")
    refused = await other.respond(AT_ONCE)
    assert (refused.status_code, refused.json()["code"]) == (403, "insufficient_scope")
