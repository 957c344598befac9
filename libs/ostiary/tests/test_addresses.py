import pytest

from ostiary import RemoteKeys
from ostiary._addresses import check_address


@pytest.mark.parametrize(
    "url",
    [
        *("https://issuer.example/jwks", "https://issuer.example:8443/a?b=c", "https://10.0.0.1/"),
        *("http://localhost:8080/jwks", "http://127.0.0.1/", "http://[::1]:1/", "http://auth:8081/jwks"),
        *("http://10.1.2.3/", "http://192.168.0.1/", "http://172.16.0.1/", "http://[fd00::1]/"),
        *("http://auth.internal/", "http://auth.default.svc/", "http://auth.localhost/", "http://AUTH.LOCAL./"),
    ],
)
def test_keys_may_come_from_here(url: str) -> None:
    check_address(url)


@pytest.mark.parametrize(
    "url",
    [
        *("http://issuer.example/jwks", "http://8.8.8.8/", "http://localhost.example/", "http://internal.example/"),
        *("http://auth.svc.example/", "ftp://issuer.example/", "file:///etc/keys", "issuer.example", "", "https://"),
        *("https://user:secret@issuer.example/", "https://issuer.example/#a", "http://[2001:4860::1]/"),
    ],
)
def test_keys_may_not_come_from_there(url: str) -> None:
    with pytest.raises(ValueError, match=r"address|need https") as caught:
        check_address(url)
    assert "secret" not in str(caught.value)
    with pytest.raises(ValueError, match=r"address|need https"):
        RemoteKeys("https://issuer.example", url or "x")


def test_plain_http_can_be_allowed() -> None:
    check_address("http://issuer.example/jwks", allow_insecure=True)
