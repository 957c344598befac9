import base64
from pathlib import Path

import pytest

from ostiary_gateway.sessions.gateway_secret import GatewaySecret


def test_the_secret_is_that_of_the_gateways_client(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("s3:cret\n")
    expected = b"Basic " + base64.b64encode(b"ostiary-gateways:s3:cret")
    assert GatewaySecret(tmp_path / "secret").authorization() == expected


def test_the_file_may_come_later_and_is_read_again_when_it_has_changed(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    secret = GatewaySecret(file)
    with pytest.raises(OSError, match="No such file"):
        secret.authorization()
    file.write_text("")
    with pytest.raises(ValueError, match="empty"):
        secret.authorization()
    file.write_text("one")
    first = secret.authorization()
    file.write_text("two")
    assert secret.authorization() == first
    secret.forget()
    assert secret.authorization() != first
