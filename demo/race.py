"""When does each verifier refuse a token after its owner has logged out? Needs no more than httpx.

Reads JSON from standard input: `token`, `logout` (an address), and `verifiers`, addresses by name at which the token is
good. Prints the milliseconds from the answer of the logout to the first refusal, by name. It runs here, or in a
container of the compose stack, which reaches services that are not published.
"""

import json
import sys
import threading
import time

import httpx

#: Seconds until a verifier must be ready, and must refuse.
READY_SECONDS = 30.0
REFUSED_SECONDS = 30.0

#: Seconds between two tries at one verifier.
PAUSE = 0.001


class Probe(threading.Thread):
    """Tries a token at one verifier until it is refused."""

    def __init__(self, url: str, token: str) -> None:
        """Try at `url`."""
        super().__init__(daemon=True)
        self._url = url
        self._token = token
        self.accepted = threading.Event()
        self.refused_at = float("inf")

    def run(self) -> None:
        """Try until the token is refused, or time is over."""
        deadline = time.monotonic() + READY_SECONDS + REFUSED_SECONDS
        with httpx.Client(trust_env=False, timeout=5, headers={"Authorization": f"Bearer {self._token}"}) as client:
            while time.monotonic() < deadline:
                status = self._try(client)
                if status == httpx.codes.OK:
                    self.accepted.set()
                elif status == httpx.codes.UNAUTHORIZED and self.accepted.is_set():
                    self.refused_at = time.perf_counter()
                    return
                time.sleep(PAUSE)

    def _try(self, client: httpx.Client) -> int:
        try:
            return client.get(self._url).status_code
        except httpx.HTTPError:
            return 0


def race(token: str, logout: str, verifiers: dict[str, str]) -> dict[str, float]:
    """Log out, and return after how many milliseconds each verifier refused the token; infinitely many for never."""
    probes = {name: Probe(url, token) for name, url in verifiers.items()}
    for probe in probes.values():
        probe.start()
    for name, probe in probes.items():
        if not probe.accepted.wait(READY_SECONDS):
            raise SystemExit(f"{name} does not accept the token to begin with")
    answer = httpx.post(logout, headers={"Authorization": f"Bearer {token}"}, trust_env=False, timeout=10)
    answered_at = time.perf_counter()
    answer.raise_for_status()
    for probe in probes.values():
        probe.join(REFUSED_SECONDS)
    return {name: round(max(0.0, probe.refused_at - answered_at) * 1000, 1) for name, probe in probes.items()}


if __name__ == "__main__":
    print(json.dumps(race(**json.load(sys.stdin))))
