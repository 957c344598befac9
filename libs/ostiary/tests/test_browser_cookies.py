"""Services that browsers talk to themselves: FastAPI and any ASGI application take the cookies of a session."""

from typing import Annotated, Any

import httpx
import pytest
from fastapi import Depends, FastAPI, Response
from fastapi.responses import PlainTextResponse

from ostiary import VerifiedToken
from ostiary.asgi import TOKEN, BearerAuth, EndWithToken, Receive, Scope, Send
from ostiary.browser import BrowserCookies, cookie_names
from ostiary.fastapi import Auth
from ostiary.feed import Kind
from ostiary.testing import Issuer

SID = "6f1d1c2e-58f4-4a4e-9d55-3b1a8f4b7c11"
OWN_PAGE = {"Sec-Fetch-Site": "same-origin"}

Fields = list[tuple[str, str]]


@pytest.fixture(scope="session")
def origin_issuer() -> Issuer:
    return Issuer("https://app.example")


def browser_cookies() -> BrowserCookies:
    return BrowserCookies("https://app.example", trusted_origins=["https://admin.app.example"])


def fastapi_service(issuer: Issuer) -> FastAPI:
    auth = Auth(issuer.verifier(), cookies=browser_cookies())
    app = FastAPI(lifespan=auth.lifespan, exception_handlers=auth.exception_handlers)
    caller = Annotated[VerifiedToken, Depends(auth.require(scopes=["a"]))]

    @app.get("/", response_class=PlainTextResponse)
    @app.post("/", response_class=PlainTextResponse)
    @app.put("/", response_class=PlainTextResponse)
    async def me(token: caller) -> str:
        return token.subject

    @app.get("/raw")
    async def raw(token: caller) -> Response:
        return Response(token.subject, headers={"Cache-Control": "max-age=60"})

    return app


async def subject(scope: Scope, _receive: Receive, send: Send) -> None:
    body = scope[TOKEN].subject.encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"vary", b"Accept")]})
    await send({"type": "http.response.body", "body": body})


@pytest.fixture(params=["fastapi", "asgi"])
def client(request: pytest.FixtureRequest, origin_issuer: Issuer) -> httpx.AsyncClient:
    if request.param == "fastapi":
        app: Any = fastapi_service(origin_issuer)
    else:
        app = BearerAuth(subject, origin_issuer.verifier(), scopes=["a"], cookies=browser_cookies())
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="https://app.example")


def cookie_field(cookies: dict[str, str]) -> str:
    return "; ".join(f"{name}={value}" for name, value in cookies.items())


@pytest.fixture
def cookie(origin_issuer: Issuer) -> str:
    return cookie_field(origin_issuer.cookies(subject="u1", scopes=["a"]))


async def test_a_page_of_its_own_is_served_by_its_cookies(client: httpx.AsyncClient, cookie: str) -> None:
    for method in ("GET", "POST", "PUT"):
        response = await client.request(method, "/", headers={"Cookie": f"theme=dark; {cookie}", **OWN_PAGE})
        assert (response.status_code, response.text) == (200, "u1")
        assert response.headers["Cache-Control"] == "private"
        assert "Cookie" in response.headers["Vary"]


@pytest.mark.parametrize(
    ("method", "fields"),
    [
        ("POST", {"Sec-Fetch-Site": "cross-site"}),
        ("POST", {"Sec-Fetch-Site": "same-site", "Origin": "https://other.app.example"}),
        ("PUT", {"Origin": "https://evil.example"}),
        ("PUT", {"Origin": "null"}),
        ("POST", {"Origin": "https://app.example:8443"}),
        ("POST", {"Sec-Fetch-Site": "same-origin, cross-site"}),
        ("POST", {"Content-Type": "text/plain"}),
        ("POST", {}),
    ],
)
async def test_what_another_site_sends_is_refused(
    client: httpx.AsyncClient, cookie: str, method: str, fields: dict[str, str]
) -> None:
    response = await client.request(method, "/", headers={"Cookie": cookie, **fields})
    assert (response.status_code, response.json()["code"]) == (403, "cross_site_request")
    assert "WWW-Authenticate" not in response.headers


async def test_repeated_fetch_metadata_is_that_of_no_browser(client: httpx.AsyncClient, cookie: str) -> None:
    fields = [("Cookie", cookie), ("Sec-Fetch-Site", "same-origin"), ("Sec-Fetch-Site", "cross-site")]
    for each in (fields, fields[:1] + fields[:0:-1]):
        assert (await client.post("/", headers=each)).status_code == 403


async def test_what_another_site_embeds_is_read_without_the_session(client: httpx.AsyncClient, cookie: str) -> None:
    response = await client.get("/", headers={"Cookie": cookie, "Sec-Fetch-Site": "same-site"})
    assert (response.status_code, response.json()["code"]) == (401, "missing_token")


async def test_links_and_trusted_pages_lead_into_the_session(client: httpx.AsyncClient, cookie: str) -> None:
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    trusted = {"Sec-Fetch-Site": "same-site", "Origin": "https://admin.app.example"}
    assert (await client.get("/", headers={"Cookie": cookie, **link})).text == "u1"
    assert (await client.post("/", headers={"Cookie": cookie, **trusted})).text == "u1"


async def test_a_bearer_wins(client: httpx.AsyncClient, origin_issuer: Issuer, cookie: str) -> None:
    bearer = f"Bearer {origin_issuer.token(subject='u2', scopes=['a'])}"
    fields: Fields = [("Cookie", cookie), ("Cookie", cookie), ("Sec-Fetch-Site", "cross-site")]
    response = await client.post("/", headers=[*fields, ("Authorization", bearer)])
    assert (response.status_code, response.text) == (200, "u2")
    assert "Vary" not in response.headers or "Cookie" not in response.headers["Vary"]


@pytest.mark.parametrize("value", ["Bearer", "bearer ", "Bearer x", "BEARER\tx", " Bearer x.y.z"])
async def test_a_bad_bearer_does_not_fall_back_to_cookies(client: httpx.AsyncClient, cookie: str, value: str) -> None:
    fields = {"Cookie": cookie, "Authorization": value, **OWN_PAGE}
    assert (await client.get("/", headers=fields)).status_code == 401


@pytest.mark.parametrize("value", ["Basic dTpw", "Bearers x", "Digest bearer x"])
async def test_other_schemes_do_not_matter(client: httpx.AsyncClient, cookie: str, value: str) -> None:
    fields = {"Cookie": cookie, "Authorization": value, **OWN_PAGE}
    assert (await client.get("/", headers=fields)).text == "u1"


async def test_a_cookie_that_came_twice_is_refused(client: httpx.AsyncClient, cookie: str) -> None:
    response = await client.get("/", headers={"Cookie": f"{cookie}; {cookie}", **OWN_PAGE})
    assert (response.status_code, response.json()["code"]) == (400, "repeated_cookie")


async def test_a_token_counts_only_beside_its_own_session(client: httpx.AsyncClient, origin_issuer: Issuer) -> None:
    names = cookie_names(origin_issuer.issuer)
    mine, others = (origin_issuer.cookies(subject=who, scopes=["a"]) for who in ("u1", "u2"))
    (session, token), (_, other) = mine.items(), others.items()
    assert session[0] == names.session.decode()
    for pairs in (
        [token],
        [session],
        [session, other],
        [(session[0], "x"), token],
        [(session[0].lower(), session[1]), token],
    ):
        response = await client.get("/", headers={"Cookie": cookie_field(dict(pairs)), **OWN_PAGE})
        assert (response.status_code, response.json()["code"]) == (401, "missing_token")


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"exp": 1}, "expired"),
        ({"aud": "other"}, "wrong_audience"),
        ({"scope": "b"}, "insufficient_scope"),
        ({"sid": Issuer.REMOVED}, "missing_token"),
    ],
)
async def test_its_token_is_verified(
    client: httpx.AsyncClient, origin_issuer: Issuer, changes: dict[str, object], code: str
) -> None:
    token = origin_issuer.token(scopes=["a"], claims={"sid": SID, **changes})
    cookie = f"__Host-ostiary-session={SID}.{'s' * 43}; __Host-ostiary-token={token}"
    response = await client.get("/", headers={"Cookie": cookie, **OWN_PAGE})
    assert response.json()["code"] == code


async def test_an_ended_session_is_refused(client: httpx.AsyncClient, origin_issuer: Issuer) -> None:
    ended = "00000000-0000-4000-8000-000000000000"
    cookies = origin_issuer.cookies(scopes=["a"], claims={"sid": ended})
    origin_issuer.revoke(Kind.SESSION, ended)
    response = await client.get("/", headers={"Cookie": cookie_field(cookies), **OWN_PAGE})
    assert (response.status_code, response.json()["code"]) == (401, "revoked")


@pytest.mark.parametrize("app_of", ["fastapi", "asgi"])
async def test_cookies_are_only_taken_where_they_are_asked_for(origin_issuer: Issuer, cookie: str, app_of: str) -> None:
    if app_of == "fastapi":
        auth = Auth(origin_issuer.verifier())
        app: Any = FastAPI(dependencies=[Depends(auth.require())], exception_handlers=auth.exception_handlers)
        app.get("/")(lambda: "x")
    else:
        app = BearerAuth(subject, origin_issuer.verifier())
    client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="https://app.example")
    assert (await client.get("/", headers={"Cookie": cookie, **OWN_PAGE})).json()["code"] == "missing_token"


class TestHandshakes:
    async def closed_with(self, issuer: Issuer, fields: list[tuple[bytes, bytes]]) -> str | None:
        async def accept(_scope: Scope, _receive: Receive, send: Send) -> None:
            await send({"type": "websocket.accept"})

        async def receive() -> dict[str, Any]:
            return {"type": "websocket.connect"}

        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        app = BearerAuth(accept, issuer.verifier(), cookies=browser_cookies())
        await app({"type": "websocket", "path": "/", "headers": fields}, receive, send)
        reason: str | None = sent[-1].get("reason")
        return reason

    async def test_pages_of_its_own_may_connect(self, origin_issuer: Issuer, cookie: str) -> None:
        fields = [(b"cookie", cookie.encode()), (b"origin", b"https://app.example")]
        assert await self.closed_with(origin_issuer, fields) is None

    async def test_pages_of_others_may_not(self, origin_issuer: Issuer, cookie: str) -> None:
        for origin in (b"https://evil.example", b"null", b"https://other.app.example"):
            fields = [(b"cookie", cookie.encode()), (b"origin", origin)]
            assert await self.closed_with(origin_issuer, fields) == "cross_site_request"


class TestCaches:
    @pytest.fixture
    def guarded(self, origin_issuer: Issuer) -> httpx.AsyncClient:
        verifier = origin_issuer.verifier()
        app = EndWithToken(fastapi_service(origin_issuer), verifier)
        return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="https://app.example")

    async def test_what_a_route_says_itself_is_private_too(self, guarded: httpx.AsyncClient, cookie: str) -> None:
        response = await guarded.get("/raw", headers={"Cookie": cookie, **OWN_PAGE})
        assert response.headers.get_list("Cache-Control") == ["max-age=60", "private"]
        assert response.headers["Vary"] == "Cookie"

    async def test_it_is_said_once(self, guarded: httpx.AsyncClient, cookie: str) -> None:
        response = await guarded.get("/", headers={"Cookie": cookie, **OWN_PAGE})
        assert response.headers.get_list("Cache-Control") == ["private"]
        assert response.headers.get_list("Vary") == ["Cookie"]

    @pytest.mark.parametrize("said", [b"public", b"Public, max-age=1", b"s-maxage=60", b"no-store", b'private="x"'])
    async def test_what_the_service_says_counts(self, origin_issuer: Issuer, cookie: str, said: bytes) -> None:
        async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
            headers = [(b"Cache-Control", said), (b"Vary", b"*")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": b""})

        guarded = BearerAuth(app, origin_issuer.verifier(), cookies=browser_cookies())
        client = httpx.AsyncClient(transport=httpx.ASGITransport(guarded), base_url="https://app.example")
        response = await client.get("/", headers={"Cookie": cookie, **OWN_PAGE})
        assert response.headers.get_list("Cache-Control") == [said.decode()]
        assert response.headers.get_list("Vary") == ["*"]


async def test_openapi_documents_the_cookie(origin_issuer: Issuer) -> None:
    app = fastapi_service(origin_issuer)
    async with app.router.lifespan_context(app):
        document = app.openapi()
    scheme = document["components"]["securitySchemes"]["cookie"]
    assert (scheme["type"], scheme["in"], scheme["name"]) == ("apiKey", "cookie", "__Host-ostiary-session")
    operation = document["paths"]["/"]["get"]
    assert operation["security"] == [{"bearer": ["a"]}, {"cookie": ["a"]}]
    assert operation["responses"].keys() == {"200", "401", "403", "503"}


class TestTheIssuerForTests:
    def test_both_cookies_are_of_one_session(self) -> None:
        issuer = Issuer("http://localhost:8080")
        cookies = issuer.cookies(claims={"sid": SID})
        assert cookies.keys() == {"ostiary-session-8080", "ostiary-token-8080"}
        assert issuer.verifier().verify(cookies["ostiary-token-8080"]).session_id == SID
        assert cookies["ostiary-session-8080"].startswith(f"{SID}.")

    def test_each_session_is_another(self) -> None:
        issuer = Issuer()
        assert issuer.cookies() != issuer.cookies()
