"""What the OAuth endpoints do, without HTTP: RFC 6749, 7009 and 7662."""

from uuid import UUID

from ostiary import VerifiedToken
from ostiary.errors import Expired, NotYetValid
from ostiary.feed import EVERYTHING, Kind
from ostiary.jwt import DEFAULT_LEEWAY, MAX_LEEWAY, IssuedToken
from ostiary_auth.domain.audit.log import AuditLog
from ostiary_auth.domain.audit.model import Event
from ostiary_auth.domain.context import Context, client_actor, user_actor
from ostiary_auth.domain.errors import InvalidClient, InvalidRefreshToken, OAuthError
from ostiary_auth.domain.oauth.access_tokens import AccessToken, AccessTokens
from ostiary_auth.domain.oauth.model import Client
from ostiary_auth.domain.ports import Store
from ostiary_auth.domain.revocation.log import RevocationLog
from ostiary_auth.domain.revocation.model import RevokedNumbers
from ostiary_auth.domain.sessions.model import Grant
from ostiary_auth.domain.sessions.service import Sessions

#: The scope that a client needs for introspection.
INTROSPECT_SCOPE = "introspect"


class AuthorizationServer:
    """Serves clients that have been authenticated."""

    def __init__(
        self,
        store: Store,
        audit: AuditLog,
        revocations: RevocationLog,
        sessions: Sessions,
        tokens: AccessTokens,
    ) -> None:
        self._store = store
        self._audit = audit
        self._revocations = revocations
        self._sessions = sessions
        self._tokens = tokens

    async def client_credentials(
        self, client: Client, scopes: frozenset[str] | None, audience: str | None, context: Context
    ) -> AccessToken:
        """Return a token for the client itself (RFC 6749 section 4.4). Raises OAuthError."""
        _require_grant(client, "client_credentials")
        if scopes is not None and not scopes <= set(client.scopes):
            raise OAuthError("invalid_scope", "A requested scope is not allowed for this client.")
        if audience is not None and audience not in client.audiences:
            raise OAuthError("invalid_target", "The requested audience is not allowed for this client.")
        granted = [scope for scope in client.scopes if scopes is None or scope in scopes]
        return await self._tokens.for_client(client, audience or client.audiences[0], granted, context.now)

    async def refresh(
        self, client: Client, refresh_token: str, scopes: frozenset[str] | None, context: Context
    ) -> tuple[Grant, AccessToken]:
        """Refresh a session (RFC 6749 section 6). Raises OAuthError."""
        _require_grant(client, "refresh_token")
        try:
            grant = await self._sessions.refresh(refresh_token, client.id, context, scopes)
        except InvalidRefreshToken as error:
            raise OAuthError("invalid_grant", error.detail) from None
        await self._require_unchanged(client, grant)
        return grant, await self._tokens.for_session(grant, context.now)

    async def _require_unchanged(self, client: Client, grant: Grant) -> None:
        """Raise InvalidClient if the client was disabled since it was read."""
        if client.as_of >= grant.as_of:
            return
        async with self._store.read() as transaction:
            found = await transaction.revocations.of({Kind.CLIENT: client.id})
        if any(client.as_of < logged.number for logged in found):
            raise InvalidClient

    async def revoke(self, client: Client, token: str, context: Context) -> RevokedNumbers:
        """Revoke a token of the client (RFC 7009 section 2.1).

        The session of a refresh token ends. A token that is unknown, another client's or not valid is not an error.
        """
        revoked = await self._sessions.end_by_refresh_token(token, client.id, context)
        if revoked is not None:
            return revoked
        issued = self._tokens.read(token)
        # Whoever accepts tokens for the longest after they have expired may still accept this one.
        if issued is None or issued.token.client_id != client.id or not _is_current(issued.token, context, MAX_LEEWAY):
            return ()
        presented, session_id = issued.token, _session_of(issued.token)
        async with self._store.queue() as transaction:
            if session_id is not None and not await transaction.sessions.is_open(session_id, context.now):
                return ()
            if await transaction.revocations.of({Kind.TOKEN: presented.token_id}):
                return ()
            revoked = await self._revocations.revoke(transaction, context, Kind.TOKEN, presented.token_id)
            facts = {"token_id": presented.token_id, "client_id": client.id}
            # About the user, if there is one, so that personal data is erased when they are deleted.
            subject = client_actor(client.id) if session_id is None else user_actor(UUID(presented.subject))
            await self._audit.record(transaction, context, Event.TOKEN_REVOKED, subject=subject, facts=facts)
        return revoked

    async def introspect(self, client: Client, token: str, context: Context) -> IssuedToken | None:
        """Return an access token if it is active (RFC 7662): if a verifier would accept it. Raises OAuthError."""
        if client.is_public or INTROSPECT_SCOPE not in client.scopes:
            raise OAuthError(
                "unauthorized_client",
                f"Introspection requires a confidential client with the scope '{INTROSPECT_SCOPE}'.",
            )
        issued = self._tokens.read(token)
        if issued is None or not _is_current(issued.token, context, DEFAULT_LEEWAY):
            return None
        return None if await self._is_revoked(issued.token, context) else issued

    async def _is_revoked(self, presented: VerifiedToken, context: Context) -> bool:
        targets = {
            Kind.TOKEN: presented.token_id,
            Kind.SUBJECT: presented.subject,
            Kind.CLIENT: presented.client_id,
            Kind.ALL: EVERYTHING,
        }
        async with self._store.read() as transaction:
            found = await transaction.revocations.of(targets)
            session_id = _session_of(presented)
            if session_id is None:
                owner = await transaction.clients.get(presented.client_id)
                ended = owner is None or owner.disabled_at is not None
            else:
                ended = not await transaction.sessions.is_open(session_id, context.now)
        hit = any(entry.kind is Kind.TOKEN or presented.log_position < entry.number for entry in found)
        return ended or hit


def _require_grant(client: Client, grant: str) -> None:
    if grant not in client.grants:
        raise OAuthError("unauthorized_client", f"This client may not use the grant '{grant}'.")


def _session_of(token: VerifiedToken) -> UUID | None:
    return None if token.session_id is None else UUID(token.session_id)


def _is_current(token: VerifiedToken, context: Context, leeway: float) -> bool:
    """Return whether a verifier with this leeway, in seconds, would accept a token by its time."""
    try:
        token.check_time(context.now.timestamp(), leeway)
    except (Expired, NotYetValid):
        return False
    return True
