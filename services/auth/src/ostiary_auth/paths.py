"""Paths that other parts of the service refer to."""

TOKEN_PATH = "/oauth/token"  # noqa: S105 - a path
REVOKE_PATH = "/oauth/revoke"
INTROSPECT_PATH = "/oauth/introspect"
FEED_PATH = "/feed"
EXCHANGE_PATH = "/sessions/exchange"
SESSION_PATH = "/session"
SESSION_END_PATH = "/session/end"
