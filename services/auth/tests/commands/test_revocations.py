"""`ostiary-auth revocations`: who follows the log, and what an operator can do to it."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TypeVar

import pytest
from command_line import CommandLine
from users import log_in, new_user

from ostiary import Verifier, VerifierConfig
from ostiary.errors import Revoked, UnknownKey
from ostiary.feed import EVERYTHING, Kind
from ostiary_auth.domain.audit.model import AuditEntry, Event
from ostiary_auth.domain.context import OPERATOR, Context
from ostiary_auth.domain.errors import InvalidRefreshToken
from ostiary_auth.domain.oauth.model import FIRST_PARTY_CLIENT_ID
from ostiary_auth.domain.revocation.log import LOST_NUMBERS
from ostiary_auth.domain.revocation.model import LOCAL_KEYS, LoggedRevocation, LogHead, RegisteredVerifier
from ostiary_auth.domain.sessions.model import BrowserGrant, Grant
from ostiary_auth.services import Services
from ostiary_auth.storage.sessions import sessions as sessions_module

T = TypeVar("T")

SECOND = timedelta(seconds=1)


async def head(services: Services) -> LogHead:
    async with services.store.read() as transaction:
        return await transaction.revocations.head()


async def logged(services: Services) -> list[LoggedRevocation]:
    async with services.store.read() as transaction:
        end = await transaction.revocations.head()
        return await transaction.revocations.after(0, end.number, 1000)


async def last_entry(services: Services) -> AuditEntry:
    async with services.store.read() as transaction:
        return (await transaction.audit.entries(0, 1000))[-1]


async def are_good(services: Services, *tokens: str) -> list[bool]:
    """Return of each token whether a service accepts it that has just been started."""
    config = VerifierConfig(
        issuer=services.config.issuer,
        audience=services.config.audience,
        key_source=services.local_keys.public,
        revocation_source=services.feed.local,
    )
    await services.feed.refresh()
    verifier, good = Verifier(config, max_staleness=None), []
    for token in tokens:
        try:
            verifier.verify(token)
        except (Revoked, UnknownKey):
            good.append(False)
        else:
            good.append(True)
    return good


async def refresh(services: Services, grant: Grant) -> str:
    context = Context(datetime.now(UTC))
    following = await services.sessions.refresh(grant.refresh_token, FIRST_PARTY_CLIENT_ID, context)
    return (await services.tokens.for_session(following, context.now)).token


class TestVerifiers:
    def test_without_any_there_is_nothing_to_list(self, line: CommandLine) -> None:
        assert line.prints("revocations", "verifiers") == "none\n"
        assert line.prints("revocations", "verifiers", "--json") == ""

    def test_those_that_may_be_accepting_tokens_are_listed(self, line: CommandLine) -> None:
        now = datetime.now(UTC).replace(microsecond=0)
        live = [
            RegisteredVerifier("ostiary-verifiers:gateway-5f1c", "auth-0a94", 17, "0nX2", 30_000, now + 60 * SECOND),
            RegisteredVerifier("auth-0a94", "auth-0a94", 18, LOCAL_KEYS, 1_500, now + 61 * SECOND),
        ]
        # It polled another replica before.
        before = replace(live[0], replica="auth-77e1", acknowledged=16, live_until=now + 59 * SECOND)
        gone = RegisteredVerifier("ostiary-verifiers:orders-d1b2", "auth-0a94", 16, "0nX2", 30_000, now - SECOND)

        async def put(services: Services) -> None:
            async with services.store.write() as transaction:
                await transaction.verifiers.put([*live, before, gone])

        line.do(put)
        heading, *table = (row.split() for row in line.prints("revocations", "verifiers").splitlines())
        assert heading == ["ID", "APPLIED", "KEYS", "LEASE", "LIVE", "UNTIL"]
        shown = {row[0]: row[1:] for row in table}
        assert shown.keys() == {"ostiary-verifiers:gateway-5f1c", "auth-0a94"}
        assert shown["ostiary-verifiers:gateway-5f1c"][:4] == ["17", "0nX2", "30", "s"]
        assert "1.5 s" in line.prints("revocations", "verifiers")
        rows = {row["id"]: row for row in line.rows("revocations", "verifiers")}
        for verifier in live:
            row = rows.pop(verifier.id)
            assert datetime.fromisoformat(row.pop("live_until")) == verifier.live_until
            assert row == {
                "id": verifier.id,
                "acknowledged": verifier.acknowledged,
                "keys": verifier.keys,
                "lease_ms": verifier.lease_ms,
            }
        assert rows == {}

    def test_what_verifiers_say_over_the_feed_is_shown(self, line: CommandLine) -> None:
        async def ask(services: Services) -> None:
            await services.feed.refresh()
            await services.verifiers.on_poll("orders-1", 3, services.local_keys.ring().version, 20_000)
            await services.verifiers.on_poll("orders-2", 3, "keys", 20_000)
            await services.verifiers.remove("orders-2")

        line.do(ask)
        (row,) = line.rows("revocations", "verifiers")
        assert (row["id"], row["acknowledged"], row["lease_ms"]) == ("orders-1", 3, 20_000)


class TestRevokeAll:
    def test_every_token_that_there_is_is_revoked_and_sessions_go_on(self, line: CommandLine) -> None:
        grant, before = line.do(log_in)
        assert line.do(lambda services: are_good(services, before)) == [True]
        assert line.prints("revocations", "revoke-all") == ""
        _, after = line.do(log_in)
        refreshed = line.do(lambda services: refresh(services, grant))
        assert line.do(lambda services: are_good(services, before, after, refreshed)) == [False, True, True]

    def test_it_stands_in_both_logs(self, line: CommandLine) -> None:
        line.prints("revocations", "revoke-all")
        (revocation,) = line.do(logged)
        assert (revocation.number, revocation.kind, revocation.target) == (1, Kind.ALL, EVERYTHING)
        entry = line.do(last_entry)
        assert (entry.event, entry.actor) == (Event.ALL_REVOKED, OPERATOR)

    def test_a_replica_that_runs_learns_of_it(self, line: CommandLine) -> None:
        async def revoke_meanwhile(services: Services) -> tuple[int, int]:
            await services.feed.refresh()
            before = services.feed.number
            await asyncio.to_thread(line.prints, "revocations", "revoke-all")
            await services.feed.refresh()
            return before, services.feed.number

        assert line.do(revoke_meanwhile) == (0, 1)


class TestRestart:
    def test_the_log_begins_anew_and_nothing_from_before_is_good(self, line: CommandLine) -> None:
        line.prints("revocations", "revoke-all")
        grant, before = line.do(log_in)
        old = line.do(head)
        assert line.prints("revocations", "restart") == "1 sessions ended\n"
        new = line.do(head)
        assert new.epoch != old.epoch
        assert new.number > old.number + LOST_NUMBERS
        _, after = line.do(log_in)
        assert line.do(lambda services: are_good(services, before, after)) == [False, True]
        with pytest.raises(InvalidRefreshToken):
            line.do(lambda services: refresh(services, grant))
        entry = line.do(last_entry)
        assert (entry.event, entry.actor, entry.facts) == (Event.LOG_RESTARTED, OPERATOR, {"ended_sessions": 1})

    def test_sessions_can_be_kept(self, line: CommandLine) -> None:
        grant, before = line.do(log_in)
        assert line.prints("revocations", "restart", "--keep-sessions") == "0 sessions ended\n"
        refreshed = line.do(lambda services: refresh(services, grant))
        assert line.do(lambda services: are_good(services, before, refreshed)) == [False, True]

    def test_sessions_of_browsers_end_too(self, line: CommandLine) -> None:
        async def open_in_browser(services: Services) -> BrowserGrant:
            user, context = new_user(), Context(datetime.now(UTC))
            async with services.store.write() as transaction:
                await transaction.users.add(user)
                return await services.sessions.open_in_browser(transaction, user, "browser", context, persistent=True)

        grant = line.do(open_in_browser)
        line.prints("revocations", "restart")

        async def is_open(services: Services) -> bool:
            async with services.store.read() as transaction:
                return await transaction.sessions.is_open(grant.session.id, datetime.now(UTC))

        assert not line.do(is_open)

    def test_more_sessions_end_than_one_statement_ends(
        self, line: CommandLine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        line.add_user(sessions=7)
        monkeypatch.setattr(sessions_module, "_END_BATCH", 3)
        assert line.prints("revocations", "restart") == "7 sessions ended\n"

    def test_all_signing_keys_are_replaced(self, line: CommandLine) -> None:
        before = {row["kid"] for row in line.rows("keys", "list")}
        line.prints("revocations", "restart")
        after = {row["state"]: row["kid"] for row in line.rows("keys", "list")}
        assert after.keys() == {"next", "signing"}
        assert not before & {*after.values()}
        assert {each.target for each in line.do(logged) if each.kind is Kind.KEY} == before

    def test_tokens_with_numbers_that_were_lost_are_revoked_too(self, line: CommandLine) -> None:
        old = line.do(head)
        for _ in range(3):
            line.prints("revocations", "revoke-all")
        _, token = line.do(log_in)

        async def restore(services: Services) -> None:
            """Go back to before all that, as a backup does."""
            async with services.store.write() as transaction:
                await transaction.revocations.lock_head()
                await transaction.revocations.restart(old.epoch, old.number)

        line.do(restore)
        assert line.do(lambda services: are_good(services, token)) == [True]
        line.prints("revocations", "restart")
        assert line.do(lambda services: are_good(services, token)) == [False]

    def test_a_replica_that_runs_goes_on_with_the_new_log(self, line: CommandLine) -> None:
        async def restart_meanwhile(services: Services) -> tuple[str, str]:
            await services.feed.refresh()
            before = services.feed.epoch
            await asyncio.to_thread(line.prints, "revocations", "restart")
            await services.feed.refresh()
            return before, services.feed.epoch

        before, after = line.do(restart_meanwhile)
        assert before != after == line.do(head).epoch


def test_without_a_command_there_is_help(line: CommandLine) -> None:
    result = line.run("revocations")
    for command in ("verifiers", "revoke-all", "restart"):
        assert command in result.output
