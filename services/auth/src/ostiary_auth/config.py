"""The settings of the auth service."""

import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from ostiary.browser import CookieNames, cookie_names
from ostiary_chassis.drain import DEFAULT_DELAY, DEFAULT_TIMEOUT, Drain, DrainDelay, DrainTimeout
from ostiary_chassis.logs import LogFormat
from ostiary_chassis.origins import check_trusted
from ostiary_chassis.proxies import Networks
from ostiary_chassis.settings import Port, Settings
from ostiary_chassis.sql import DatabaseAddress, DatabaseUrl
from ostiary_chassis.urls import BaseUrl

_DAY = 24 * 3600

# RFC 1123 section 2.1.
_DOMAIN = re.compile(r"(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)*[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\Z")

#: Seconds. Revocations are kept for that long, whatever the current setting is, as it may have been larger before.
MAX_ACCESS_TOKEN_TTL = 3600


def _origins(value: object) -> object:
    """Parse origins separated by commas."""
    if not isinstance(value, str):
        return value
    return tuple(check_trusted(origin.strip()) for origin in value.split(",") if origin.strip())


def _domains(value: object) -> object:
    """Parse domains separated by commas, with or without a dot before each."""
    if not isinstance(value, str):
        return value
    domains = tuple(domain.strip().lower().removeprefix(".") for domain in value.split(",") if domain.strip())
    for domain in domains:
        if _DOMAIN.match(domain) is None:
            raise ValueError("must be domains separated by commas, such as local,home.arpa")
    return domains


def _integer(value: object) -> object:
    """Convert a number for a comparison with literals."""
    return int(value) if isinstance(value, str) and value.isdecimal() else value


class AuthConfig(Settings):
    """All settings. Durations are in seconds."""

    host: Annotated[str, Field(alias="OSTIARY_AUTH_HOST")] = "127.0.0.1"
    port: Annotated[Port, Field(alias="OSTIARY_AUTH_PORT")] = 8081
    drain_delay: Annotated[DrainDelay, Field(alias="OSTIARY_AUTH_DRAIN_DELAY")] = DEFAULT_DELAY
    drain_timeout: Annotated[DrainTimeout, Field(alias="OSTIARY_AUTH_DRAIN_TIMEOUT")] = DEFAULT_TIMEOUT
    issuer: Annotated[BaseUrl, Field(alias="OSTIARY_ISSUER")] = "http://localhost:8080"
    audience: Annotated[str, Field(alias="OSTIARY_AUDIENCE", min_length=1)] = "ostiary"
    data_dir: Annotated[Path, Field(alias="OSTIARY_DATA_DIR")] = Path(".data")
    database_url: Annotated[DatabaseUrl | None, Field(alias="OSTIARY_AUTH_DATABASE_URL", repr=False)] = None
    database_password_file: Annotated[Path | None, Field(alias="OSTIARY_AUTH_DATABASE_PASSWORD_FILE")] = None
    kek_file: Annotated[Path | None, Field(alias="OSTIARY_AUTH_KEK_FILE")] = None
    feed_secret_file: Annotated[Path | None, Field(alias="OSTIARY_FEED_SECRET_FILE")] = None
    gateway_secret_file: Annotated[Path | None, Field(alias="OSTIARY_GATEWAY_SECRET_FILE")] = None
    access_token_ttl: Annotated[int, Field(alias="OSTIARY_ACCESS_TOKEN_TTL", ge=10, le=MAX_ACCESS_TOKEN_TTL)] = 900
    session_idle_ttl: Annotated[int, Field(alias="OSTIARY_SESSION_IDLE_TTL", ge=60, le=365 * _DAY)] = 14 * _DAY
    session_max_ttl: Annotated[int, Field(alias="OSTIARY_SESSION_MAX_TTL", ge=60, le=365 * _DAY)] = 90 * _DAY
    audit_retention: Annotated[int, Field(alias="OSTIARY_AUDIT_RETENTION", ge=_DAY, le=36_500 * _DAY)] = 365 * _DAY
    min_password_length: Annotated[int, Field(alias="OSTIARY_MIN_PASSWORD_LENGTH", ge=8, le=64)] = 8
    special_email_domains: Annotated[
        tuple[str, ...], BeforeValidator(_domains), Field(alias="OSTIARY_AUTH_SPECIAL_EMAIL_DOMAINS")
    ] = ()
    rsa_bits: Annotated[Literal[2048, 3072, 4096], BeforeValidator(_integer), Field(alias="OSTIARY_RSA_BITS")] = 2048
    key_rotation_period: Annotated[int, Field(alias="OSTIARY_KEY_ROTATION_PERIOD", ge=60, le=365 * _DAY)] = 30 * _DAY
    jwks_max_age: Annotated[int, Field(alias="OSTIARY_JWKS_MAX_AGE", ge=1, le=_DAY)] = 300
    trusted_proxies: Annotated[Networks, Field(alias="OSTIARY_AUTH_TRUSTED_PROXIES")] = ()
    trusted_origins: Annotated[
        tuple[str, ...], BeforeValidator(_origins), Field(alias="OSTIARY_AUTH_TRUSTED_ORIGINS")
    ] = ()
    log_format: Annotated[LogFormat, Field(alias="OSTIARY_LOG_FORMAT")] = "text"

    @model_validator(mode="after")
    def _idle_within_absolute(self) -> Self:
        if self.session_idle_ttl > self.session_max_ttl:
            raise ValueError("OSTIARY_SESSION_IDLE_TTL must not exceed OSTIARY_SESSION_MAX_TTL")
        if self.access_token_ttl > self.session_idle_ttl:
            # Otherwise access tokens would outlive their idle session.
            raise ValueError("OSTIARY_ACCESS_TOKEN_TTL must not exceed OSTIARY_SESSION_IDLE_TTL")
        return self

    @property
    def drain(self) -> Drain:
        return Drain(self.drain_delay, self.drain_timeout)

    @property
    def cookie_names(self) -> CookieNames | None:
        """The names of browsers' cookies; None if the issuer's URL is not safe, so that browsers have no sessions."""
        try:
            return cookie_names(self.issuer)
        except ValueError:
            return None

    @property
    def kek_path(self) -> Path:
        """The file with the key-encryption keys."""
        return self.kek_file or self.data_dir / "auth-kek"

    @property
    def feed_secret_path(self) -> Path:
        """The file with the secret of the verifiers' client."""
        return self.feed_secret_file or self.data_dir / "feed-secret"

    @property
    def gateway_secret_path(self) -> Path:
        """The file with the secret of the gateways' client."""
        return self.gateway_secret_file or self.data_dir / "gateway-secret"

    def database(self) -> DatabaseAddress:
        if self.database_url is None:
            return DatabaseAddress.of_file("auth", self.data_dir / "auth.db")
        return DatabaseAddress.of("auth", self.database_url, self.database_password_file)
