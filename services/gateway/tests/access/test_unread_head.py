"""Heads that are no requests: what can be told of them, however they arrive."""

import pytest

from ostiary_gateway.access.unread_head import UnreadHead

HEAD = (
    b"GET /a/b?c=d HTTP/1.1\r\nHost: gw:80\r\nX-Long: %b\r\norigin:\thttps://a.example \r\nX-End: 1\r\n\r\n"
    b"Origin: null\r\n"
)


@pytest.mark.parametrize("size", [1, 7, 600, 5000])
def test_path_host_and_origin_are_found_however_a_head_arrives(size: int) -> None:
    data = HEAD % (b"x" * 2000)
    head = UnreadHead(data[:50])
    for start in range(50, len(data), size):
        head.take(data[start : start + size])
        if head.is_done:
            break
    assert (head.path, head.host, head.origin) == (b"/a/b", b"gw:80", b"https://a.example")


@pytest.mark.parametrize(
    ("data", "path", "host", "origin"),
    [
        (b"", b"", b"", b""),
        (b"GET /a", b"", b"", b""),
        (b"GET /a HTTP/1.1\r\nOrigin: https://a.example", b"/a", b"", b""),
        (b"GET a HTTP/1.1\r\nOrigin: https://a.example\r\n", b"", b"", b"https://a.example"),
        (b"GET /a HTTP/1.1\r\nOrigin: https://a.example\r\nOrigin: https://b.example\r\n", b"/a", b"", b""),
        (b"GET /a HTTP/1.1\r\nX-Origin: https://a.example\r\n", b"/a", b"", b""),
        (b"GET /a HTTP/1.1\r\nOrigin: https://a.example b\r\n", b"/a", b"", b""),
        (b"\r\nGET /a?b HTTP/1.1\r\n\r\nOrigin: https://a.example\r\n", b"/a", b"", b""),
    ],
)
def test_what_is_not_clear_is_not_there(data: bytes, path: bytes, host: bytes, origin: bytes) -> None:
    head = UnreadHead(data)
    assert (head.path, head.host, head.origin) == (path, host, origin)
