"""The settings of services that verify tokens: what each of them needs to follow the auth service."""

from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field

from ostiary import Feed, VerifierConfig
from ostiary_chassis.client_ids import VERIFIERS_CLIENT_ID

#: Seconds by which revocations may be out of date, where a route does not say.
DEFAULT_MAX_STALENESS = 30


def _max_staleness(value: object) -> object:
    return None if value == "none" else value


#: Seconds, or `none` for accepting tokens until they expire, whatever is revoked meanwhile and cannot be heard of.
MaxStaleness = Annotated[Annotated[float, Field(ge=0.2, le=3600)] | None, BeforeValidator(_max_staleness)]


def issuer_config(issuer: str, audience: str, auth_url: str, feed_secret_file: Path, name: str) -> VerifierConfig:
    """Return whose tokens are accepted. Keys and revocations come from the auth service, and not through the gateway.

    `name` is what this service is called in the list of verifiers.
    """
    feed = Feed(url=f"{auth_url}/feed", client_id=VERIFIERS_CLIENT_ID, secret_file=feed_secret_file, name=name)
    return VerifierConfig(issuer=issuer, audience=audience, jwks_url=f"{auth_url}/.well-known/jwks.json", feed=feed)
