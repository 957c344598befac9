"""`make demo`: the main story against a running cluster, step by step.

Each step prints the request, the response and the time it took, and checks the response. The exit code is 1 if a step
fails. Usage: demo.py [URL OF THE GATEWAY]
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

#: Seconds to wait for a response.
TIMEOUT = 10.0

#: Milliseconds after which no verifier may accept a token of an ended session.
LEASE_MS = 30_000

#: Characters of a token that are shown.
SHOWN = 24

#: Asks for the answer when a revocation is in force.
WAIT = {"Prefer": "wait=5"}

Body = dict[str, object]
Check = Callable[[Body], bool]


class StepFailedError(Exception):
    """A step with an unexpected result."""


@dataclass
class Story:
    """Runs and counts the steps."""

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
        headers: Mapping[str, str] | None = None,
        status: int,
        check: Check = lambda _: True,
    ) -> Body:
        """Send one request and check the response against `status` and `check`. Raises StepFailedError."""
        method, path = request
        fields = {"Authorization": f"Bearer {token}"} if token else {}
        fields |= headers or {}
        self._title(title)
        shown = f" {_show(body)}" if body else ""
        print(f"    -> {method} {path}{_show_fields(fields)}{shown}")
        started_at = time.perf_counter()
        response = self.client.request(method, path, json=body, headers=fields)
        document: Body = response.json() if response.content else {}
        self._result(f"{response.status_code} {_show(document)}", started_at)
        if response.status_code != status:
            raise StepFailedError(f"step {self.count}: status {response.status_code} instead of {status}")
        if not check(document):
            raise StepFailedError(f"step {self.count}: unexpected response body")
        return document

    def local(self, title: str, what: str, action: Callable[[], str]) -> None:
        """Run an action on the client's side."""
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
    """Run the story and return the exit code."""
    port = os.environ.get("OSTIARY_GATEWAY_PORT") or "8080"
    url = sys.argv[1] if len(sys.argv) > 1 else f"http://localhost:{port}"
    print(f"Ostiary's main story, at {url}\n")
    with httpx.Client(base_url=url, timeout=TIMEOUT, trust_env=False) as client:
        story = Story(client)
        try:
            play(story, url)
        except StepFailedError as error:
            print(f"\nFAILED: {error}")
            return 1
        except (httpx.HTTPError, json.JSONDecodeError, jwt.PyJWTError, subprocess.SubprocessError) as error:
            print(f"\nFAILED: step {story.count}: {type(error).__name__}: {error}")
            print(f"Is the cluster running at {url}? Start it with: make run")
            return 1
    print(f"\nAll {story.count} steps passed in {story.total_ms:.0f} ms.")
    return 0


def play(story: Story, url: str) -> None:
    """Run all steps. Raises StepFailedError."""
    account = {"email": f"ada-{secrets.token_hex(4)}@example.com", "password": secrets.token_urlsafe(16)}
    user = story.step("Create an account", ("POST", "/auth/register"), body=account, status=201)
    tokens = story.step("Log in", ("POST", "/auth/login"), body=account, status=200)
    access, refresh = str(tokens["access_token"]), str(tokens["refresh_token"])
    story.local(
        "Verify the token with another library (PyJWT), using only the published metadata",
        f"GET {url}/.well-known/oauth-authorization-server, its jwks_uri, then PyJWT",
        lambda: _verify_with_pyjwt(story.client, url, access, str(user["id"])),
    )
    me = ("GET", "/profiles/me")
    story.step("Read the profile: another service, which verifies the token itself", me, token=access, status=200)
    change = {"display_name": "Ada Lovelace", "bio": "Notes on the Analytical Engine."}
    story.step("Change the profile", ("PATCH", "/profiles/me"), body=change, token=access, status=200)
    bio = change["bio"]
    story.step("Read it again", me, token=access, status=200, check=lambda document: document["bio"] == bio)
    story.step("A request without a token is rejected", me, status=401, check=_code("missing_token"))
    forged = access[:-8] + ("AAAAAAAA" if access[-8:] != "AAAAAAAA" else "BBBBBBBA")
    story.step("A forged token is rejected", me, token=forged, status=401, check=_code("bad_signature"))
    other = ("GET", "/profiles/somebody-else")
    story.step(
        "Another user's profile is forbidden", other, token=access, status=403, check=_code("insufficient_scope")
    )
    body = {"refresh_token": refresh}
    renewed = story.step("Refresh the tokens", ("POST", "/auth/refresh"), body=body, status=200)
    story.step(
        "Refresh again, as if the response was lost: the same successor, and the session continues",
        ("POST", "/auth/refresh"),
        body=body,
        status=200,
        check=lambda document: document["refresh_token"] == renewed["refresh_token"],
    )
    access = str(renewed["access_token"])
    phone = story.step("Log in on another device", ("POST", "/auth/login"), body=account, status=200)
    story.step(
        "List the sessions",
        ("GET", "/auth/sessions"),
        token=access,
        status=200,
        check=lambda document: len(cast("list[object]", document["sessions"])) == 2,  # noqa: PLR2004 - both
    )
    story.step("End the other session", ("DELETE", f"/auth/sessions/{phone['session_id']}"), token=access, status=200)
    title = "Log out and wait until the logout is in force everywhere"
    story.step(title, ("POST", "/auth/logout"), token=access, headers=WAIT, status=200, check=_in_force)
    story.step(
        "Use the access token again: it is rejected long before it expires",
        me,
        token=access,
        status=401,
        check=_code("revoked"),
    )
    body = {"refresh_token": str(renewed["refresh_token"])}
    ended = _code("invalid_refresh_token")
    story.step(
        "Refresh the ended session: it is rejected", ("POST", "/auth/refresh"), body=body, status=401, check=ended
    )
    _browser_session(story, account)
    again = story.step("Log in again", ("POST", "/auth/login"), body=account, status=200)
    with stack.find(url) as found:
        story.local(
            "Log out while every verifier is probed with the token: when does each reject it?",
            f"POST /auth/logout, against {', '.join(found.verifiers)}",
            lambda: _race(found, str(again["access_token"])),
        )


def _browser_session(story: Story, account: Mapping[str, str]) -> None:
    """Play the same with cookies, as a browser does it."""
    me = ("GET", "/profiles/me")
    story.step(
        "Log in as a browser: it gets two HttpOnly cookies, and no script gets a token",
        ("POST", "/session"),
        body=account,
        status=200,
        check=lambda document: "access_token" not in document,
    )
    cookies = {"Cookie": "; ".join(f"{name}={value}" for name, value in story.client.cookies.items())}
    story.step("Read the profile with the cookies", me, headers=cookies, status=200)
    story.step(
        "A page of another site makes the browser send the same: refused",
        ("PATCH", "/profiles/me"),
        headers={**cookies, "Sec-Fetch-Site": "cross-site"},
        body={"bio": "Mallory was here."},
        status=403,
        check=_code("cross_site_request"),
    )
    story.step(
        "Log out in the browser: in force everywhere, too",
        ("DELETE", "/session"),
        headers={**cookies, **WAIT},
        status=200,
        check=_in_force,
    )
    story.step(
        "Use the cookies again: they open nothing any more",
        me,
        headers=cookies,
        status=401,
        check=_code("session_ended"),
    )


def _verify_with_pyjwt(client: httpx.Client, url: str, token: str, subject: str) -> str:
    metadata = client.get("/.well-known/oauth-authorization-server").json()
    if metadata["issuer"] != url:
        raise StepFailedError(f"the issuer is {metadata['issuer']}, not {url}; run the demo with that URL")
    key = jwt.PyJWKClient(metadata["jwks_uri"]).get_signing_key_from_jwt(token)
    claims = jwt.decode(token, key, algorithms=["RS256"], audience="ostiary", issuer=metadata["issuer"])
    if claims["sub"] != subject:
        raise StepFailedError("the token has another subject")
    return f"valid: {_show({name: claims[name] for name in ('iss', 'sub', 'scope', 'roles', 'exp')})}"


def _race(found: stack.Stack, token: str) -> str:
    milliseconds = found.race(token)
    if max(milliseconds.values()) > LEASE_MS:
        raise StepFailedError(f"rejected too late: {milliseconds}")
    listed = ", ".join(f"{name} {after} ms" for name, after in milliseconds.items())
    return f"from the response to the first rejection: {listed}"


def _in_force(document: Body) -> bool:
    return document["revoked"] == 1 and document["complete"] is True


def _code(code: str) -> Check:
    return lambda document: document.get("code") == code


def _show_fields(fields: Mapping[str, str]) -> str:
    """Return header fields without credentials."""
    words = {"Authorization": "(bearer token)", "Cookie": "(cookies)"}
    return "".join(f"  {words.get(name, f'{name}: {value}')}" for name, value in fields.items())


def _show(body: Mapping[str, object]) -> str:
    """Return JSON with tokens shortened and without the password."""
    return json.dumps({name: _cut(name, value) for name, value in body.items()}, ensure_ascii=False)


def _cut(name: str, value: object) -> object:
    if name == "password":
        return "***"
    if name.endswith("_token") and isinstance(value, str):
        return f"{value[:SHOWN]}... ({len(value)} bytes)"
    return value


if __name__ == "__main__":
    sys.exit(main())
