"""The settings of services that verify tokens of the auth service."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field

from ostiary import Feed, VerifierConfig
from ostiary_chassis.client_ids import VERIFIERS_CLIENT_ID

#: Seconds that revocations may be out of date, unless a route has its own bound.
DEFAULT_MAX_STALENESS = 30


def _max_staleness(value: object) -> object:
    return None if value == "none" else value


#: Seconds, or `none` to accept tokens until they expire while the feed is unavailable.
MaxStaleness = Annotated[Annotated[float, Field(ge=0.2, le=3600)] | None, BeforeValidator(_max_staleness)]


def issuer_config(
    issuer: str, audience: str, auth_urls: Sequence[str], feed_secret_file: Path, name: str
) -> VerifierConfig:
    """Return the configuration of the issuer. Keys and revocations come from the auth service directly.

    `name` is the name of this service in the list of verifiers.
    """
    keys = [f"{url}/.well-known/jwks.json" for url in auth_urls]
    feeds = [f"{url}/feed" for url in auth_urls]
    feed = Feed(url=feeds, client_id=VERIFIERS_CLIENT_ID, secret_file=feed_secret_file, name=name)
    return VerifierConfig(issuer=issuer, audience=audience, jwks_url=keys, feed=feed)
