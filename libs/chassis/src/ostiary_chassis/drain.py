"""How long a service takes to end."""

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

#: The settings of each service, in seconds.
DrainDelay = Annotated[float, Field(ge=0, le=300)]
DrainTimeout = Annotated[float, Field(ge=0, le=3600)]

#: Whatever distributes requests, such as Kubernetes, notices within this time that a service is not ready.
DEFAULT_DELAY = 5.0

#: As long as a route's requests may take by default.
DEFAULT_TIMEOUT = 30.0


@dataclass(frozen=True, slots=True)
class Drain:
    """After SIGTERM, requests are taken for `delay` seconds. Then those taken may complete for `timeout` seconds."""

    delay: float
    timeout: float
