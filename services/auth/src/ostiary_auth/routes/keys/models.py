"""Response bodies about signing keys."""

from datetime import datetime

from pydantic import BaseModel

from ostiary_auth.domain.keys.model import KeyState
from ostiary_auth.routes.models import View


class KeyResponse(View):
    """A signing key; `since` is when it entered its state."""

    kid: str
    state: KeyState
    since: datetime
    created_at: datetime


class KeysResponse(BaseModel):
    """The signing keys, the newest first."""

    keys: list[KeyResponse]
