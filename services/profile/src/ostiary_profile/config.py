"""The settings of the profile service."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from ostiary import VerifierConfig
from ostiary_chassis.drain import DEFAULT_DELAY, DEFAULT_TIMEOUT, Drain, DrainDelay, DrainTimeout
from ostiary_chassis.logs import LogFormat
from ostiary_chassis.settings import Port, Settings
from ostiary_chassis.sql import DatabaseAddress, DatabaseUrl
from ostiary_chassis.urls import BaseUrl, BaseUrls
from ostiary_chassis.verifying import DEFAULT_MAX_STALENESS, MaxStaleness, issuer_config


class ProfileConfig(Settings):
    """The settings of the profile service."""

    host: Annotated[str, Field(alias="OSTIARY_PROFILE_HOST")] = "127.0.0.1"
    port: Annotated[Port, Field(alias="OSTIARY_PROFILE_PORT")] = 8082
    drain_delay: Annotated[DrainDelay, Field(alias="OSTIARY_PROFILE_DRAIN_DELAY")] = DEFAULT_DELAY
    drain_timeout: Annotated[DrainTimeout, Field(alias="OSTIARY_PROFILE_DRAIN_TIMEOUT")] = DEFAULT_TIMEOUT
    issuer: Annotated[BaseUrl, Field(alias="OSTIARY_ISSUER")] = "http://localhost:8080"
    audience: Annotated[str, Field(alias="OSTIARY_AUDIENCE", min_length=1)] = "ostiary"
    auth_urls: Annotated[BaseUrls, Field(alias="OSTIARY_AUTH_URL")] = ("http://127.0.0.1:8081",)
    data_dir: Annotated[Path, Field(alias="OSTIARY_DATA_DIR")] = Path(".data")
    database_url: Annotated[DatabaseUrl | None, Field(alias="OSTIARY_PROFILE_DATABASE_URL", repr=False)] = None
    database_password_file: Annotated[Path | None, Field(alias="OSTIARY_PROFILE_DATABASE_PASSWORD_FILE")] = None
    feed_secret_file: Annotated[Path | None, Field(alias="OSTIARY_FEED_SECRET_FILE")] = None
    max_staleness: Annotated[MaxStaleness, Field(alias="OSTIARY_MAX_STALENESS")] = DEFAULT_MAX_STALENESS
    log_format: Annotated[LogFormat, Field(alias="OSTIARY_LOG_FORMAT")] = "text"

    @property
    def drain(self) -> Drain:
        return Drain(self.drain_delay, self.drain_timeout)

    @property
    def feed_secret_path(self) -> Path:
        """The file with the feed client's secret, which the auth service creates."""
        return self.feed_secret_file or self.data_dir / "feed-secret"

    def issuer_config(self) -> VerifierConfig:
        """Return the configuration of the issuer, with the sources of its keys and revocations."""
        return issuer_config(self.issuer, self.audience, self.auth_urls, self.feed_secret_path, "profile")

    def database(self) -> DatabaseAddress:
        if self.database_url is None:
            return DatabaseAddress.of_file("profile", self.data_dir / "profile.db")
        return DatabaseAddress.of("profile", self.database_url, self.database_password_file)
