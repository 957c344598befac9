"""What it costs to verify an access token: ours and others', in turn in one run.

The same token, the same key held in memory, signature and claims checked. The figures of one round
are medians of single calls; rounds go around all verifiers, so that a noisy moment hits all alike.
Results are printed and written to `bench/results/`.
"""

import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import jwt
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256
from joserfc import jwt as joserfc_jwt
from joserfc.jwk import RSAKey

from ostiary import _base64url
from ostiary.testing import Issuer

ROUNDS = 15
CALLS = 400
BASE = "cryptography, signature only"
LIBRARIES = ("ostiary", "cryptography", "pyjwt", "joserfc")


def contenders() -> dict[str, Callable[[], object]]:
    """Return what is measured, by name."""
    issuer = Issuer()
    token = issuer.token(scopes=["profile:read", "profile:write"], roles=["user"])
    public_key = issuer.private_key.public_key()
    signing_input, _, encoded_signature = token.encode().rpartition(b".")
    signature = _base64url.decode(encoded_signature)
    padding, digest = PKCS1v15(), SHA256()
    verifier = issuer.verifier()
    joserfc_key = RSAKey.import_key(public_key)
    registry = joserfc_jwt.JWTClaimsRegistry(
        iss={"essential": True, "value": issuer.issuer},
        aud={"essential": True, "value": issuer.audience},
        exp={"essential": True},
    )

    def with_joserfc() -> None:
        registry.validate(joserfc_jwt.decode(token, joserfc_key, algorithms=["RS256"]).claims)

    def with_pyjwt() -> None:
        jwt.decode(token, public_key, algorithms=["RS256"], audience=issuer.audience, issuer=issuer.issuer)

    return {
        BASE: lambda: public_key.verify(signature, signing_input, padding, digest),
        "ostiary": lambda: verifier.verify(token),
        "PyJWT": with_pyjwt,
        "joserfc": with_joserfc,
    }


def measure(calls: dict[str, Callable[[], object]]) -> dict[str, list[float]]:
    """Return the median microseconds of each round, by name."""
    rounds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(ROUNDS):
        for name, call in calls.items():
            rounds[name].append(statistics.median(_microseconds(call) for _ in range(CALLS)))
    return rounds


def _microseconds(call: Callable[[], object]) -> float:
    started_at = time.perf_counter_ns()
    call()
    return (time.perf_counter_ns() - started_at) / 1000


def main() -> None:
    """Measure, print and store."""
    rounds = measure(contenders())
    base = statistics.median(rounds[BASE])
    rows = [
        {
            "what": name,
            "median_us": round(statistics.median(values), 1),
            "lowest_us": round(min(values), 1),
            "highest_us": round(max(values), 1),
            "ratio_to_signature_only": round(statistics.median(values) / base, 2),
        }
        for name, values in rounds.items()
    ]
    print(f"First sight of an RS256-2048 access token; {ROUNDS} rounds of {CALLS} calls, microseconds")
    print(f"{'':32}{'median':>9}{'lowest':>9}{'highest':>9}{'ratio':>8}")
    for row in rows:
        figures = f"{row['median_us']:>9}{row['lowest_us']:>9}{row['highest_us']:>9}{row['ratio_to_signature_only']:>8}"
        print(f"{row['what']:32}{figures}")
    result = {
        "date": datetime.now(UTC).date().isoformat(),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "versions": {name: version(name) for name in LIBRARIES},
        "rows": rows,
    }
    path = Path(__file__).parent / "results" / "verify.json"
    path.write_text(json.dumps(result, indent=2) + "\n")
    print(f"Written to {path.relative_to(Path(__file__).parents[1])}", file=sys.stderr)


if __name__ == "__main__":
    main()
