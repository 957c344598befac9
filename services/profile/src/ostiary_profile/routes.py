"""`/profiles/*`: reads and writes the caller's profile, and reads those of others with a scope for it."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import APIRouter, Depends, Header, Path, Response
from pydantic import AfterValidator, BaseModel, Field, StringConstraints

from ostiary import VerifiedToken
from ostiary.fastapi import Auth
from ostiary_chassis.bodies import RequestBody, StrictRoute
from ostiary_chassis.names import has_controls, is_name
from ostiary_chassis.openapi import documented
from ostiary_profile.domain import Profile, Profiles

READ = "profile:read"
WRITE = "profile:write"
READ_ANY = "profile:read:any"


def _web_address(value: str) -> str:
    """Accept only URLs that are safe as a link, which `javascript:` and the like are not."""
    parts = urlsplit(value)
    if not value.isprintable() or " " in value or parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("must be an http or https URL")
    if parts.username is not None or (parts.port or 1) < 1:  # an invalid port raises ValueError
        raise ValueError("must be a URL without credentials")
    return value


def _name(value: str) -> str:
    if not is_name(value):
        raise ValueError("must have a visible character, and no control characters, also not for the direction of text")
    return value


def _prose(value: str) -> str:
    if has_controls(value, allowed=_PROSE_CONTROLS):
        raise ValueError("must have no control characters but tabs and line ends")
    return value


#: Tabs, line ends, and what mixed directions need: marks and isolates, whose effect ends with the paragraph.
_PROSE_CONTROLS = "\t\n\r\u061c\u200e\u200f\u2066\u2067\u2068\u2069"

DisplayName = Annotated[
    str,
    StringConstraints(min_length=1, max_length=100, strip_whitespace=True),
    Field(examples=["Ada Lovelace"]),
    AfterValidator(_name),
]
Bio = Annotated[
    str,
    Field(max_length=2000, examples=["Writes programs for engines that do not exist yet."]),
    AfterValidator(_prose),
]
Website = Annotated[str, Field(max_length=2000, examples=["https://example.com/ada"]), AfterValidator(_web_address)]


#: Seconds that revocations may be out of date for a deletion.
STRICT_SECONDS = 1.0


class ProfileBody(RequestBody):
    """A profile's fields. PUT replaces all of them; PATCH changes those that are present (RFC 7396)."""

    display_name: DisplayName | None = None
    bio: Bio | None = None
    website: Website | None = None


class ProfileResponse(BaseModel):
    """A profile. `updated_at` is null if it was never written."""

    id: str
    display_name: str | None
    bio: str | None
    website: str | None
    updated_at: datetime | None


IfMatch = Annotated[
    str | None,
    Header(description="The ETag of the last read; the change is rejected if the profile has changed since."),
]


def profile_routes(profiles: Profiles, auth: Auth) -> APIRouter:
    """Return the router for `/profiles`."""
    router = APIRouter(prefix="/profiles", tags=["profile"], route_class=StrictRoute)
    reader = Annotated[VerifiedToken, Depends(auth.require(scopes=[READ]))]
    writer = Annotated[VerifiedToken, Depends(auth.require(scopes=[WRITE]))]
    # A deletion cannot be undone, so the caller must not have logged out.
    strict_writer = Annotated[VerifiedToken, Depends(auth.require(scopes=[WRITE], max_staleness=STRICT_SECONDS))]

    @router.get("/me")
    async def read_own(token: reader, response: Response) -> ProfileResponse:
        return _represent(await profiles.own(token.subject), response)

    @router.put("/me", responses=documented(412))
    async def replace_own(
        token: writer, body: ProfileBody, response: Response, if_match: IfMatch = None
    ) -> ProfileResponse:
        def change(profile: Profile) -> Profile:
            return replace(profile, **body.model_dump())

        return _represent(await profiles.change(token.subject, _revisions(if_match), _now(), change), response)

    @router.patch("/me", responses=documented(412))
    async def change_own(
        token: writer, body: ProfileBody, response: Response, if_match: IfMatch = None
    ) -> ProfileResponse:
        def change(profile: Profile) -> Profile:
            return replace(profile, **body.model_dump(exclude_unset=True))

        return _represent(await profiles.change(token.subject, _revisions(if_match), _now(), change), response)

    @router.delete("/me", status_code=204, response_class=Response, responses=documented(412))
    async def delete_own(token: strict_writer, if_match: IfMatch = None) -> None:
        await profiles.delete(token.subject, _revisions(if_match))

    @router.get("/{user_id}", responses=documented(404))
    async def read(
        token: reader, user_id: Annotated[str, Path(pattern=r"^[!-~]{1,255}$")], response: Response
    ) -> ProfileResponse:
        if user_id == token.subject:
            return _represent(await profiles.own(user_id), response)
        token.require(scopes=[READ_ANY])
        return _represent(await profiles.of(user_id), response)

    return router


def _represent(profile: Profile, response: Response) -> ProfileResponse:
    response.headers["ETag"] = f'"{profile.revision}"'
    response.headers["Cache-Control"] = "private, no-cache"
    return ProfileResponse(
        id=profile.user_id,
        display_name=profile.display_name,
        bio=profile.bio,
        website=profile.website,
        updated_at=profile.updated_at,
    )


def _revisions(if_match: str | None) -> frozenset[str] | None:
    """Parse `If-Match` (RFC 9110 section 13.1.1): a list of entity tags, or `*` for any."""
    if if_match is None or if_match.strip() == "*":
        return None
    return frozenset(tag.strip().strip('"') for tag in if_match.split(","))


def _now() -> datetime:
    return datetime.now(UTC)
