"""The audit log shows what was done to it, and what is personal can be erased."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from faults import failing
from sqlalchemy import delete, insert, select, text, update
from sqlalchemy.exc import OperationalError
from users import new_user

from ostiary_auth.domain.accounts.model import User
from ostiary_auth.domain.audit import log
from ostiary_auth.domain.audit.log import AuditLog
from ostiary_auth.domain.audit.model import AuditEntry, AuditReport, Event, Facts
from ostiary_auth.domain.context import OPERATOR, SYSTEM, Context, client_actor, user_actor
from ostiary_auth.domain.errors import InvalidCredentials, InvalidRefreshToken, WrongPassword
from ostiary_auth.domain.oauth.model import FIRST_PARTY, FIRST_PARTY_CLIENT_ID, Client
from ostiary_auth.services import Services
from ostiary_auth.storage.audit.tables import audit_log
from ostiary_auth.storage.metadata import metadata
from ostiary_auth.storage.store import AuthStore, AuthTransaction

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SECOND = timedelta(seconds=1)
TOKEN_LIFETIME = timedelta(minutes=15)
EMAIL = "ada.lovelace@example.com"
PASSWORD = "correct horse battery staple"
ADDRESS = "203.0.113.9"
USER_AGENT = "Mozilla/5.0 (X11; Linux x86_64) AdasBrowser/1.0"

Store = AuthStore


class Chain:
    """An audit log of six entries, and what somebody does to it who can write to the database."""

    LENGTH = 6
    #: An entry in the middle that has all there is.
    FULL = 3

    def __init__(self, store: Store) -> None:
        self.store = store
        self.log = AuditLog(bytes(32))

    async def write(self) -> None:
        async with self.store.write() as transaction:
            for number in range(1, self.LENGTH + 1):
                context = Context(NOW + number * SECOND, f"user:{number}", ADDRESS, USER_AGENT)
                facts: Facts = {"session_id": str(number), "roles": ["user"], "count": number}
                await self.log.record(transaction, context, Event.SESSION_ENDED, subject="user:9", facts=facts)

    async def run(self, *statements: Any) -> None:
        async with self.store.database.write() as connection:
            for statement in statements:
                await connection.execute(statement)

    async def entry(self, number: int) -> dict[str, Any]:
        async with self.store.database.read() as connection:
            row = await connection.execute(select(audit_log).where(audit_log.c.number == number))
            return dict(row.one()._mapping)

    async def verify(self) -> AuditReport:
        return await self.log.verify(self.store)


def change(number: int, /, **values: object) -> Any:
    return update(audit_log).where(audit_log.c.number == number).values(**values)


@pytest.fixture
async def chain(store: Store) -> Chain:
    chain = Chain(store)
    await chain.run(delete(audit_log))
    await chain.write()
    return chain


#: For each column what is written over an entry's own.
FORGERIES: Mapping[str, list[Callable[[Any], object]]] = {
    "number": [lambda _: 99, lambda _: 0, lambda _: -1],
    "at": [lambda at: at + timedelta(microseconds=1), lambda at: at - timedelta(days=1)],
    "event": [lambda _: "session.opened", lambda _: ""],
    "actor": [lambda _: "user:8", lambda actor: actor + " "],
    "subject": [lambda _: "user:8", lambda _: "", lambda _: None],
    "facts": [
        lambda facts: {**facts, "count": 4},
        lambda facts: {**facts, "count": "3"},
        lambda facts: {**facts, "more": 1},
        lambda _: {},
    ],
    "personal": [
        lambda personal: {**personal, "source": "203.0.113.10"},
        lambda personal: {**personal, "salt": "00"},
        lambda _: {},
    ],
    "personal_digest": [lambda _: None, lambda _: bytes(32)],
    "mac": [lambda _: bytes(32), lambda mac: mac[:-1], lambda _: b""],
}


class TestTampering:
    async def test_a_log_that_nobody_touched_is_intact(self, chain: Chain) -> None:
        last = await chain.entry(Chain.LENGTH)
        assert await chain.verify() == AuditReport(Chain.LENGTH, None, last["mac"])

    async def test_the_log_of_a_prepared_service_is_intact(self, services: Services) -> None:
        report = await services.audit.verify(services.store)
        # Two keys, and the clients of the stack's own verifiers and gateways.
        assert (report.entries, report.broken_at) == (4, None)

    def test_every_column_is_tried(self) -> None:
        assert FORGERIES.keys() == set(audit_log.c.keys())

    @pytest.mark.parametrize("column", audit_log.c.keys())
    async def test_a_changed_entry_is_found(self, chain: Chain, column: str) -> None:
        for forge in FORGERIES[column]:
            before = await chain.entry(Chain.FULL)
            forged = {**before, column: forge(before[column])}
            assert forged != before
            await chain.run(change(Chain.FULL, **forged))
            assert (await chain.verify()).broken_at is not None
            await chain.run(change(forged["number"], **before))
            assert (await chain.verify()).broken_at is None

    async def test_the_report_says_where(self, chain: Chain) -> None:
        before = await chain.entry(Chain.FULL - 1)
        await chain.run(change(Chain.FULL, actor="user:8"))
        assert await chain.verify() == AuditReport(Chain.FULL - 1, Chain.FULL, before["mac"])

    @pytest.mark.parametrize("number", [1, Chain.FULL, Chain.LENGTH - 1])
    async def test_a_dropped_entry_is_found(self, chain: Chain, number: int) -> None:
        await chain.run(delete(audit_log).where(audit_log.c.number == number))
        assert (await chain.verify()).broken_at == number + 1

    @pytest.mark.parametrize("number", [1, Chain.FULL, Chain.LENGTH - 1])
    async def test_a_dropped_entry_is_found_though_the_gap_was_closed(self, chain: Chain, number: int) -> None:
        await chain.run(delete(audit_log).where(audit_log.c.number == number))
        await chain.run(*(change(each, number=each - 1) for each in range(number + 1, Chain.LENGTH + 1)))
        assert (await chain.verify()).broken_at == number

    async def test_swapped_entries_are_found(self, chain: Chain) -> None:
        await chain.run(change(3, number=99), change(4, number=3), change(99, number=4))
        assert (await chain.verify()).broken_at == 3

    async def test_entries_that_swapped_all_but_their_numbers_are_found(self, chain: Chain) -> None:
        third, fourth = await chain.entry(3), await chain.entry(4)
        await chain.run(change(3, **{**fourth, "number": 3}), change(4, **{**third, "number": 4}))
        assert (await chain.verify()).broken_at == 3

    async def test_an_inserted_entry_is_found(self, chain: Chain) -> None:
        forged = {**await chain.entry(3), "actor": "user:8"}
        await chain.run(*(change(each, number=each + 1) for each in range(Chain.LENGTH, 2, -1)))
        await chain.run(insert(audit_log).values(**forged))
        assert (await chain.verify()).broken_at == 3

    @pytest.mark.parametrize("number", [Chain.LENGTH + 1, 99])
    async def test_an_appended_entry_is_found(self, chain: Chain, number: int) -> None:
        await chain.run(insert(audit_log).values(**{**await chain.entry(Chain.LENGTH), "number": number}))
        assert (await chain.verify()).broken_at == number

    async def test_a_chain_under_another_key_is_found(self, chain: Chain) -> None:
        other = AuditLog(bytes([1]) * 32)
        assert (await other.verify(chain.store)).broken_at == 1
        await chain.run(delete(audit_log).where(audit_log.c.number == Chain.LENGTH))
        async with chain.store.write() as transaction:
            await other.record(transaction, Context(NOW), Event.SESSION_ENDED)
        assert (await chain.verify()).broken_at == Chain.LENGTH

    async def test_what_was_cut_off_at_the_end_shows_in_the_head_alone(self, chain: Chain) -> None:
        whole = await chain.verify()
        await chain.run(delete(audit_log).where(audit_log.c.number > Chain.FULL))
        cut = await chain.verify()
        assert cut.broken_at is None
        assert (cut.entries, cut.head) != (whole.entries, whole.head)
        await chain.write()
        grown = await chain.verify()
        assert grown.broken_at is None
        assert (await chain.entry(whole.entries))["mac"] != whole.head

    async def test_what_is_personal_can_be_erased_and_nothing_else(self, chain: Chain) -> None:
        head = (await chain.verify()).head
        async with chain.store.write() as transaction:
            await transaction.audit.erase_personal(await transaction.audit.with_personal("user:3", 10))
        assert (await chain.entry(3))["personal"] is None
        assert (await chain.entry(4))["personal"] is not None
        assert await chain.verify() == AuditReport(Chain.LENGTH, None, head)

    async def test_what_was_erased_cannot_be_made_up(self, chain: Chain) -> None:
        personal = (await chain.entry(3))["personal"]
        async with chain.store.write() as transaction:
            await transaction.audit.erase_personal(await transaction.audit.with_personal("user:3", 10))
        await chain.run(change(3, personal={**personal, "source": "203.0.113.10"}))
        assert (await chain.verify()).broken_at == 3

    async def test_a_digest_does_not_tell_whose_address_it_was(self, chain: Chain) -> None:
        third, fourth = await chain.entry(3), await chain.entry(4)
        assert third["personal"]["source"] == fourth["personal"]["source"]
        assert third["personal_digest"] != fourth["personal_digest"]


class TestAppending:
    async def test_appends_at_once_make_one_chain(self, chain: Chain) -> None:
        async def append(number: int) -> None:
            async with chain.store.write() as transaction:
                await chain.log.record(transaction, Context(NOW, f"user:{number}"), Event.LOGIN_SUCCEEDED)

        await asyncio.gather(*(append(number) for number in range(30)))
        async with chain.store.read() as transaction:
            entries = await transaction.audit.entries(after=0, limit=100)
        assert [entry.number for entry in entries] == list(range(1, Chain.LENGTH + 31))
        assert len({entry.actor for entry in entries[Chain.LENGTH :]}) == 30
        assert (await chain.verify()).broken_at is None

    async def test_what_was_rolled_back_leaves_no_gap(self, chain: Chain) -> None:
        async def fail() -> None:
            async with chain.store.write() as transaction:
                await chain.log.record(transaction, Context(NOW), Event.LOGIN_SUCCEEDED)
                raise RuntimeError

        with pytest.raises(RuntimeError):
            await fail()
        await chain.write()
        assert (await chain.verify()).entries == 2 * Chain.LENGTH

    async def test_an_entry_is_read_as_it_was_written(self, chain: Chain) -> None:
        async with chain.store.read() as transaction:
            (entry,) = await transaction.audit.entries(after=Chain.FULL - 1, limit=1)
        assert entry.at == NOW + Chain.FULL * SECOND
        assert entry.facts == {"session_id": "3", "roles": ["user"], "count": 3}
        assert entry.personal is not None
        assert (entry.personal["source"], entry.personal["user_agent"]) == (ADDRESS, USER_AGENT)

    async def test_without_circumstances_nothing_personal_is_kept(self, chain: Chain) -> None:
        async with chain.store.write() as transaction:
            await chain.log.record(transaction, Context(NOW), Event.KEY_MADE)
        entry = await chain.entry(Chain.LENGTH + 1)
        assert (entry["personal"], entry["personal_digest"]) == (None, None)
        assert (await chain.verify()).broken_at is None

    async def test_characters_of_all_scripts_are_chained(self, chain: Chain) -> None:
        async with chain.store.write() as transaction:
            context = Context(NOW, source=ADDRESS, user_agent="caf\u00e9 \U0001f600 \x9b \u202e")
            await chain.log.record(transaction, context, Event.LOGIN_FAILED, facts={"kid": "\u00e9\u2028"})
        assert (await chain.verify()).broken_at is None


class Life:
    """All that a user can do and that can be done to them, from one address with one program."""

    def __init__(self, services: Services) -> None:
        self.services = services
        self.secrets: list[str] = [PASSWORD, EMAIL]

    async def live(self) -> User:
        accounts = self.services.accounts
        user = await accounts.register(EMAIL, PASSWORD, "Augusta Ada", self.context())
        themselves = self.context(user_actor(user.id))
        with pytest.raises(InvalidCredentials):
            await accounts.log_in(EMAIL, "a wrong password", None, FIRST_PARTY_CLIENT_ID, self.context())
        login = await accounts.log_in(EMAIL, PASSWORD, None, FIRST_PARTY_CLIENT_ID, self.context())
        stolen = login.grant.refresh_token
        with pytest.raises(WrongPassword):
            await accounts.change_password(user.id, login.grant.session.id, "wrong", "a whole new staple", themselves)
        following = await self.services.sessions.refresh(stolen, FIRST_PARTY_CLIENT_ID, self.context())
        late = Context(NOW + timedelta(hours=1), source=ADDRESS, user_agent=USER_AGENT)
        with pytest.raises(InvalidRefreshToken):
            await self.services.sessions.refresh(stolen, FIRST_PARTY_CLIENT_ID, late)
        async with self.services.store.write() as transaction:
            await self.services.sessions.open(transaction, user, FIRST_PARTY_CLIENT_ID, themselves)
        await accounts.set_roles(user.id, ("admin", "user"), Context(NOW, OPERATOR))
        await accounts.disable(user.id, Context(NOW, OPERATOR))
        await accounts.enable(user.id, Context(NOW, OPERATOR))
        client = Client("reports", "Reports", ("client_credentials",), ("orders:read",), ("ostiary",))
        _, secret = await self.services.clients.create(client, themselves)
        rotated = await self.services.clients.rotate_secret("reports", themselves)
        assert secret is not None
        self.secrets += [stolen, following.refresh_token, secret, rotated, user.password_hash]
        self.secrets += [login.device_token or "", "Augusta Ada"]
        return user

    def context(self, actor: str = "anonymous") -> Context:
        return Context(NOW, actor, ADDRESS, USER_AGENT)


async def all_rows(store: Store) -> dict[str, list[str]]:
    async with store.database.read() as connection:
        tables = metadata.sorted_tables
        return {table.name: [repr(tuple(row)) for row in await connection.execute(select(table))] for table in tables}


async def entries(store: Store) -> list[AuditEntry]:
    async with store.read() as transaction:
        return await transaction.audit.entries(after=0, limit=1000)


class TestPersonalData:
    async def test_from_a_whole_life_no_secret_is_recorded_and_after_it_nothing_personal_is_left(
        self, services: Services
    ) -> None:
        life = Life(services)
        user = await life.live()
        before = await all_rows(services.store)
        recorded = await entries(services.store)
        # What can be erased is elsewhere: `facts` stay for ever.
        kept = json.dumps([[entry.event, entry.actor, entry.subject, dict(entry.facts)] for entry in recorded])
        personal = json.dumps([dict(entry.personal or {}) for entry in recorded])
        for secret in life.secrets:
            assert secret
            assert secret not in kept
            assert secret not in personal
        for value in (ADDRESS, USER_AGENT):
            assert value not in kept
            assert any(value in row for row in before["audit_log"])
            assert any(value in row for row in before["sessions"])

        await services.accounts.delete(user.id, Context(NOW, OPERATOR))

        assert (await services.audit.verify(services.store)).broken_at is None
        for table, rows in (await all_rows(services.store)).items():
            for value in (EMAIL, "lovelace", ADDRESS, USER_AGENT, "AdasBrowser", "Augusta Ada"):
                assert not [row for row in rows if value in row], f"{value} is left in {table}"

    async def test_of_a_token_that_its_owner_revoked_no_address_is_left(self, services: Services) -> None:
        # The service looks at the clock itself when it reads an access token.
        now = datetime.now(UTC)
        user = new_user(EMAIL, at=now)
        async with services.store.write() as transaction:
            await transaction.users.add(user)
            grant = await services.sessions.open(transaction, user, FIRST_PARTY_CLIENT_ID, Context(now))
        token = (await services.tokens.for_session(grant, now)).token
        as_client = Context(now, client_actor(FIRST_PARTY_CLIENT_ID), ADDRESS, USER_AGENT)
        await services.oauth.revoke(FIRST_PARTY, token, as_client)
        assert (await entries(services.store))[-1].event == Event.TOKEN_REVOKED
        await services.accounts.delete(user.id, Context(now, OPERATOR))
        for table, rows in (await all_rows(services.store)).items():
            for value in (EMAIL, ADDRESS, USER_AGENT):
                assert not [row for row in rows if value in row], f"{value} is left in {table}"

    async def test_what_happened_stays_without_a_name(self, services: Services) -> None:
        user = User(user_id := uuid4(), EMAIL, EMAIL, None, "-", ("user",), None, NOW)
        async with services.store.write() as transaction:
            await transaction.users.add(user)
            context = Context(NOW, user_actor(user_id), ADDRESS, USER_AGENT)
            await services.sessions.open(transaction, user, FIRST_PARTY_CLIENT_ID, context)
        await services.accounts.delete(user_id, Context(NOW, user_actor(user_id), ADDRESS, USER_AGENT))
        about = [entry for entry in await entries(services.store) if entry.subject == user_actor(user_id)]
        assert [entry.event for entry in about] == [Event.SESSION_ENDED, Event.USER_DELETED]
        assert [entry.personal for entry in about] == [None, None]
        async with services.store.read() as transaction:
            assert await transaction.sessions.all_of(user_id) == []

    async def test_the_personal_data_of_others_stay(self, services: Services) -> None:
        first, second = (new_user(name, at=NOW) for name in ("ada", "eve"))
        async with services.store.write() as transaction:
            for user in (first, second):
                await transaction.users.add(user)
        for user in (first, second):
            await services.accounts.disable(user.id, Context(NOW, user_actor(user.id), ADDRESS))
        await services.accounts.delete(first.id, Context(NOW, OPERATOR))
        kept = {entry.subject for entry in await entries(services.store) if entry.personal}
        assert kept == {user_actor(second.id)}

    async def test_an_export_has_all_about_a_user_and_no_secrets(self, services: Services) -> None:
        user = new_user(EMAIL, at=NOW, name="Augusta Ada", password_hash="the-hash")
        async with services.store.write() as transaction:
            await transaction.users.add(user)
            context = Context(NOW, user_actor(user.id), ADDRESS, USER_AGENT)
            grant = await services.sessions.open(transaction, user, FIRST_PARTY_CLIENT_ID, context)
        await services.sessions.end(user.id, grant.session.id, "local", context)
        export = await services.accounts.export(user.id, Context(NOW, OPERATOR))
        assert export.user == user
        assert [(session.source, session.user_agent) for session in export.sessions] == [(ADDRESS, USER_AGENT)]
        assert [entry.event for entry in export.audit] == [Event.SESSION_ENDED]
        assert "the-hash" not in repr(export)
        assert (await entries(services.store))[-1].event == Event.USER_EXPORTED


class TestCheckpoints:
    """A verification goes on where the last one ended, which only the service itself can record."""

    @pytest.fixture(autouse=True)
    def each_is_recorded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(log, "RECORDED_EVERY", 1)

    async def verify(self, chain: Chain, limit: int | None = None) -> AuditReport:
        report = await chain.log.verify(chain.store, limit=limit)
        await chain.log.record_verified(chain.store, report, Context(NOW, OPERATOR))
        return report

    async def test_the_next_one_goes_on_where_it_ended(self, chain: Chain) -> None:
        assert (await self.verify(chain)).start == 0
        report = await self.verify(chain)
        assert (report.start, report.entries, report.broken_at) == (Chain.LENGTH, Chain.LENGTH + 1, None)

    async def test_steps_lead_to_the_end(self, chain: Chain) -> None:
        reports = [await self.verify(chain, limit=4) for _ in range(3)]
        assert [(each.start, each.entries, each.is_complete) for each in reports] == [
            (0, 4, False),
            (4, 8 - 1, True),
            (7, 8, True),
        ]

    async def test_what_was_changed_later_is_found_from_the_start(self, chain: Chain) -> None:
        await self.verify(chain)
        await chain.run(change(Chain.FULL, actor="nobody"))
        assert (await chain.log.verify(chain.store)).broken_at is None
        assert (await chain.log.verify(chain.store, from_start=True)).broken_at == Chain.FULL

    async def test_a_broken_log_is_not_recorded_as_verified(self, chain: Chain) -> None:
        await chain.run(change(Chain.FULL, actor="nobody"))
        for _ in range(2):
            assert (await self.verify(chain)).broken_at == Chain.FULL

    async def test_nobody_else_records_one(self, chain: Chain) -> None:
        last = await chain.entry(Chain.LENGTH)
        facts = {"through": Chain.LENGTH - 1, "mac": (await chain.entry(Chain.LENGTH - 1))["mac"].hex()}
        await chain.run(
            change(Chain.FULL, actor="nobody"),
            insert(audit_log).values(
                {**last, "number": Chain.LENGTH + 1, "event": "audit_log.verified", "facts": facts}
            ),
        )
        assert (await chain.verify()).broken_at == Chain.LENGTH + 1
        await chain.run(delete(audit_log).where(audit_log.c.number > Chain.LENGTH))
        await chain.run(change(Chain.LENGTH, event="audit_log.verified", facts=facts))
        assert (await chain.verify()).broken_at == Chain.LENGTH

    async def test_a_recorded_one_cannot_be_moved_on(self, chain: Chain) -> None:
        await self.verify(chain)
        await chain.write()
        await chain.run(change(Chain.LENGTH + 2, actor="nobody"))
        recorded = await chain.entry(Chain.LENGTH + 1)
        await chain.run(change(Chain.LENGTH + 1, facts={**recorded["facts"], "through": Chain.LENGTH + 3}))
        assert (await chain.verify()).broken_at is not None

    async def test_of_a_trimmed_log_the_kept_part_counts(self, chain: Chain) -> None:
        await self.verify(chain, limit=2)
        await chain.log.trim(chain.store, NOW + timedelta(days=2), Context(NOW + timedelta(days=2), SYSTEM))
        report = await chain.verify()
        assert report.broken_at is None
        assert report.start == report.trimmed > 2


class TestTrimming:
    """Old entries go from the start of the log; what is left is verified as before."""

    #: The last entry that goes.
    LAST = Chain.FULL

    @pytest.fixture(autouse=True)
    def at_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(log, "TRIMMED_EVERY", timedelta(0))
        monkeypatch.setattr(log, "TRIMMED_AT_ONCE", 2)

    async def trim(self, chain: Chain, last: int = LAST) -> None:
        await chain.log.trim(chain.store, NOW + (last + 1) * SECOND, Context(NOW + 10 * SECOND, SYSTEM))

    async def numbers(self, chain: Chain) -> list[int]:
        async with chain.store.read() as transaction:
            return [entry.number for entry in await transaction.audit.entries(0, 100)]

    async def test_the_rest_is_intact(self, chain: Chain) -> None:
        await self.trim(chain)
        assert await self.numbers(chain) == [4, 5, 6, 7]
        report = await chain.verify()
        assert report == AuditReport(7, None, (await chain.entry(7))["mac"], trimmed=self.LAST, start=self.LAST)
        last = await chain.entry(7)
        assert (last["event"], last["facts"]["through"]) == (Event.AUDIT_LOG_TRIMMED, self.LAST)

    async def test_it_goes_on_being_trimmed(self, chain: Chain) -> None:
        await self.trim(chain)
        await chain.write()
        await self.trim(chain, Chain.LENGTH)
        assert (await self.numbers(chain))[0] == Chain.LENGTH + 1
        assert (await chain.verify()).broken_at is None

    async def test_nothing_is_recorded_while_nothing_is_old(
        self, chain: Chain, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await self.trim(chain, 0)
        monkeypatch.setattr(log, "TRIMMED_EVERY", timedelta(seconds=3))
        await self.trim(chain, 3)
        assert await self.numbers(chain) == [1, 2, 3, 4, 5, 6]
        await self.trim(chain, 4)
        assert await self.numbers(chain) == [5, 6, 7]

    async def test_a_long_log_is_trimmed_in_rounds(self, chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(log, "EXAMINED_AT_ONCE", 2)
        await self.trim(chain)
        assert await self.numbers(chain) == [3, 4, 5, 6, 7]
        await self.trim(chain)
        assert await self.numbers(chain) == [4, 5, 6, 7, 8]
        assert (await chain.verify()).broken_at is None

    async def test_all_can_go(self, chain: Chain) -> None:
        await self.trim(chain, Chain.LENGTH + 100)
        assert await self.numbers(chain) == [7]
        assert (await chain.verify()).broken_at is None

    async def test_of_two_replicas_at_once_one_may_delete_less_and_record_it_later(self, chain: Chain) -> None:
        trim = self.trim

        class Overtaken:
            """The store of a replica that another one overtakes before it writes."""

            is_overtaken = False
            read, follow = staticmethod(chain.store.read), staticmethod(chain.store.follow)
            write = staticmethod(chain.store.write)

            @asynccontextmanager
            async def queue(self) -> AsyncIterator[AuthTransaction]:
                if not self.is_overtaken:
                    self.is_overtaken = True
                    await trim(chain, 4)
                async with chain.store.write() as transaction:
                    yield transaction

        await chain.log.trim(Overtaken(), NOW + 3 * SECOND, Context(NOW + 10 * SECOND, SYSTEM))
        assert await self.numbers(chain) == [5, 6, 7, 8]
        report = await chain.verify()
        assert (report.broken_at, report.trimmed) == (None, 4)

    async def test_it_may_happen_during_a_verification(self, chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
        read = log._entries

        async def read_slowly(store: Store, after: int, pause: float) -> AsyncIterator[AuditEntry]:
            async for entry in read(store, after, pause):
                yield entry
                if entry.number == 1:
                    await self.trim(chain)

        monkeypatch.setattr(log, "_PAGE", 1)
        monkeypatch.setattr(log, "_entries", read_slowly)
        report = await chain.verify()
        assert (report.broken_at, report.entries, report.trimmed) == (None, 7, self.LAST)

    async def test_a_time_that_was_put_back_ends_the_part_that_goes(self, chain: Chain) -> None:
        await chain.write()
        await self.trim(chain)
        assert (await self.numbers(chain))[0] == self.LAST + 1

    async def test_an_interruption_breaks_nothing_and_the_next_run_goes_on(
        self, chain: Chain, services: Services
    ) -> None:
        kept = (await chain.entry(self.LAST + 1))["mac"]
        for number in range(100):
            try:
                with failing(services, number):
                    await self.trim(chain)
            except OperationalError:
                assert (await chain.verify()).broken_at is None
                assert (await chain.entry(self.LAST + 1))["mac"] == kept
            else:
                break
        assert number > 5
        assert (await self.numbers(chain))[0] == self.LAST + 1

    async def test_more_that_went_is_found(self, chain: Chain) -> None:
        await self.trim(chain)
        await chain.run(delete(audit_log).where(audit_log.c.number == self.LAST + 1))
        assert (await chain.verify()).broken_at == self.LAST + 2

    async def test_a_forged_record_of_it_is_found(self, chain: Chain) -> None:
        """An entry that says so is as hard to make up as any other, and cannot be about itself."""
        for number, through in ((5, 3), (5, 5), (3, 5), (5, 0), (5, -1)):
            before, mac = await chain.entry(number), b"1"
            if through > 0:
                mac = (await chain.entry(through))["mac"]
            facts = {"through": through, "mac": mac.hex()}
            await chain.run(change(number, event=Event.AUDIT_LOG_TRIMMED, facts=facts))
            assert (await chain.verify()).broken_at is not None
            await chain.run(change(number, **before))

    async def test_the_record_that_counts_is_the_last_one(self, chain: Chain) -> None:
        await self.trim(chain)
        await chain.write()
        await self.trim(chain, Chain.LENGTH)
        await chain.run(change(14, event=Event.SESSION_ENDED))
        assert (await chain.verify()).broken_at is not None


class TestNonsense:
    """What somebody with the database alone writes into it is a break in the chain, and no crash."""

    @pytest.mark.parametrize(
        ("column", "value"),
        [("facts", "null"), ("facts", "{bad"), ("facts", "[1]"), ("at", "garbage"), ("personal", "[1]"), ("mac", "")],
    )
    async def test_a_value_that_cannot_be_read_is_a_break(self, services: Services, column: str, value: str) -> None:
        if not services.database.is_sqlite:
            pytest.skip("PostgreSQL's types refuse such values")
        async with services.database.write() as connection:
            statement = text(f"UPDATE audit_log SET {column} = :value WHERE number = 2")  # noqa: S608 - a name of ours
            await connection.execute(statement, {"value": value})
        report = await services.audit.verify(services.store)
        assert (report.entries, report.broken_at) == (1, 2)

    async def test_an_entry_before_the_first_is_a_break(self, services: Services) -> None:
        async with services.database.write() as connection:
            copy = text(
                "INSERT INTO audit_log SELECT -5, at, event, actor, subject, facts, personal, personal_digest, mac "
                "FROM audit_log WHERE number = 1"
            )
            await connection.execute(copy)
        assert (await services.audit.verify(services.store)).broken_at == -5
