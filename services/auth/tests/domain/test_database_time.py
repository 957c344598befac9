"""Replicas whose machines' clocks are wrong agree on the time of their database."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import datetime, timedelta
from uuid import uuid4

import jwt
import pytest
from clocks import WrongClock
from cryptography.hazmat.primitives.asymmetric import ec
from oauth_harness import ISSUER, ec_jwk, settings_of
from serving import opened
from sqlalchemy import insert, select
from users import log_in

from ostiary_auth.app import _local_verifier
from ostiary_auth.background import Background
from ostiary_auth.config import MAX_ACCESS_TOKEN_TTL, AuthConfig
from ostiary_auth.domain.accounts import attempts, throttle
from ostiary_auth.domain.clock import STORED_EVERY
from ostiary_auth.domain.context import ANONYMOUS, Context
from ostiary_auth.domain.errors import InvalidClient, TooManyAttempts
from ostiary_auth.domain.oauth.model import FIRST_PARTY, FIRST_PARTY_CLIENT_ID, Credentials
from ostiary_auth.services import Services, ServiceSecrets
from ostiary_auth.storage.audit.tables import audit_log
from ostiary_auth.storage.database_time import database_time
from ostiary_auth.storage.oauth.tables import used_assertions
from ostiary_auth.storage.revocation.tables import revocations
from ostiary_chassis.metrics import Metrics

SECOND = timedelta(seconds=1)
DAY = timedelta(days=1)

#: By how much the clock of the second machine is wrong.
WRONG = [wrong * SECOND for wrong in (2, -2, 12, -12, 55, -55)] + [DAY, -DAY]

#: How exactly replicas have to agree, on a machine with much else to do.
ALMOST = 2 * SECOND


class Replica:
    """The parts of a replica, and the clock of its machine."""

    def __init__(self, services: Services, machine: WrongClock) -> None:
        self.services = services
        self.machine = machine

    @property
    def now(self) -> datetime:
        return self.services.clock.now()

    def context(self, actor: str = ANONYMOUS) -> Context:
        return Context(self.now, actor)


Start = Callable[[timedelta], Awaitable[Replica]]


@pytest.fixture
async def start(config: AuthConfig, own: ServiceSecrets) -> AsyncIterator[Start]:
    """Start replicas on machines whose clocks are wrong."""
    async with AsyncExitStack() as running:

        async def started(wrong: timedelta) -> Replica:
            machine = WrongClock(wrong)
            replica = Replica(await running.enter_async_context(opened(config, own, machine)), machine)
            await replica.services.follow_time()
            return replica

        yield started


@pytest.fixture
async def right(start: Start) -> Replica:
    return await start(timedelta(0))


@pytest.fixture(params=WRONG, ids=str)
async def wrong(start: Start, request: pytest.FixtureRequest) -> Replica:
    return await start(request.param)


async def entries(replica: Replica) -> list[tuple[str, timedelta]]:
    """Return the kinds of the revocations, and how long they are kept."""
    async with replica.services.database.read() as connection:
        rows = await connection.execute(select(revocations.c.kind, revocations.c.expires_at))
        return [(row.kind, row.expires_at - replica.now) for row in rows]


async def set_back(replica: Replica, step: timedelta) -> None:
    """Have the database have shown a time that is later than what it shows: as if its clock was put back."""
    async with replica.services.store.write() as transaction:
        await transaction.time.put_back((await transaction.time.read()).now + step)


class TestReplicas:
    """One on a machine whose clock is right, and one on another; the database is on the first."""

    async def test_they_agree_on_the_time_whatever_their_machines_show(self, right: Replica, wrong: Replica) -> None:
        assert abs(right.now - wrong.now) < ALMOST

    async def test_setting_a_machines_clock_changes_nothing(self, right: Replica) -> None:
        right.machine.fast = DAY
        before = right.now
        await right.services.follow_time()
        assert abs(right.now - before) < ALMOST

    async def test_a_refresh_that_is_retried_at_the_other_is_no_theft(self, right: Replica, wrong: Replica) -> None:
        grant, _ = await log_in(right.services)
        for one, other in ((right, wrong), (wrong, right)):
            first = await one.services.sessions.refresh(grant.refresh_token, FIRST_PARTY_CLIENT_ID, one.context())
            again = await other.services.sessions.refresh(grant.refresh_token, FIRST_PARTY_CLIENT_ID, other.context())
            assert again.refresh_token == first.refresh_token
            grant = first

    async def test_a_token_of_one_is_revoked_at_the_other(self, right: Replica, wrong: Replica) -> None:
        grant, _ = await log_in(right.services)
        for one, other in ((right, wrong), (wrong, right)):
            token = (await one.services.tokens.for_session(grant, one.now)).token
            assert await other.services.oauth.revoke(FIRST_PARTY, token, other.context())

    async def test_a_token_of_one_is_good_at_the_other(
        self, right: Replica, wrong: Replica, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        grant, _ = await log_in(right.services)
        for one, other in ((right, wrong), (wrong, right)):
            verifier = _local_verifier(other.services, Metrics())
            token = (await one.services.tokens.for_session(grant, one.now)).token
            monkeypatch.setattr("time.time", other.machine.now().timestamp)
            assert verifier.verify(token, max_staleness=None).session_id == str(grant.session.id)

    async def test_an_assertion_counts_once_though_one_of_them_prunes(
        self, right: Replica, wrong: Replica, ec_key: ec.EllipticCurvePrivateKey
    ) -> None:
        client, _ = await right.services.clients.create(
            settings_of("signer", jwks={"keys": [ec_jwk(ec_key)]}), right.context()
        )
        now = int(right.now.timestamp())
        claims = {"iss": client.id, "sub": client.id, "aud": ISSUER, "exp": now + 60, "iat": now, "jti": str(uuid4())}
        credentials = Credentials(assertion=jwt.encode(claims, ec_key, "ES256"))
        await right.services.clients.authenticate(credentials, right.context())
        await Background(wrong.services).prune()
        for replica in (wrong, right):
            with pytest.raises(InvalidClient):
                await replica.services.clients.authenticate(credentials, replica.context())

    async def test_one_that_is_blocked_waits_as_long_at_the_other(self, right: Replica, wrong: Replica) -> None:
        keys = attempts.reauthentication_keys(uuid4())
        for _ in range(attempts.REAUTHENTICATION.free + 6):
            async with right.services.store.write() as transaction:
                # As if each had waited for its turn.
                counters = await transaction.throttles.lock(sorted(keys), right.now)
                await transaction.throttles.put(
                    {key: each.counted(keys[key], right.now) for key, each in counters.items()}
                )
        with pytest.raises(TooManyAttempts) as refused:
            async with wrong.services.store.write() as transaction:
                await throttle.count_attempt(transaction, keys, wrong.now)
        assert abs(refused.value.retry_after - 32) <= ALMOST.total_seconds()

    async def test_a_logout_at_one_outlives_the_tokens_of_the_other(self, right: Replica, wrong: Replica) -> None:
        grant, _ = await log_in(right.services)
        await wrong.services.sessions.end(grant.user.id, grant.session.id, "local", wrong.context())
        ((kind, kept),) = await entries(right)
        assert (kind, kept > timedelta(seconds=MAX_ACCESS_TOKEN_TTL)) == ("session", True)
        await Background(wrong.services).prune()
        assert len(await entries(right)) == 1


class TestClockOfTheDatabase:
    """What follows when it is set."""

    async def test_the_latest_time_that_it_has_shown_is_stored_and_never_goes_back_by_itself(
        self, right: Replica
    ) -> None:
        async def stored() -> datetime:
            async with right.services.database.read() as connection:
                latest: datetime = (await connection.execute(select(database_time.c.latest))).scalar_one()
                return latest

        before = await stored()
        assert right.now - before < STORED_EVERY + ALMOST
        async with right.services.store.write() as transaction:
            await transaction.time.advance(before - DAY)
        assert await stored() == before

    async def test_a_little_back_is_borne(self, right: Replica) -> None:
        await set_back(right, 25 * SECOND)
        await right.services.follow_time()
        assert await entries(right) == []

    @pytest.mark.parametrize("step", [55 * SECOND, DAY])
    async def test_put_back_by_more_it_revokes_every_token_for_as_long_as_one_can_live(
        self, right: Replica, start: Start, step: timedelta
    ) -> None:
        other = await start(timedelta(0))
        await set_back(right, step)
        for replica in (right, other, right):
            await replica.services.follow_time()
        # Once, whichever replica comes first.
        ((kind, kept),) = await entries(right)
        assert (kind, kept > step + timedelta(seconds=MAX_ACCESS_TOKEN_TTL)) == ("all", True)
        async with right.services.database.read() as connection:
            events = list((await connection.execute(select(audit_log.c.event))).scalars())
        assert events.count("database_clock.put_back") == 1

    async def test_a_replica_that_went_on_by_itself_revokes_what_it_has_issued_meanwhile(
        self, right: Replica, start: Start
    ) -> None:
        other = await start(timedelta(0))
        # It has seen the clock an hour ahead, and has not read it since.
        other.services.clock.follow(right.now + 3600 * SECOND, 0.0, 0.0)
        asked_at = other.services.clock.monotonic()
        other.services.clock.follow(right.now + 3600 * SECOND, asked_at, asked_at)
        await other.services.follow_time()
        assert [kind for kind, _ in await entries(right)] == ["all"]
        assert abs(right.now - other.now) < ALMOST

    async def test_a_machine_that_is_ahead_when_a_replica_starts_revokes_nothing(
        self, right: Replica, start: Start
    ) -> None:
        await start(DAY)
        assert await entries(right) == []

    async def test_nobody_is_logged_out_when_it_is_set_back(self, right: Replica) -> None:
        grant, _ = await log_in(right.services)
        await set_back(right, DAY)
        await right.services.follow_time()
        again = await right.services.sessions.refresh(grant.refresh_token, FIRST_PARTY_CLIENT_ID, right.context())
        assert again.session.id == grant.session.id

    async def test_a_client_that_was_disabled_is_not_remembered_from_before(self, right: Replica, start: Start) -> None:
        client, secret = await right.services.clients.create(settings_of("worker"), right.context())
        credentials = Credentials(client_id=client.id, secret=secret)
        await right.services.clients.authenticate(credentials, right.context())
        await (await start(timedelta(0))).services.clients.disable(client.id, right.context())
        with pytest.raises(InvalidClient):
            await right.services.clients.authenticate(credentials, Context(right.now - DAY))

    async def test_what_cannot_be_stored_is_not_followed(self, right: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
        """A time that no replica has stored might be put back without that anybody notices."""
        before = right.now

        class FullDisk(Exception):
            pass

        def queue() -> None:
            raise FullDisk

        async with right.services.store.write() as transaction:
            await transaction.time.put_back(before + DAY)
        monkeypatch.setattr(right.services.store, "queue", queue)
        with pytest.raises(FullDisk):
            await right.services.follow_time()
        assert abs(right.now - before) < ALMOST


async def test_a_process_that_has_just_started_deletes_nothing_that_a_wrong_clock_may_have_made_expire(
    right: Replica,
) -> None:
    rows = [
        {"hash": bytes([number]), "expires_at": right.now - over}
        for number, over in enumerate((SECOND, DAY - 60 * SECOND, DAY + 60 * SECOND))
    ]
    async with right.services.database.write() as connection:
        await connection.execute(insert(used_assertions), rows)
    await Background(right.services).prune()
    async with right.services.database.read() as connection:
        kept = (await connection.execute(select(used_assertions.c.hash))).scalars()
        assert sorted(kept) == [bytes([0]), bytes([1])]
