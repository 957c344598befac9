"""The gateway's settings. Routes and upstreams are in the routes file."""

import re
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from ostiary import VerifierConfig
from ostiary_chassis.drain import DEFAULT_DELAY, DEFAULT_TIMEOUT, Drain, DrainDelay, DrainTimeout
from ostiary_chassis.logs import LogFormat, LogLevel
from ostiary_chassis.middleware import LIVENESS_PATH, OPERATIONS
from ostiary_chassis.proxies import Networks
from ostiary_chassis.settings import ConfigError, Port, Settings, read_secret, reject_unknown
from ostiary_chassis.urls import MAX_PORT, BaseUrl, BaseUrls, UrlKind
from ostiary_chassis.verifying import DEFAULT_MAX_STALENESS, MaxStaleness, issuer_config

_STORE = UrlKind(("redis", "rediss"), "a redis:// or rediss:// URL, such as redis://redis:6379/0", {"path"})
_COLLECTOR = UrlKind(
    ("http", "https"), "an http:// or https:// URL, such as http://collector:4318", {"user", "path", "query"}
)
_STORE_PATH = re.compile(r"(?:/[0-9]{0,3})?\Z")

#: What the gateway serves on its admin port only, unless PUBLIC_OPERATIONS has it.
_PRIVATE = OPERATIONS - {LIVENESS_PATH}

#: The admin port's distance from the public one by default, so that several gateways can run on one machine.
_ADMIN_PORT_DISTANCE = 1000

#: Settings of the compose stack, which share the prefix.
_COMPOSE_SETTINGS = frozenset({"OSTIARY_GATEWAY_BIND"})


def _check_store_url(url: str) -> str:
    """Accept the URL of a Redis; the password is in a file. Raises ValueError."""
    if url and not _STORE_PATH.match(urlsplit(_STORE.check(url)).path):
        raise ValueError(f"must be {_STORE.shape}; the path is the number of a database")
    return url


def _check_collector_url(url: str) -> str:
    """Accept the URL of a collector of traces. Raises ValueError."""
    return _COLLECTOR.check(url) if url else url


def _operations(value: object) -> object:
    """Parse paths separated by commas."""
    if not isinstance(value, str):
        return value
    paths = tuple(path.strip() for path in value.split(","))
    if not _PRIVATE.issuperset(paths):
        raise ValueError(f"must be {' or '.join(sorted(_PRIVATE))}, or both separated by a comma")
    return paths


class GatewayConfig(Settings):
    host: Annotated[str, Field(alias="OSTIARY_GATEWAY_HOST")] = "127.0.0.1"
    port: Annotated[Port, Field(alias="OSTIARY_GATEWAY_PORT")] = 8080
    admin_host: Annotated[str, Field(alias="OSTIARY_GATEWAY_ADMIN_HOST")] = "127.0.0.1"
    admin_port: Annotated[Port | None, Field(alias="OSTIARY_GATEWAY_ADMIN_PORT")] = None
    public_operations: Annotated[
        tuple[str, ...], BeforeValidator(_operations), Field(alias="OSTIARY_GATEWAY_PUBLIC_OPERATIONS")
    ] = ()
    drain_delay: Annotated[DrainDelay, Field(alias="OSTIARY_GATEWAY_DRAIN_DELAY")] = DEFAULT_DELAY
    drain_timeout: Annotated[DrainTimeout, Field(alias="OSTIARY_GATEWAY_DRAIN_TIMEOUT")] = DEFAULT_TIMEOUT
    routes_file: Annotated[Path, Field(alias="OSTIARY_GATEWAY_ROUTES")] = Path("deploy/gateway.yaml")
    issuer: Annotated[BaseUrl, Field(alias="OSTIARY_ISSUER")] = "http://localhost:8080"
    audience: Annotated[str, Field(alias="OSTIARY_AUDIENCE", min_length=1)] = "ostiary"
    auth_urls: Annotated[BaseUrls, Field(alias="OSTIARY_AUTH_URL")] = ("http://127.0.0.1:8081",)
    feed_secret_file: Annotated[Path, Field(alias="OSTIARY_FEED_SECRET_FILE")] = Path(".data/feed-secret")
    gateway_secret_file: Annotated[Path, Field(alias="OSTIARY_GATEWAY_SECRET_FILE")] = Path(".data/gateway-secret")
    max_staleness: Annotated[MaxStaleness, Field(alias="OSTIARY_MAX_STALENESS")] = DEFAULT_MAX_STALENESS
    trusted_proxies: Annotated[Networks, Field(alias="OSTIARY_GATEWAY_TRUSTED_PROXIES")] = ()
    max_connections_per_address: Annotated[
        int, Field(alias="OSTIARY_GATEWAY_MAX_CONNECTIONS_PER_ADDRESS", ge=1, le=1_000_000)
    ] = 1000
    workers: Annotated[int, Field(alias="OSTIARY_GATEWAY_WORKERS", ge=1, le=64)] = 1
    docs: Annotated[Literal["on", "off"], Field(alias="OSTIARY_GATEWAY_DOCS")] = "on"
    rate_limit_store: Annotated[
        str, AfterValidator(_check_store_url), Field(alias="OSTIARY_GATEWAY_RATE_LIMIT_STORE", repr=False)
    ] = ""
    rate_limit_store_password_file: Annotated[
        Path | None, Field(alias="OSTIARY_GATEWAY_RATE_LIMIT_STORE_PASSWORD_FILE")
    ] = None
    otlp_endpoint: Annotated[
        str, AfterValidator(_check_collector_url), Field(alias="OTEL_EXPORTER_OTLP_ENDPOINT", repr=False)
    ] = ""
    log_format: Annotated[LogFormat, Field(alias="OSTIARY_LOG_FORMAT")] = "text"
    log_level: Annotated[LogLevel, Field(alias="OSTIARY_GATEWAY_LOG_LEVEL")] = "info"

    @classmethod
    def load(cls, environ: Mapping[str, str]) -> Self:
        """Read the settings, and reject unknown ones with the gateway's prefix. Raises ConfigError."""
        reject_unknown(environ, "OSTIARY_GATEWAY_", cls.names() | _COMPOSE_SETTINGS)
        return super().load(environ)

    @model_validator(mode="after")
    def _two_ports(self) -> Self:
        if self.port == self.admin_port:
            raise ValueError(
                "OSTIARY_GATEWAY_ADMIN_PORT must differ from OSTIARY_GATEWAY_PORT;"
                " to make what it serves public, set OSTIARY_GATEWAY_PUBLIC_OPERATIONS"
            )
        return self

    @property
    def own_admin_port(self) -> int:
        """The admin port, set or derived from the public one."""
        derived = self.port + _ADMIN_PORT_DISTANCE
        return self.admin_port or (derived if derived <= MAX_PORT else self.port - _ADMIN_PORT_DISTANCE)

    @property
    def drain(self) -> Drain:
        return Drain(self.drain_delay, self.drain_timeout)

    def rate_limit_store_password(self) -> str | None:
        """Read the store's password; None if it has none. Raises ConfigError."""
        file = self.rate_limit_store_password_file
        return read_secret(file, "OSTIARY_GATEWAY_RATE_LIMIT_STORE_PASSWORD_FILE") if file else None

    def issuer_config(self) -> VerifierConfig:
        return issuer_config(self.issuer, self.audience, self.auth_urls, self.feed_secret_file, "gateway")


def check_ca_file(environ: Mapping[str, str]) -> None:
    """Check that the file of SSL_CERT_FILE, if it is set, has certificates. Raises ConfigError.

    OpenSSL itself ignores a file that it cannot use, and then trusts no certificate.
    """
    file = environ.get("SSL_CERT_FILE")
    if file:
        try:
            ssl.create_default_context(cafile=file)
        except OSError as error:
            reason = "no certificates in it" if isinstance(error, ssl.SSLError) else error.strerror
            raise ConfigError(f"SSL_CERT_FILE: cannot use {file}: {reason}") from None
