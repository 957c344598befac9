"""Shared caches before the gateway: what is one person's never comes out for another (RFC 9111 section 7.3).

The cache is nginx, as careless as people set it up: it keeps whatever it may, errors too, and ignores `Set-Cookie`.
"""

import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from clusters import free_ports, wait_until
from ordinary import nginx
from session_site import HOST, SESSION, Answer, Cookies, Site, cookie, named
from upstreams import listens

NGINX = """\
  proxy_cache_path {directory}/cache keys_zone=shared:1m use_temp_path=off;
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://127.0.0.1:{gateway};
      proxy_set_header Host {host};
      proxy_cache shared;
      proxy_cache_valid any 10m;
      proxy_ignore_headers Set-Cookie;
      add_header X-Cache $upstream_cache_status always;
    }}
  }}
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with Site(tmp_path_factory.mktemp("site")).running() as site, Cached(site, tmp_path_factory.mktemp("nginx")):
        yield site


class Cached:
    """Puts the cache before the gateway."""

    def __init__(self, site: Site, directory: Path) -> None:
        self._site = site
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> None:
        (port,) = free_ports(1)
        http = NGINX.format(directory=self._directory, port=port, gateway=self._site.gateway_port, host=HOST)
        command = nginx(self._directory, http)
        self._process = subprocess.Popen(command)  # noqa: S603 - a program that is installed
        wait_until(lambda: listens(port), "nginx listens")
        self._site.port = port

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait()


@pytest.fixture(scope="module")
def people(site: Site) -> tuple[Cookies, Cookies]:
    return site.person(), site.person()


def view(site: Site, path: str, *pairs: bytes) -> Answer:
    return site.ask(path, cookie(*pairs) if pairs else b"")


def has_token(answer: Answer) -> bool:
    return any("ostiary-" in value for value in answer.all("set-cookie"))


#: What services say of caches, and whether they say that a response is for everybody.
DIRECTIVES = [
    (b"", False),
    (b"Cache-Control: max-age=60\r\n", False),
    (b"Expires: Thu, 01 Jan 2099 00:00:00 GMT\r\n", False),
    (b"Cache-Control: private\r\n", False),
    (b"Cache-Control: max-age=60\r\nVary: Accept\r\n", False),
    (b"Cache-Control: public, max-age=60\r\n", True),
    (b"Cache-Control: s-maxage=60\r\n", True),
]


@pytest.mark.parametrize(("said", "is_for_all"), DIRECTIVES)
@pytest.mark.parametrize("kind", ["private", "optional"])
def test_nobody_gets_what_was_meant_for_another(
    site: Site, people: tuple[Cookies, Cookies], kind: str, said: bytes, is_for_all: bool
) -> None:
    first, second = people
    site.answer_with_caller(name := secrets.token_hex(8), said)
    path = f"/{kind}/{name}"
    # The session's cookie alone, so that a renewed token goes with the response.
    answer = view(site, path, named(SESSION, first.session))
    assert (answer.status, answer.body) == (200, first.user.encode())
    assert has_token(answer) is not is_for_all
    for pairs in ([second.pair], [named(SESSION, second.session)], []):
        answer = view(site, path, *pairs)
        if is_for_all and answer.all("x-cache") == ["HIT"]:
            # The service has said so, wrongly.
            assert not has_token(answer)
            continue
        expected = (200, second.user) if pairs else (200, "nobody") if kind == "optional" else (401, None)
        assert answer.status == expected[0]
        assert expected[1] is None or answer.body == expected[1].encode()


@pytest.mark.parametrize("said", [each for each, is_for_all in DIRECTIVES if not is_for_all])
def test_what_nobody_got_does_not_come_out_for_somebody(
    site: Site, people: tuple[Cookies, Cookies], said: bytes
) -> None:
    person, _ = people
    site.answer_with_caller(name := secrets.token_hex(8), said)
    for kind, expected in (("optional", 200), ("private", 401)):
        path = f"/{kind}/{name}"
        assert view(site, path).status == expected
        answer = view(site, path, person.pair)
        assert (answer.status, answer.body) == (200, person.user.encode())


@pytest.mark.parametrize("said", [each for each, is_for_all in DIRECTIVES if not is_for_all])
def test_what_another_site_has_embedded_does_not_come_out_for_a_page_of_its_own(
    site: Site, people: tuple[Cookies, Cookies], said: bytes
) -> None:
    """The same cookies came along, and did not count."""
    person, _ = people
    site.answer_with_caller(name := secrets.token_hex(8), said)
    for kind, status in (("optional", 200), ("private", 401)):
        path = f"/{kind}/{name}"
        embedded = site.ask(path, b"Sec-Fetch-Site: same-site\r\nCookie: " + person.pair + b"\r\n")
        assert embedded.status == status
        assert person.user.encode() not in embedded.body
        answer = view(site, path, person.pair)
        assert (answer.status, answer.body) == (200, person.user.encode())


def test_a_refusal_does_not_come_out_for_somebody_else(site: Site, people: tuple[Cookies, Cookies]) -> None:
    person, _ = people
    site.answer_with_caller(name := secrets.token_hex(8))
    assert site.ask(f"/private/{name}", cookie(person.pair, person.pair)).status == 400
    assert view(site, f"/private/{name}", person.pair).status == 200


def test_who_is_logged_in_is_asked_each_time(site: Site, people: tuple[Cookies, Cookies]) -> None:
    for pairs, expected in ([people[0].pair], people[0].user), ([people[1].pair], people[1].user), ([], None):
        answer = view(site, "/session", *pairs)
        assert answer.status == 200
        assert expected is None or expected.encode() in answer.body
        assert answer.all("x-cache") != ["HIT"]
