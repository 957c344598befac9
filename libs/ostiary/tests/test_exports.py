import subprocess
import sys

import ostiary


def test_the_public_names_are_these() -> None:
    assert ostiary.__all__ == sorted(ostiary.__all__)
    assert set(ostiary.__all__) == {
        "Feed",
        "InvalidKeySet",
        "KeySet",
        "KeySource",
        "LocalKeys",
        "LocalRevocations",
        "Observer",
        "Presented",
        "RemoteKeys",
        "RevocationSource",
        "Revocations",
        "SyncVerifier",
        "VerifiedToken",
        "Verifier",
        "VerifierConfig",
        "errors",
    }
    assert all(hasattr(ostiary, name) for name in ostiary.__all__)


def test_fastapi_is_only_loaded_by_its_adapter() -> None:
    script = "import sys, ostiary, ostiary.http; sys.exit('fastapi' in sys.modules or 'starlette' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0  # noqa: S603 - our own script
