"""Make the secrets of the compose stack: a file each, random, once. Usage: make_secrets.py DIRECTORY.

The directory is for its owner only. The files in it can be read by all, because in the containers
other users must read them: compose mounts a file with the mode that it has.
"""

import base64
import os
import secrets
import sys
from pathlib import Path

#: Bytes of randomness in each.
SECRET_BYTES = 32

#: The key-encryption key of the auth service is base64, the passwords are hexadecimal.
KEY = "auth-kek"
PASSWORDS = ("postgres-password", "auth-db-password", "profile-db-password", "feed-secret")


def main() -> None:
    """Make what is not there yet; what is there stays, as the databases know it."""
    directory = Path(sys.argv[1])
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    directory.chmod(0o700)
    _write(directory / KEY, base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode())
    for name in PASSWORDS:
        _write(directory / name, secrets.token_hex(SECRET_BYTES))


def _write(path: Path, secret: str) -> None:
    if path.exists():
        return
    draft = path.with_suffix(".new")
    with draft.open("w", encoding="ascii") as file:
        file.write(f"{secret}\n")
        file.flush()
        os.fsync(file.fileno())
    draft.chmod(0o444)
    draft.replace(path)


if __name__ == "__main__":
    main()
