"""Who sent a request: verifies the bearer token, or the access token of the browser session.

A session's token is in a cookie of its own, or this process has renewed it; the one that ends later is taken. If
neither is good, the request has to wait for a new one. Nothing waits here.
"""

import time

from ostiary import Presented, VerifiedToken, Verifier
from ostiary.browser import CROSS_SITE_REQUEST, SESSION_ENDED, Verdict, set_cookie
from ostiary.errors import MissingToken, OstiaryError, Revoked, TokenError
from ostiary.http import bearer_token
from ostiary_chassis.problems import ProblemError
from ostiary_chassis.proxies import source_of
from ostiary_gateway.access.credentials import Browser, Credentials
from ostiary_gateway.access.renewal import (
    MAX_RENEWAL_SECONDS,
    RENEWAL_SHARE,
    STREAM_SHARE,
    RenewalNeeded,
    Renewals,
    RenewedToken,
    Session,
    undecided,
)
from ostiary_gateway.access.request import RequestContext
from ostiary_gateway.access.rules import COUNTED, UNCOUNTED, RouteRules

#: Renewals that a request waits for: its new token, too, may have been cut off before it is here.
MAX_RENEWALS = 2


class BearerNotAccepted(TokenError):
    """The route takes cookies alone."""

    code = "bearer_not_accepted"
    detail = "This path takes the cookies of a browser session, and no access token in the Authorization header."


class Authentication:
    """Finds out who sent a request."""

    def __init__(self, verifier: Verifier, browser: Browser | None, renewals: Renewals | None) -> None:
        """Without `browser`, cookies never count. The caller opens `verifier`."""
        self.verifier = verifier
        self.browser = browser
        self._renewals = renewals

    def token(self, rules: RouteRules, context: RequestContext) -> VerifiedToken | None:
        """Return the verified token of a request; None if it has none and the route requires none.

        Raises OstiaryError, ProblemError or RenewalNeeded.
        """
        credentials = credentials_of(context)
        if credentials.has_bearer or not rules.takes_cookies:
            token = self._of_bearer(rules, context, credentials)
        else:
            token = self._of_session(rules, context, credentials)
        if token is not None:
            # Set before the requirements are checked, so that the access log has the subject of a rejected request.
            context.token = token
            bound = rules.max_staleness
            if bound is not None and (context.max_staleness is None or bound < context.max_staleness):
                context.max_staleness = bound
        elif context.token is not None:
            # Another route has counted a credential that does not count here.
            raise MissingToken
        return token

    def session(self, rules: RouteRules, context: RequestContext) -> Session | None:
        """Return the session whose cookie counts for a request, if there is one. Raises ProblemError."""
        credentials, browser = credentials_of(context), self.browser
        if browser is None or credentials.has_bearer or not credentials.cookie_fields:
            return None
        session = credentials.read(browser.names, self.verifier)
        if session is None:
            return None
        verdict = credentials.verdict(rules, context.own_origin, browser, is_websocket=context.is_websocket)
        if verdict is Verdict.COUNTS:
            context.session = session
            return session
        if verdict is Verdict.REFUSED and rules.takes_cookies:
            raise ProblemError(CROSS_SITE_REQUEST)
        return None

    def forward(self, rules: RouteRules, context: RequestContext) -> None:
        """Set what goes on to the upstream of the credentials of an authorised request. Raises ProblemError."""
        browser, credentials = self.browser, credentials_of(context)
        if browser is None or not credentials.cookie_fields:
            return
        if rules.is_to_issuer and not rules.takes_cookies:
            # Nothing is decided by it here; what ends a session, or opens another one, is told of it.
            self.session(rules, context)
        session = context.session if rules.is_to_issuer else None
        context.forwarding = credentials.forwarding(
            browser,
            is_to_issuer=rules.is_to_issuer,
            session=session.value if session is not None else b"",
            token=context.bearer,
        )

    def cookie_rules(self, rules: RouteRules, context: RequestContext) -> int:
        """Return what the response to an authorised request says about cookies."""
        if context.session is not None:
            return rules.cookie_rules | COUNTED
        credentials, browser = credentials_of(context), self.browser
        if browser is None or not rules.takes_cookies or credentials.has_bearer:
            return rules.cookie_rules
        # Whether a cookie came or not, as pages of other sites must not learn that.
        verdict = credentials.verdict(rules, context.own_origin, browser, is_websocket=context.is_websocket)
        return rules.cookie_rules if verdict is Verdict.COUNTS else rules.cookie_rules | UNCOUNTED

    def _of_bearer(self, rules: RouteRules, context: RequestContext, credentials: Credentials) -> VerifiedToken | None:
        """Verify the bearer token. Raises OstiaryError."""
        if rules.is_optional and not credentials.has_bearer:
            return None
        presented = credentials.presented
        if presented is None:
            values = [value.decode("latin-1") for value in credentials.authorization]
            presented = credentials.presented = self.verifier.present(bearer_token(values))
        if not rules.takes_bearers:
            raise BearerNotAccepted
        context.used = presented
        return self.verifier.verify(presented, max_staleness=rules.max_staleness)

    def _of_session(self, rules: RouteRules, context: RequestContext, credentials: Credentials) -> VerifiedToken | None:
        """Verify the token of the browser session. Raises as `token`."""
        session = self.session(rules, context)
        if session is None:
            if rules.is_optional:
                return None
            raise MissingToken
        if context.used is not None:
            # Found for another route already.
            return self.verifier.verify(context.used, max_staleness=rules.max_staleness)
        token = self._find(rules, context, credentials, session)
        if token is None:
            if not rules.is_optional:
                raise ProblemError(SESSION_ENDED)
            context.session = None
        return token

    def _find(
        self, rules: RouteRules, context: RequestContext, credentials: Credentials, session: Session
    ) -> VerifiedToken | None:
        """Choose the token of a session; None if that has ended. Raises OstiaryError, ProblemError or RenewalNeeded."""
        now = time.time()
        presented = credentials.token
        token = self._verified(presented, session, rules, now) if presented is not None else None
        if token is not None and context.renewal is None and not _is_due(context, token, now):
            # Of most requests, this is all.
            context.used, context.bearer = presented, credentials.token_value
            return token
        best, newer = token, self._renewed(context, session)
        renewed = self._verified(newer.presented, session, rules, now) if newer is not None else None
        if context.renewal is not None and context.renewal.is_ended:
            return None
        if newer is not None and renewed is not None and (token is None or renewed.expires_at > token.expires_at):
            best = renewed
            context.used, context.bearer = newer.presented, newer.value
            context.renewed_cookie = self._cookie(newer, renewed, now)
        elif token is not None:
            context.used, context.bearer = presented, credentials.token_value
        if best is None:
            self._require_ended(context, session, newer)
            return None
        if context.renewal is None and _is_due(context, best, now):
            self._renew(context, session, best, now)
        return best

    def _renewed(self, context: RequestContext, session: Session) -> RenewedToken | None:
        """Return the token that the request has waited for, or one that has been renewed before."""
        if context.renewal is not None and context.renewal.token is not None:
            return context.renewal.token
        return self._renewals.token_of(session) if self._renewals is not None else None

    def _renew(self, context: RequestContext, session: Session, token: VerifiedToken, now: float) -> None:
        """Renew a token that is still good: for a stream, which ends with it, at once. Raises RenewalNeeded."""
        if _is_stream(context):
            raise RenewalNeeded(session)
        if self._renewals is not None and token.expires_at - now <= _renewal_seconds(token):
            self._renewals.begin(session, source_of(context.client))

    def _require_ended(self, context: RequestContext, session: Session, renewed: RenewedToken | None) -> None:
        """Return if a session without a good token has ended. Raises ProblemError or RenewalNeeded otherwise."""
        renewals, renewal = self._renewals, context.renewal
        if renewed is not None and renewals is not None:
            renewals.forget(session)
        if self.verifier.session_revoked(session.id) or (renewals is not None and renewals.has_ended(session)):
            return
        if renewal is None:
            raise RenewalNeeded(session)
        if renewal.token is not None and context.renewals < MAX_RENEWALS and self._is_cut_off(renewal.token):
            raise RenewalNeeded(session)
        raise ProblemError(undecided(renewal.retry_after))

    def _verified(self, presented: Presented, session: Session, rules: RouteRules, now: float) -> VerifiedToken | None:
        """Return a session's token if it is good. Raises UndecidableError."""
        try:
            token = self.verifier.verify(presented, now=now, max_staleness=rules.max_staleness)
        except TokenError:
            return None
        # Without leeway: a service behind this one may have none.
        return token if token.session_id == session.id and token.expires_at > now else None

    def _is_cut_off(self, renewed: RenewedToken) -> bool:
        try:
            self.verifier.verify(renewed.presented, max_staleness=None)
        except Revoked:
            return True
        except TokenError:
            pass
        return False

    def _cookie(self, renewed: RenewedToken, token: VerifiedToken, now: float) -> bytes:
        """Return the value of `Set-Cookie` for a renewed token."""
        assert self.browser is not None  # noqa: S101 - there are sessions
        names = self.browser.names
        max_age = max(1, int(token.expires_at - now)) if renewed.is_persistent else None
        return set_cookie(names.token, renewed.value, max_age, is_secure=names.is_secure)


def is_still_good(verifier: Verifier, context: RequestContext) -> bool:
    """Return whether the token that a request was admitted by would still be accepted, by all that is known now."""
    if context.used is None:
        return True
    try:
        token = verifier.verify(context.used, max_staleness=context.max_staleness)
    except OstiaryError:
        return False
    # As in `_verified`.
    return context.session is None or token.expires_at > time.time()


def credentials_of(context: RequestContext) -> Credentials:
    credentials = context.credentials
    if credentials is None:
        credentials = context.credentials = Credentials(context.request)
    return credentials


def _is_due(context: RequestContext, token: VerifiedToken, now: float) -> bool:
    """Return whether a good token should be renewed."""
    left = token.expires_at - now
    if left <= _renewal_seconds(token):
        return True
    return left < (token.expires_at - token.issued_at) * STREAM_SHARE and _is_stream(context)


def _renewal_seconds(token: VerifiedToken) -> float:
    """Return for how long before its end a token is renewed."""
    seconds = (token.expires_at - token.issued_at) * RENEWAL_SHARE
    return min(MAX_RENEWAL_SECONDS, seconds)


def _is_stream(context: RequestContext) -> bool:
    """Return whether the response to a request will go on until its token ends."""
    return context.is_websocket or b"text/event-stream" in context.request.by_name.get(b"accept", b"").lower()
