"""Logins from chosen places and times."""

from datetime import UTC, datetime, timedelta

from ostiary_auth.domain.accounts.attempts import (
    Counter,
    Keys,
)
from ostiary_auth.services import Services

SECOND = timedelta(seconds=1)
HOME = "192.0.2.7"
ELSEWHERE = "198.51.100.9"


async def block(services: Services, keys: Keys) -> None:
    now = datetime.now(UTC)
    async with services.store.write() as transaction:
        for key, allowance in keys.items():
            await transaction.throttles.lock([key], now)
            blocked = Counter(allowance.free + 1, now + timedelta(minutes=5), now + timedelta(hours=1))
            await transaction.throttles.put({key: blocked})
