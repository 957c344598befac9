"""Create the secrets of the compose stack: one file each, random, once. Usage: make_secrets.py DIRECTORY.

Only the owner can enter the directory. The files are readable by all, because compose mounts them with their mode and
containers run as other users.
"""

import base64
import os
import secrets
import sys
from pathlib import Path

#: Random bytes per secret.
SECRET_BYTES = 32

#: The key-encryption key of the auth service is base64, the passwords are hexadecimal.
KEY = "auth-kek"
PASSWORDS = ("postgres-password", "auth-db-password", "profile-db-password", "feed-secret", "gateway-secret")


def main() -> None:
    """Create missing secrets. Existing ones stay, because the databases depend on them."""
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
