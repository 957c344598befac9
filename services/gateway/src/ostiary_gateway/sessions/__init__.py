"""Browser sessions: how their access tokens are renewed at the auth service."""
