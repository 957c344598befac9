"""Sessions go on while replicas of the auth service are restarted in turn, or killed: only answers are lost."""

import asyncio
import itertools
import signal
from collections.abc import Iterator
from contextlib import suppress
from functools import partial

import httpx
import pytest
from clusters import NO_TLS, LocalCluster, client_of, is_ready, wait_until
from databases import PostgresServer, replicas
from people import PASSWORD

pytestmark = pytest.mark.serial

#: Clients, each with a session of its own.
CLIENTS = 20

#: Seconds that a client waits for an answer, and before it asks again if it got none: as a load balancer's client does.
ANSWER_SECONDS = 5.0
RETRY_SECONDS = 0.1

#: Seconds between two refreshes of a client: far more often than tokens expire.
PAUSE_SECONDS = 1.0

#: One in so many answers gets lost on its way.
LOSS = 3

ROUTES = """\
upstreams:
  auth: {{urls: ["{first}", "{second}"]}}
routes:
  - {{name: auth, match: {{path: "/auth/{{rest...}}", methods: [POST]}}, upstream: auth, access: public}}
"""


class Refreshing:
    """A client that refreshes again and again, and asks the next address with the same token if it gets no answer."""

    def __init__(self, token: str, urls: list[str]) -> None:
        self.token = token
        self.answered = 0
        self.unanswered = 0
        self.refusal: str | None = None
        self._urls = itertools.cycle(urls)

    async def go_on(self, client: httpx.AsyncClient, is_over: asyncio.Event) -> None:
        while not is_over.is_set() and self.refusal is None:
            await self.refresh(client)
            await asyncio.sleep(PAUSE_SECONDS)

    async def refresh(self, client: httpx.AsyncClient) -> None:
        while self.refusal is None:
            with suppress(httpx.TransportError):
                response = await client.post(f"{next(self._urls)}/auth/refresh", json={"refresh_token": self.token})
                self.answered += 1
                if response.is_client_error:
                    self.refusal = response.text
                elif response.is_success and self.answered % LOSS:
                    self.token = response.json()["refresh_token"]
                    return
            self.unanswered += 1
            await asyncio.sleep(RETRY_SECONDS)


@pytest.fixture(scope="module")
def pair(
    postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[LocalCluster, LocalCluster]]:
    """Two auth services on one database. The gateway of the first distributes requests over both."""
    directory = tmp_path_factory.mktemp("restarts")
    routes = directory / "gateway.yaml"
    first = LocalCluster(directory / "first", OSTIARY_GATEWAY_ROUTES=str(routes))
    second = LocalCluster(directory / "second")
    routes.write_text(ROUTES.format(first=first.urls["auth"], second=second.urls["auth"]))
    with replicas(postgres_server, first, second):
        first.start("auth")
        second.start("auth", wait=False)
        first.start("gateway", wait=False)
        for url in (second.operations["auth"], first.operations["gateway"]):
            wait_until(partial(is_ready, url), "it is ready")
        yield first, second


def refresh_tokens(url: str) -> list[str]:
    """Return the tokens of as many sessions as there are clients, of one user."""
    account = {"email": "ada@example.com", "password": PASSWORD}
    with client_of(url) as client:
        assert client.post("/auth/register", json=account).status_code == 201
        return [client.post("/auth/login", json=account).json()["refresh_token"] for _ in range(CLIENTS)]


def restart(member: LocalCluster, number: signal.Signals) -> None:
    member.signal("auth", number)
    member.start("auth")


async def restart_while_refreshing(first: LocalCluster, second: LocalCluster, clients: list[Refreshing]) -> None:
    """Restart the replicas in turn; then kill and start them in turn."""
    is_over = asyncio.Event()
    limits = httpx.Limits(max_connections=None)
    async with (
        httpx.AsyncClient(timeout=ANSWER_SECONDS, trust_env=False, verify=NO_TLS, limits=limits) as client,
        asyncio.TaskGroup() as tasks,
    ):
        for each in clients:
            tasks.create_task(each.go_on(client, is_over))
        for number in (signal.SIGTERM, signal.SIGKILL):
            for member in (first, second):
                await asyncio.to_thread(restart, member, number)
        is_over.set()


@pytest.mark.docker
def test_no_session_is_lost(pair: tuple[LocalCluster, LocalCluster]) -> None:
    first, second = pair
    in_turn = [first.urls["auth"], second.urls["auth"]]
    ways = itertools.cycle([in_turn, in_turn[::-1], [first.urls["gateway"]]])
    clients = [Refreshing(token, urls) for token, urls in zip(refresh_tokens(in_turn[0]), ways, strict=False)]
    asyncio.run(restart_while_refreshing(first, second, clients))
    assert [each.refusal for each in clients if each.refusal] == []
    assert min(each.answered for each in clients) > LOSS
    assert sum(each.unanswered for each in clients) > 0
    for member in pair:
        assert "refresh_token.replayed" not in member.log("auth")
