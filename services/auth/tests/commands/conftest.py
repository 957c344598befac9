import os

import pytest
from command_line import CommandLine

from ostiary_auth.config import AuthConfig
from ostiary_auth.services import ServiceSecrets


@pytest.fixture
def line(config: AuthConfig, own: ServiceSecrets, monkeypatch: pytest.MonkeyPatch) -> CommandLine:
    for name in [name for name in os.environ if name.startswith("OSTIARY_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("OSTIARY_DATA_DIR", str(config.data_dir))
    if config.database_url is not None:
        monkeypatch.setenv("OSTIARY_AUTH_DATABASE_URL", config.database_url)
    return CommandLine(config, own)
