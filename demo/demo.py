"""`make demo`: the main story against a running cluster, step by step.

Each step shows what was sent, what came back and how long it took, and is held against what the
README promises. The exit code is 1 if a step is not as promised. Usage: demo.py [URL OF THE GATEWAY]
"""

import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import cast

import httpx
import jwt
import stack

#: Seconds to wait for an answer.
TIMEOUT = 10.0

#: Milliseconds after which no verifier may accept a token whose owner has logged out.
LEASE_MS = 30_000

#: Characters of a value shown; tokens are longer.
SHOWN = 24

Body = dict[str, object]
Check = Callable[[Body], bool]


class NotAsPromisedError(Exception):
    """A step that went otherwise."""


@dataclass
class Story:
    """Plays steps and counts them."""

    client: httpx.Client
    count: int = 0
    total_ms: float = field(default=0.0)

    def step(
        self,
        title: str,
        request: tuple[str, str],
        *,
        body: Mapping[str, object] | None = None,
        token: str | None = None,
        prefer: str | None = None,
        status: int,
        check: Check = lambda _: True,
    ) -> Body:
        """Send one request and hold the answer against `status` and `check`. Raises NotAsPromisedError."""
        method, path = request
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        headers |= {"Prefer": prefer} if prefer else {}
        self._title(title)
        shown = f" {_show(body)}" if body else ""
        bearer = "  (bearer token)" if token else ""
        print(f"    -> {method} {path}{bearer}{f'  Prefer: {prefer}' if prefer else ''}{shown}")
        started_at = time.perf_counter()
        response = self.client.request(method, path, json=body, headers=headers)
        answer: Body = response.json() if response.content else {}
        self._result(f"{response.status_code} {_show(answer)}", started_at)
        if response.status_code != status:
            raise NotAsPromisedError(f"step {self.count} answered {response.status_code} and not {status}")
        if not check(answer):
            raise NotAsPromisedError(f"step {self.count} answered something else than promised")
        return answer

    def local(self, title: str, what: str, action: Callable[[], str]) -> None:
        """Do something on this side of the network."""
        self._title(title)
        print(f"    -> {what}")
        started_at = time.perf_counter()
        self._result(action(), started_at)

    def _title(self, title: str) -> None:
        self.count += 1
        print(f"{self.count:2}. {title}")

    def _result(self, result: str, started_at: float) -> None:
        milliseconds = (time.perf_counter() - started_at) * 1000
        self.total_ms += milliseconds
        print(f"    <- {result}  [{milliseconds:.1f} ms]")


def main() -> int:
    """Play the story and return the exit code."""
    port = os.environ.get("OSTIARY_GATEWAY_PORT") or "8080"
    url = sys.argv[1] if len(sys.argv) > 1 else f"http://localhost:{port}"
    print(f"Ostiary's main story, against {url}\n")
    with httpx.Client(base_url=url, timeout=TIMEOUT, trust_env=False) as client:
        story = Story(client)
        try:
            play(story, url)
        except NotAsPromisedError as error:
            print(f"\nNOT AS PROMISED: {error}")
            return 1
        except (httpx.HTTPError, json.JSONDecodeError, jwt.PyJWTError, subprocess.SubprocessError) as error:
            print(f"\nNOT AS PROMISED: step {story.count}: {type(error).__name__}: {error}")
            print(f"Is the cluster running at {url}? Start it with: make run")
            return 1
    print(f"\nAll {story.count} steps went as promised, in {story.total_ms:.0f} ms.")
    return 0


def play(story: Story, url: str) -> None:
    """Play all steps. Raises NotAsPromisedError."""
    account = {"email": f"ada-{secrets.token_hex(4)}@example.com", "password": secrets.token_urlsafe(16)}
    user = story.step("Open an account", ("POST", "/auth/register"), body=account, status=201)
    tokens = story.step("Log in", ("POST", "/auth/login"), body=account, status=200)
    access, refresh = str(tokens["access_token"]), str(tokens["refresh_token"])
    story.local(
        "Verify the token with somebody else's library, from the published metadata alone",
        f"GET {url}/.well-known/oauth-authorization-server, its jwks_uri, then PyJWT",
        lambda: _verify_with_pyjwt(story.client, url, access, str(user["id"])),
    )
    me = ("GET", "/profiles/me")
    story.step("Read one's own profile: another service, which verifies by itself", me, token=access, status=200)
    change = {"display_name": "Ada Lovelace", "bio": "Notes on the Analytical Engine."}
    story.step("Change it", ("PATCH", "/profiles/me"), body=change, token=access, status=200)
    bio = change["bio"]
    story.step("Read it again", me, token=access, status=200, check=lambda answer: answer["bio"] == bio)
    story.step("Nobody gets in without a token", me, status=401, check=_code("missing_token"))
    forged = access[:-8] + ("AAAAAAAA" if access[-8:] != "AAAAAAAA" else "BBBBBBBA")
    story.step("Nor with a forged one", me, token=forged, status=401, check=_code("bad_signature"))
    other = ("GET", "/profiles/somebody-else")
    story.step("Nor to other people's profiles", other, token=access, status=403, check=_code("insufficient_scope"))
    body = {"refresh_token": refresh}
    renewed = story.step("Refresh the tokens", ("POST", "/auth/refresh"), body=body, status=200)
    story.step(
        "Refresh again, as a client does that lost the answer: the same successor, and no alarm",
        ("POST", "/auth/refresh"),
        body=body,
        status=200,
        check=lambda answer: answer["refresh_token"] == renewed["refresh_token"],
    )
    access = str(renewed["access_token"])
    phone = story.step("Log in on another device", ("POST", "/auth/login"), body=account, status=200)
    story.step(
        "See where one is logged in",
        ("GET", "/auth/sessions"),
        token=access,
        status=200,
        check=lambda answer: len(cast("list[object]", answer["sessions"])) == 2,  # noqa: PLR2004 - this one and the other
    )
    story.step("End the other one", ("DELETE", f"/auth/sessions/{phone['session_id']}"), token=access, status=200)
    title = "Log out, and hear when that is in force in every service"
    story.step(title, ("POST", "/auth/logout"), token=access, prefer="wait=5", status=200, check=_in_force)
    story.step(
        "The access token is refused at once, long before it expires",
        me,
        token=access,
        status=401,
        check=_code("revoked"),
    )
    body = {"refresh_token": str(renewed["refresh_token"])}
    ended = _code("invalid_refresh_token")
    story.step("The session cannot be continued", ("POST", "/auth/refresh"), body=body, status=401, check=ended)
    again = story.step("Log in again", ("POST", "/auth/login"), body=account, status=200)
    with stack.find(url) as found:
        story.local(
            "Log out once more, while the token is tried at every verifier all the time: who refuses it when?",
            f"POST /auth/logout, against {', '.join(found.verifiers)}",
            lambda: _race(found, str(again["access_token"])),
        )


def _verify_with_pyjwt(client: httpx.Client, url: str, token: str, subject: str) -> str:
    metadata = client.get("/.well-known/oauth-authorization-server").json()
    if metadata["issuer"] != url:
        raise NotAsPromisedError(f"the issuer is {metadata['issuer']} and not {url}; call it by its name")
    key = jwt.PyJWKClient(metadata["jwks_uri"]).get_signing_key_from_jwt(token)
    claims = jwt.decode(token, key, algorithms=["RS256"], audience="ostiary", issuer=metadata["issuer"])
    if claims["sub"] != subject:
        raise NotAsPromisedError("the token names somebody else")
    return f"a good token: {_show({name: claims[name] for name in ('iss', 'sub', 'scope', 'roles', 'exp')})}"


def _race(found: stack.Stack, token: str) -> str:
    milliseconds = found.race(token)
    if max(milliseconds.values()) > LEASE_MS:
        raise NotAsPromisedError(f"refused too late: {milliseconds}")
    listed = ", ".join(f"{name} {after} ms" for name, after in milliseconds.items())
    return f"after the answer, the first refusal: {listed}"


def _in_force(answer: Body) -> bool:
    return answer["revoked"] == 1 and answer["complete"] is True


def _code(code: str) -> Check:
    return lambda answer: answer.get("code") == code


def _show(body: Mapping[str, object]) -> str:
    """Return JSON with long values cut, as tokens are, and without the password."""
    return json.dumps({name: _cut(name, value) for name, value in body.items()}, ensure_ascii=False)


def _cut(name: str, value: object) -> object:
    if name == "password":
        return "***"
    if name.endswith("_token") and isinstance(value, str):
        return f"{value[:SHOWN]}... ({len(value)} bytes)"
    return value


if __name__ == "__main__":
    sys.exit(main())
