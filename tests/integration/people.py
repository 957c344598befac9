"""People who use a cluster."""

import os
from dataclasses import dataclass

import httpx

PASSWORD = "correct horse battery staple"


@dataclass(frozen=True)
class User:
    """Somebody who has registered and logged in."""

    id: str
    email: str
    tokens: dict[str, str]

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.tokens['access_token']}"}


class People:
    """Registers people at a cluster and logs them in."""

    def __init__(self, client: httpx.Client) -> None:
        self._client = client
        self._count = 0

    def new(self) -> User:
        self._count += 1
        email = f"person-{self._count}-{os.urandom(4).hex()}@example.com"
        account = {"email": email, "password": PASSWORD}
        registered = self._client.post("/auth/register", json=account)
        assert registered.status_code == 201, registered.text
        login = self._client.post("/auth/login", json=account)
        assert login.status_code == 200, login.text
        return User(registered.json()["id"], email, login.json())
