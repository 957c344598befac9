"""Measure when each verifier rejects a token after its user has logged out. Needs only httpx.

Reads JSON from standard input: `token`, `logout` (a URL), and `verifiers` (URLs by name at which the token is valid).
Prints the milliseconds from the logout's response to the first rejection, by name. It runs locally, or in a container
of the compose stack, from where services are reachable that are not published.
"""

import json
import sys
import threading
import time

import httpx

#: Seconds until a verifier must accept the token, and until it must reject it.
READY_SECONDS = 30.0
REJECTED_SECONDS = 30.0

#: Seconds between two requests to one verifier.
PAUSE = 0.001


class Probe(threading.Thread):
    """Sends a token to one verifier until it is rejected."""

    def __init__(self, url: str, token: str) -> None:
        super().__init__(daemon=True)
        self._url = url
        self._token = token
        self.accepted = threading.Event()
        self.rejected_at = float("inf")

    def run(self) -> None:
        deadline = time.monotonic() + READY_SECONDS + REJECTED_SECONDS
        # Any gateway knows this host, by whatever address it is reached.
        headers = {"Host": "localhost", "Authorization": f"Bearer {self._token}"}
        with httpx.Client(trust_env=False, timeout=5, headers=headers) as client:
            while time.monotonic() < deadline:
                status = self._try(client)
                if status == httpx.codes.OK:
                    self.accepted.set()
                elif status == httpx.codes.UNAUTHORIZED and self.accepted.is_set():
                    self.rejected_at = time.perf_counter()
                    return
                time.sleep(PAUSE)

    def _try(self, client: httpx.Client) -> int:
        try:
            return client.get(self._url).status_code
        except httpx.HTTPError:
            return 0


def race(token: str, logout: str, verifiers: dict[str, str]) -> dict[str, float]:
    """Log out, and return after how many milliseconds each verifier rejected the token; infinity for never."""
    probes = {name: Probe(url, token) for name, url in verifiers.items()}
    for probe in probes.values():
        probe.start()
    for name, probe in probes.items():
        if not probe.accepted.wait(READY_SECONDS):
            raise SystemExit(f"{name} does not accept the token before the logout")
    response = httpx.post(logout, headers={"Authorization": f"Bearer {token}"}, trust_env=False, timeout=10)
    responded_at = time.perf_counter()
    response.raise_for_status()
    for probe in probes.values():
        probe.join(REJECTED_SECONDS)
    return {name: round(max(0.0, probe.rejected_at - responded_at) * 1000, 1) for name, probe in probes.items()}


if __name__ == "__main__":
    print(json.dumps(race(**json.load(sys.stdin))))
