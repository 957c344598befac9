"""The secret by which the auth service knows this gateway."""

import base64
from pathlib import Path

from ostiary_chassis.client_ids import GATEWAYS_CLIENT_ID


class GatewaySecret:
    """The file with the secret. It is read when it is needed: the auth service may create it later, or replace it."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._authorization = b""

    def authorization(self) -> bytes:
        """Return the value of `Authorization` (RFC 7617). Raises OSError or ValueError if the file has no secret."""
        if not self._authorization:
            # Some bytes of a local file, once.
            secret = self._file.read_text(encoding="utf-8").rstrip("\r\n")
            if not secret:
                raise ValueError("the file is empty")
            self._authorization = b"Basic " + base64.b64encode(f"{GATEWAYS_CLIENT_ID}:{secret}".encode())
        return self._authorization

    def forget(self) -> None:
        """Read the file again when the secret is needed next: the auth service does not accept it."""
        self._authorization = b""
