import httpx
import pytest
from admin import Admin, logged_in

from ostiary_auth.services import Services


@pytest.fixture
async def admin(services: Services, client: httpx.AsyncClient) -> Admin:
    return await logged_in(services, client, "admin", "admin", "user")
