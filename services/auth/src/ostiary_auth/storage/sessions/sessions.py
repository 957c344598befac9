"""Sessions and refresh tokens on SQL."""

from collections.abc import Collection, Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import (
    Column,
    ColumnElement,
    FromClause,
    Label,
    LargeBinary,
    Row,
    Select,
    Uuid,
    and_,
    bindparam,
    column,
    delete,
    func,
    insert,
    literal,
    select,
    true,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncConnection

from ostiary_auth.domain.sessions.model import Chain, EndReason, Entitlement, RefreshToken, Session, SessionEnd
from ostiary_auth.domain.sessions.session_secrets import SessionProof
from ostiary_auth.storage.accounts.tables import users
from ostiary_auth.storage.accounts.users import USER_COLUMNS, user_of
from ostiary_auth.storage.removal import remove_rows
from ostiary_auth.storage.revocation.tables import revocation_head
from ostiary_auth.storage.sessions.tables import refresh_tokens, sessions
from ostiary_chassis.sql import Database

_ONE_SECOND = timedelta(seconds=1)

#: How long a session is kept after it has ended or expired, so that support can tell why a user was logged out. Refresh
#: tokens are, too: most are used soon, so that this is over when they are looked at for the first time.
SESSIONS_KEPT = timedelta(days=1)

#: Sessions that one statement ends, so that none takes longer than the database allows.
_END_BATCH = 10_000

_SESSION_COLUMNS = [column for column in sessions.c if column.name not in {"end_reason", "check_at"}]
_TOKEN_COLUMNS = [column for column in refresh_tokens.c if column.name != "check_at"]
_session_and_user = (_SESSION_COLUMNS, USER_COLUMNS)
_parts = (_TOKEN_COLUMNS, *_session_and_user, [revocation_head.c.number])


def _labelled(parts: Sequence[list[Column[Any]]]) -> list[Label[Any]]:
    """Return the columns of several tables under distinct names."""
    return [column.label(f"{number}_{column.name}") for number, part in enumerate(parts) for column in part]


# Statements on hot paths are built once; building one costs as much as running it.
_ADD = insert(sessions)
_ADD_TOKEN = insert(refresh_tokens)
_NOT_ENDED = select(*_SESSION_COLUMNS).where(
    sessions.c.user_id == bindparam("user_id"), sessions.c.ended_at.is_(None), sessions.c.expires_at > bindparam("now")
)
_COUNT_NOT_ENDED = _NOT_ENDED.with_only_columns(func.count())
#: In a fixed order, so that two transactions cannot deadlock.
_LOCK_NOT_ENDED = _NOT_ENDED.order_by(sessions.c.id).with_for_update()
_END = (
    update(sessions)
    .where(sessions.c.id == bindparam("ended"))
    .values(ended_at=bindparam("now"), end_reason=bindparam("reason"), check_at=bindparam("check_at"))
)
_END_SOME = (
    update(sessions)
    .where(
        sessions.c.id.in_(
            select(sessions.c.id)
            .where(
                sessions.c.id > bindparam("after"),
                sessions.c.ended_at.is_(None),
                sessions.c.expires_at > bindparam("now"),
            )
            .order_by(sessions.c.id)
            .limit(bindparam("rows"))
            .with_for_update()
        )
    )
    .values(ended_at=bindparam("now"), end_reason=bindparam("reason"), check_at=bindparam("check_at"))
    .returning(sessions.c.id)
)
_LOCK_OF_TOKEN = (
    select(sessions.c.id)
    .where(
        sessions.c.id
        == select(refresh_tokens.c.session_id).where(refresh_tokens.c.hash == bindparam("token_hash")).scalar_subquery()
    )
    .with_for_update()
)
#: A refresh token with everything that a decision about it needs, in one statement.
_CHAIN = (
    select(*_labelled(_parts))
    .join(sessions, sessions.c.id == refresh_tokens.c.session_id)
    .join(users, users.c.id == sessions.c.user_id)
    .join(revocation_head, revocation_head.c.id == 1)
    .where(refresh_tokens.c.hash == bindparam("token_hash"))
)


def _successors() -> Select[Any]:
    """Return the statement that follows a chain from its token `first` on."""
    start = select(*_TOKEN_COLUMNS, literal(1).label("step")).where(refresh_tokens.c.hash == bindparam("first"))
    found = start.cte("found", recursive=True)
    further = select(*_TOKEN_COLUMNS, found.c.step + 1).where(
        refresh_tokens.c.hash == found.c.successor_hash, found.c.step < bindparam("limit")
    )
    chain = found.union_all(further)
    return select(*(chain.c[column.name] for column in _TOKEN_COLUMNS)).order_by(chain.c.step)


_SUCCESSORS = _successors()
_USE_TOKEN = (
    update(refresh_tokens)
    .where(refresh_tokens.c.hash == bindparam("used"))
    .values(used_at=bindparam("now"), successor_nonce=bindparam("nonce"), successor_hash=bindparam("successor"))
)
_ADD_SUCCESSOR = insert(refresh_tokens).values(
    hash=bindparam("successor"), session_id=bindparam("of"), created_at=bindparam("now"), check_at=bindparam("check")
)
_BY_ID = select(*_SESSION_COLUMNS).where(sessions.c.id == bindparam("session_id"))
_LOCK = (
    select(*_SESSION_COLUMNS)
    .where(sessions.c.id.in_(bindparam("ids", expanding=True)))
    .order_by(sessions.c.id)
    .with_for_update()
)
_OF_TOKEN = select(*_SESSION_COLUMNS).where(
    sessions.c.id == refresh_tokens.c.session_id, refresh_tokens.c.hash == bindparam("token_hash")
)
_LOCK_PROVEN = _BY_ID.where(sessions.c.secret_hash == bindparam("hash")).with_for_update()
_asked = (
    func.unnest(bindparam("ids", type_=ARRAY(Uuid)), bindparam("hashes", type_=ARRAY(LargeBinary)))
    .table_valued(column("id", Uuid), column("hash", LargeBinary), name="asked")
    .render_derived()
)
#: Always in the same order, as in `_LOCK_NOT_ENDED`. The state that is decided on is the one after the wait for a lock.
#: It is no condition here: by that, PostgreSQL would look through all open sessions while it has no statistics.
_proven = (
    select(*(sessions.c[name] for name in ("id", "user_id", "ended_at", "expires_at", "last_used_at")))
    .join(_asked, and_(sessions.c.id == _asked.c.id, sessions.c.secret_hash == _asked.c.hash))
    .order_by(sessions.c.id)
    .with_for_update(of=sessions)
    .cte("proven")
)


def _usable(found: FromClause) -> ColumnElement[bool]:
    """Return the condition for browsers' sessions that may be used."""
    return and_(
        found.c.ended_at.is_(None),
        found.c.expires_at >= bindparam("soon"),
        found.c.last_used_at > bindparam("idle_since"),
        users.c.id == found.c.user_id,
        users.c.disabled_at.is_(None),
    )


#: Everything that the next access token of a session states.
_entitlement = (
    *_labelled(_session_and_user),
    select(revocation_head.c.number).where(revocation_head.c.id == 1).scalar_subquery().label("as_of"),
)
_FIND_USABLE = select(*_entitlement).where(
    _usable(sessions),
    sessions.c.id.in_(bindparam("ids", expanding=True)),
    sessions.c.secret_hash.in_(bindparam("hashes", expanding=True)),
)
#: The time of the last use need not outlive a crash of the database, so nobody waits until a disk has it.
_without_flush = select(func.set_config("synchronous_commit", "off", true())).scalar_subquery()
_USE = (
    update(sessions)
    .where(_usable(_proven), sessions.c.id == _proven.c.id)
    .values(last_used_at=bindparam("now"))
    .returning(*_entitlement, _without_flush.label("without_flush"))
)
_USE_SESSION = update(sessions).where(sessions.c.id == bindparam("used")).values(last_used_at=bindparam("now"))
_ROTATE_SESSION = (
    update(sessions)
    .where(sessions.c.id == bindparam("of"))
    .values(last_used_at=bindparam("now"), next_rotation_at=bindparam("next"))
)
#: All three in one round trip, which SQLite cannot do.
_ROTATE = _ROTATE_SESSION.add_cte(_USE_TOKEN.cte("used_token"), _ADD_SUCCESSOR.cte("added_token"))


class SqlSessions:
    """Implements `SessionRows`."""

    def __init__(self, connection: AsyncConnection, database: Database) -> None:
        self._connection = connection
        self._database = database

    async def add(self, session: Session, ends_at: datetime) -> None:
        await self._connection.execute(_ADD, {**asdict(session), "check_at": ends_at + SESSIONS_KEPT})

    async def all_of(self, user_id: UUID) -> list[Session]:
        query = select(*_SESSION_COLUMNS).where(sessions.c.user_id == user_id).order_by(sessions.c.created_at)
        return [Session(**row._mapping) for row in await self._connection.execute(query)]

    async def not_ended(self, user_id: UUID, now: datetime) -> list[Session]:
        rows = await self._connection.execute(_NOT_ENDED, {"user_id": user_id, "now": now})
        return [Session(**row._mapping) for row in rows]

    async def count_not_ended(self, user_id: UUID, now: datetime) -> int:
        result = await self._connection.execute(_COUNT_NOT_ENDED, {"user_id": user_id, "now": now})
        count: int = result.scalar_one()
        return count

    async def lock_not_ended(self, user_id: UUID, now: datetime) -> list[Session]:
        rows = await self._connection.execute(_LOCK_NOT_ENDED, {"user_id": user_id, "now": now})
        return [Session(**row._mapping) for row in rows]

    async def is_open(self, session_id: UUID, now: datetime) -> bool:
        still = and_(sessions.c.ended_at.is_(None), sessions.c.expires_at > now)
        result = await self._connection.execute(select(sessions.c.id).where(sessions.c.id == session_id, still))
        return result.one_or_none() is not None

    async def lock(self, session_ids: Collection[UUID]) -> list[Session]:
        rows = await self._connection.execute(_LOCK, {"ids": list(session_ids)})
        return [Session(**row._mapping) for row in rows]

    async def end(self, ends: Collection[SessionEnd]) -> None:
        rows = [
            {
                "ended": each.session.id,
                "now": each.context.now,
                "reason": each.reason,
                "check_at": each.context.now + SESSIONS_KEPT,
            }
            for each in ends
        ]
        await self._connection.execute(_END, rows)

    async def end_all(self, reason: EndReason, now: datetime) -> int:
        given = {"now": now, "reason": reason, "check_at": now + SESSIONS_KEPT, "rows": _END_BATCH}
        count, last = 0, UUID(int=0)
        while ended := (await self._connection.execute(_END_SOME, {**given, "after": last})).scalars().all():
            count, last = count + len(ended), max(ended)
        return count

    async def add_refresh_token(self, token: RefreshToken, ends_at: datetime) -> None:
        await self._connection.execute(_ADD_TOKEN, {**asdict(token), "check_at": ends_at + SESSIONS_KEPT})

    async def lock_chain(self, token_hash: bytes) -> Chain | None:
        # Lock first, so that the chain is read as a concurrent refresh has left it.
        if not self._database.is_sqlite:
            await self._connection.execute(_LOCK_OF_TOKEN, {"token_hash": token_hash})
        result = await self._connection.execute(_CHAIN, {"token_hash": token_hash})
        row = result.one_or_none()
        if row is None:
            return None
        token, session, user, head = _by_part(row, _parts)
        return Chain(
            token=RefreshToken(**token),
            session=Session(**session),
            user=user_of(user),
            as_of=head["number"],
        )

    async def of_refresh_token(self, token_hash: bytes) -> Session | None:
        row = (await self._connection.execute(_OF_TOKEN, {"token_hash": token_hash})).one_or_none()
        return Session(**row._mapping) if row else None

    async def successors(self, token: RefreshToken, limit: int) -> list[RefreshToken]:
        rows = await self._connection.execute(_SUCCESSORS, {"first": token.successor_hash, "limit": limit})
        return [RefreshToken(**row._mapping) for row in rows]

    async def get(self, session_id: UUID) -> Session | None:
        row = (await self._connection.execute(_BY_ID, {"session_id": session_id})).one_or_none()
        return Session(**row._mapping) if row else None

    async def set_secret(self, session_id: UUID, secret_hash: bytes) -> None:
        await self._connection.execute(
            update(sessions).where(sessions.c.id == session_id).values(secret_hash=secret_hash)
        )

    async def lock_proven(self, proof: SessionProof) -> Session | None:
        given = {"session_id": proof.session_id, "hash": proof.secret_hash}
        row = (await self._connection.execute(_LOCK_PROVEN, given)).one_or_none()
        return Session(**row._mapping) if row else None

    async def use(
        self, proofs: Collection[SessionProof], idle: timedelta, now: datetime
    ) -> dict[SessionProof, Entitlement]:
        given: dict[str, Any] = {"soon": now + _ONE_SECOND, "idle_since": now - idle}
        given["ids"], given["hashes"] = zip(*((proof.session_id, proof.secret_hash) for proof in proofs), strict=True)
        if self._database.is_sqlite:
            # It has one writer at a time, and cannot return columns of other tables.
            rows = await self._connection.execute(_FIND_USABLE, given)
            found = [entitlement for entitlement in map(_entitlement_of, rows) if _proof_of(entitlement) in proofs]
            if found:
                used = [{"used": entitlement.session.id, "now": now} for entitlement in found]
                await self._connection.execute(_USE_SESSION, used)
        else:
            # It waits for whoever is changing one of the sessions, and then looks at that again. All else is as when it
            # began, so that a token of roles from before a change also has a number from before that.
            rows = await self._connection.execute(_USE, {**given, "now": now})
            found = [_entitlement_of(row) for row in rows]
        return {_proof_of(entitlement): entitlement for entitlement in found}

    async def remove_some(self, user_id: UUID, limit: int) -> int:
        some = select(sessions.c.id).where(sessions.c.user_id == user_id).order_by(sessions.c.ended_at).limit(limit)
        session_ids = (await self._connection.execute(some.with_for_update(skip_locked=True))).scalars().all()
        return await remove_sessions(self._connection, session_ids, limit)

    async def rotate(
        self, used: bytes, nonce: bytes, successor: RefreshToken, *, next_rotation_at: datetime, ends_at: datetime
    ) -> None:
        of, now = {"of": successor.session_id}, {"now": successor.created_at}
        use = {"used": used, "nonce": nonce, "successor": successor.hash, **now}
        add = {"successor": successor.hash, "check": ends_at + SESSIONS_KEPT, **of, **now}
        rotate = {"next": next_rotation_at, **of, **now}
        if self._database.is_sqlite:
            for statement, given in ((_USE_TOKEN, use), (_ADD_SUCCESSOR, add), (_ROTATE_SESSION, rotate)):
                await self._connection.execute(statement, given)
        else:
            await self._connection.execute(_ROTATE, {**use, **add, **rotate})


async def remove_sessions(connection: AsyncConnection, session_ids: Sequence[UUID], limit: int) -> int:
    """Delete up to `limit` rows: refresh tokens of locked sessions, and the sessions when no token is left."""
    if not session_ids:
        return 0
    # In the order of the index: PostgreSQL would read the whole table while it has no statistics.
    tokens = (
        select(refresh_tokens.c.hash)
        .where(refresh_tokens.c.session_id.in_(session_ids))
        .order_by(refresh_tokens.c.session_id)
    )
    removed = await remove_rows(connection, refresh_tokens.c.hash, tokens, limit)
    without_tokens = session_ids[: limit - removed]
    await connection.execute(delete(sessions).where(sessions.c.id.in_(without_tokens)))
    return removed + len(without_tokens)


def _by_part(row: Row[Any], parts: Sequence[list[Column[Any]]]) -> list[dict[str, Any]]:
    """Return a row's values by name, for each table."""
    values = iter(row)
    return [{column.name: next(values) for column in part} for part in parts]


def _entitlement_of(row: Row[Any]) -> Entitlement:
    session, user = _by_part(row, _session_and_user)
    owner = user_of(user)
    return Entitlement(owner, Session(**session), owner.scopes, row.as_of)


def _proof_of(entitlement: Entitlement) -> SessionProof:
    session = entitlement.session
    assert session.secret_hash is not None  # noqa: S101 - it has been compared
    return SessionProof(session.id, session.secret_hash)
