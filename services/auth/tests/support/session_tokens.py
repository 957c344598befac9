"""Tokens of a user who has logged in."""

from typing import Any

ADA = {"email": "ada@example.com", "password": "correct horse battery staple"}


def bearer(tokens: dict[str, Any]) -> dict[str, str]:
    return {"Authorization": f"Bearer {tokens['access_token']}"}
