"""Raw requests that servers are known to parse differently, and what the gateway must do with each.

Each entry is sent unchanged, on a new connection, to a gateway with the host name `gateway`, the public routes `/pub`
and `/pub/{rest...}` (GET and POST), and `/admin` for administrators. Each gets its response without a timeout.
"""

from dataclasses import dataclass
from enum import Enum


class Outcome(Enum):
    """What the gateway must do."""

    #: Respond with 4xx or 5xx. No complete request reaches the upstream.
    REJECTED = "rejected"
    #: Forward exactly one request, with `content` as its body.
    ONE_REQUEST = "forwarded as one request"


class Decider(Enum):
    """Which part of the gateway decides."""

    #: The parser rejects the head: nothing reaches the upstream.
    HEAD = "head"
    #: The parser rejects the body: the upstream may have received the beginning of the request, never its end.
    BODY = "body"
    #: The message is valid: admission decides by target, host, path and method.
    ADMISSION = "admission"


@dataclass(frozen=True, slots=True)
class Entry:
    """A raw request."""

    name: str
    data: bytes
    #: What decides whether it is valid.
    section: str
    outcome: Outcome
    decider: Decider
    #: For forwarded requests, the body that the upstream must receive.
    content: bytes = b""
    #: The target that the upstream must receive, if it is another one.
    target: str = ""


#: A request smuggled in the body of another.
SMUGGLED = b"GET /admin HTTP/1.1\r\nHost: gateway\r\n\r\n"


def request(
    *lines: bytes, body: bytes = b"", method: bytes = b"POST", target: bytes = b"/pub", version: bytes = b"HTTP/1.1"
) -> bytes:
    """Return a request with these field lines after a valid `Host`."""
    head = [method + b" " + target + b" " + version, b"Host: gateway", *lines]
    return b"\r\n".join(head) + b"\r\n\r\n" + body


def bare(head: bytes) -> bytes:
    """Return a request that begins with `head`, unchanged."""
    return head + b"\r\nHost: gateway\r\n\r\n"


def chunked(body: bytes, *lines: bytes) -> bytes:
    """Return a request with a chunked body, given as sent."""
    return request(b"Transfer-Encoding: chunked", *lines, body=body)


def _rejected(decider: Decider, section: str, entries: dict[str, bytes]) -> list[Entry]:
    return [Entry(name, data, section, Outcome.REJECTED, decider) for name, data in entries.items()]


def _forwarded(section: str, entries: dict[str, tuple[bytes, bytes]]) -> list[Entry]:
    return [
        Entry(name, data, section, Outcome.ONE_REQUEST, Decider.ADMISSION, content)
        for name, (data, content) in entries.items()
    ]


_LAST = b"0\r\n\r\n"

_TWO_LENGTHS = _rejected(
    Decider.HEAD,
    "RFC 9112 6.3",
    {
        "CL.TE": request(b"Content-Length: 44", b"Transfer-Encoding: chunked", body=_LAST + SMUGGLED),
        "CL.TE, the other way round": request(
            b"Transfer-Encoding: chunked", b"Content-Length: 44", body=_LAST + SMUGGLED
        ),
        "TE.CL": request(
            b"Content-Length: 4", b"Transfer-Encoding: chunked", body=b"27\r\n" + SMUGGLED + b"\r\n0\r\n\r\n"
        ),
        "CL.0 with TE": request(b"Content-Length: 0", b"Transfer-Encoding: chunked", body=_LAST + SMUGGLED),
        "TE and CL of a GET": request(
            b"Content-Length: 5", b"Transfer-Encoding: chunked", body=_LAST + SMUGGLED, method=b"GET"
        ),
        "TE identity and CL": request(b"Content-Length: 5", b"Transfer-Encoding: identity", body=b"hello" + SMUGGLED),
        "TE and CL that Connection lists": request(
            b"Content-Length: 5", b"Transfer-Encoding: chunked", b"Connection: transfer-encoding", body=_LAST
        ),
        "CL.CL": request(b"Content-Length: 5", b"Content-Length: 44", body=b"hello" + SMUGGLED),
        "CL.CL, the same": request(b"Content-Length: 5", b"Content-Length: 5", body=b"hello"),
        "CL.CL in other letters": request(b"Content-Length: 5", b"CONTENT-LENGTH: 0", body=b"hello"),
        "CL.CL, one of them empty": request(b"Content-Length: 5", b"Content-Length:", body=b"hello"),
        "TE.TE": request(b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity", body=_LAST + SMUGGLED),
        "TE.TE, the same": request(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked", body=_LAST),
        "TE.TE in other letters": request(
            b"Transfer-Encoding: x", b"transfer-encoding: chunked", body=_LAST + SMUGGLED
        ),
        "TE in HTTP/1.0": request(b"Transfer-Encoding: chunked", body=_LAST + SMUGGLED, version=b"HTTP/1.0"),
    },
)

_CODINGS = _rejected(
    Decider.HEAD,
    "RFC 9112 6.1, 7",
    {
        f"TE {value!r}": request(b"Transfer-Encoding:" + value, body=_LAST + SMUGGLED)
        for value in (
            *(b" xchunked", b" chunkedx", b" chunked chunked", b" identity", b" gzip", b" gzip, chunked", b""),
            *(b" chunked, identity", b" identity, chunked", b" chunked, chunked", b" chunked,", b" ,chunked", b" ,"),
            *(b" chunked;q=1", b" chunked;", b' "chunked"', b" 'chunked'", b" chu nked", b" chunk\xc3\xabd", b" cow"),
            *(b" \x0bchunked", b"\x0bchunked", b" chunked\x0b", b" \x0cchunked", b" chunked\x00", b" \x00chunked"),
            *(
                b" \xa0chunked",
                b" chunked\xa0",
                b" \x85chunked",
                b" chunked\x7f",
                b" \xe2\x80\xa8chunked",
                b" \x1fchunked",
            ),
            *(b"\r\n chunked", b" \r\n\tchunked", b" chunked\r\n , identity", b" identity\r\n\tchunked", b"\n chunked"),
            *(b" chunked\r", b"\rchunked", b" chunked\n", b" x\nchunked", b" x\rTransfer-Encoding: chunked"),
        )
    },
)

_LENGTHS = _rejected(
    Decider.HEAD,
    "RFC 9110 8.6",
    {
        f"CL {value!r}": request(b"Content-Length:" + value, body=b"hello" + SMUGGLED)
        for value in (
            *(b" +5", b" -1", b" -0", b" 0x5", b" 5, 5", b" 5,5", b" 5,", b" ,5", b" 5 5", b" 5;", b" 5.", b" 5.0"),
            *(b" 5e0", b" 5_0", b' "5"', b"", b" ", b" five", b" 5\x0b", b" \x0b5", b" \x0c5", b" 5\x00", b" \xa05"),
            *(b" 1" + b"0" * 18, b" 18446744073709551621", b" " + b"0" * 5000 + b"5", b" " + b"9" * 5000),
            *(b" \xef\xbc\x95", b" \xd9\xa5", b" \xb2", b" 5\r\n 0", b"\r\n 5", b" 5\r", b" 5\n"),
        )
    },
)

_FIELD_LINES = _rejected(
    Decider.HEAD,
    "RFC 9112 5",
    {
        "space before TE's colon": request(b"Transfer-Encoding : chunked", body=_LAST + SMUGGLED),
        "tab before TE's colon": request(b"Transfer-Encoding\t: chunked", body=_LAST + SMUGGLED),
        "vertical tab before TE's colon": request(b"Transfer-Encoding\x0b: chunked", body=_LAST + SMUGGLED),
        "NUL before TE's colon": request(b"Transfer-Encoding\x00: chunked", body=_LAST + SMUGGLED),
        "NUL before TE": request(b"\x00Transfer-Encoding: chunked", body=_LAST + SMUGGLED),
        "space before CL's colon": request(b"Content-Length : 5", body=b"hello" + SMUGGLED),
        "space before TE": request(b" Transfer-Encoding: chunked", body=_LAST + SMUGGLED),
        "tab before TE": request(b"\tTransfer-Encoding: chunked", body=_LAST + SMUGGLED),
        "space before the first field": b"GET /pub HTTP/1.1\r\n Host: gateway\r\n\r\n",
        "folded value": request(b"X-A: a\r\n b"),
        "folded with a tab": request(b"X-A: a\r\n\tTransfer-Encoding: chunked", body=_LAST + SMUGGLED),
        "folded line of nothing": request(b"X-A: a\r\n "),
        "name with a space": request(b"X A: a"),
        "name TE with a space": request(b"Transfer Encoding: chunked", body=_LAST + SMUGGLED),
        "name in quotes": request(b'"Transfer-Encoding": chunked', body=_LAST + SMUGGLED),
        "name with a slash": request(b"X/A: a"),
        "name with a bracket": request(b"X(A): a"),
        "name that is not ASCII": request(b"Transfer\xadEncoding: chunked"),
        "empty name": request(b": a"),
        "empty name and value": request(b":"),
        "space as a name": request(b" : a"),
        "line without a colon": request(b"Transfer-Encoding chunked"),
        "line with = instead of a colon": request(b"Content-Length=5"),
        "CR in a name": request(b"X\rA: a"),
        "CR in a value": request(b"X-A: a\rb"),
        "CR in a value, with a field after it": request(b"X-A: a\rContent-Length: 38", body=SMUGGLED),
        "LF in a value": request(b"X-A: a\nContent-Length: 38", body=SMUGGLED),
        "NUL in a value": request(b"X-A: a\x00b"),
        "DEL in a value": request(b"X-A: a\x7fb"),
        "escape in a value": request(b"X-A: a\x1b[2J"),
        "CR before the line's end": request(b"X-A: a\r"),
        "two CRs before the head's end": b"GET /pub HTTP/1.1\r\nHost: gateway\r\r\n\r\n",
        "bare LFs": b"GET /pub HTTP/1.1\nHost: gateway\n\n",
        "bare LF after the request line": b"GET /pub HTTP/1.1\nHost: gateway\r\n\r\n",
        "bare LF after a field": b"GET /pub HTTP/1.1\r\nHost: gateway\nX-A: a\r\n\r\n",
        "empty line of a bare LF": b"POST /pub HTTP/1.1\r\nHost: gateway\r\nContent-Length: 38\n\n" + SMUGGLED,
        "too many fields": request(*[b"X-%d: a" % number for number in range(128)], method=b"GET"),
        "too large a field": request(b"X-A: " + b"a" * 33_000, method=b"GET"),
        "too large a name": request(b"X" * 33_000 + b": a", method=b"GET"),
    },
)

_REQUEST_LINES = _rejected(
    Decider.HEAD,
    "RFC 9112 3",
    {
        "two spaces after the method": bare(b"GET  /pub HTTP/1.1"),
        "two spaces before the version": bare(b"GET /pub  HTTP/1.1"),
        "space at the start": bare(b" GET /pub HTTP/1.1"),
        "tab at the start": bare(b"\tGET /pub HTTP/1.1"),
        "space at the end": bare(b"GET /pub HTTP/1.1 "),
        "tab at the end": bare(b"GET /pub HTTP/1.1\t"),
        "tabs between": bare(b"GET\t/pub\tHTTP/1.1"),
        "vertical tab between": bare(b"GET\x0b/pub HTTP/1.1"),
        "space in the target": bare(b"GET /pub /admin HTTP/1.1"),
        "request line in a target": bare(b"GET /pub HTTP/1.1 HTTP/1.1"),
        "tab in the target": bare(b"GET /pub\t/admin HTTP/1.1"),
        "no target": bare(b"GET HTTP/1.1"),
        "empty target": bare(b"GET  HTTP/1.1"),
        "NUL in the target": bare(b"GET /pub\x00/admin HTTP/1.1"),
        "CR in the target": bare(b"GET /pub\r/admin HTTP/1.1"),
        "LF in the target": bare(b"GET /pub\nX-A: a HTTP/1.1"),
        "DEL in the target": bare(b"GET /pub\x7f HTTP/1.1"),
        "CR before the line's end in the request line": bare(b"GET /pub HTTP/1.1\r"),
        "two empty lines before": b"\r\n\r\n" + bare(b"GET /pub HTTP/1.1"),
        "bare LF before": b"\n" + bare(b"GET /pub HTTP/1.1"),
        "field instead of a request line": b"Host: gateway\r\n\r\n",
        "method in brackets": bare(b"(GET) /pub HTTP/1.1"),
        "method with a colon": bare(b"GET: /pub HTTP/1.1"),
        "method with NUL": bare(b"GET\x00 /pub HTTP/1.1"),
        "method beyond ASCII": bare(b"G\xc3\x8bT /pub HTTP/1.1"),
        "no method": bare(b" /pub HTTP/1.1"),
        "method too long for a head": bare(b"A" * 33_000 + b" /pub HTTP/1.1"),
        "target too long for a head": bare(b"GET /pub?" + b"a" * 33_000 + b" HTTP/1.1"),
    },
)

_VERSIONS = _rejected(
    Decider.HEAD,
    "RFC 9112 2.3",
    {
        "HTTP/0.9": b"GET /pub\r\n\r\n",
        "HTTP/0.9 with fields": bare(b"GET /pub"),
        "HTTP/0.9 that says so": bare(b"GET /pub HTTP/0.9"),
        "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "HTTP/2.0": bare(b"GET /pub HTTP/2.0"),
        "HTTP/3.0": bare(b"GET /pub HTTP/3.0"),
        "HTTP/1": bare(b"GET /pub HTTP/1"),
        "HTTP/1.": bare(b"GET /pub HTTP/1."),
        "HTTP/.1": bare(b"GET /pub HTTP/.1"),
        "HTTP/1.10": bare(b"GET /pub HTTP/1.10"),
        "HTTP/01.1": bare(b"GET /pub HTTP/01.1"),
        "HTTP/1,1": bare(b"GET /pub HTTP/1,1"),
        "HTTP/1.1x": bare(b"GET /pub HTTP/1.1x"),
        "HTTP/-1.1": bare(b"GET /pub HTTP/-1.1"),
        "HTTP /1.1": bare(b"GET /pub HTTP /1.1"),
        "HTTP/ 1.1": bare(b"GET /pub HTTP/ 1.1"),
        "http/1.1": bare(b"GET /pub http/1.1"),
        "HTTPS/1.1": bare(b"GET /pub HTTPS/1.1"),
        "ICY/1.1": bare(b"GET /pub ICY/1.1"),
        "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    },
)

_SEVERAL = _rejected(
    Decider.HEAD,
    "RFC 9112 3.2, RFC 9110 5.3",
    {
        "two Hosts": request(b"Host: elsewhere", method=b"GET"),
        "two Hosts, the same": request(b"Host: gateway", method=b"GET"),
        "two Hosts in other letters": request(b"HOST: elsewhere", method=b"GET"),
        "two Hosts, the second with a space before its colon": request(b"Host : elsewhere", method=b"GET"),
        "two Hosts, the second folded": request(b" Host: elsewhere", method=b"GET"),
        "two Content-Types": request(b"Content-Type: text/plain", b"Content-Type: text/html"),
        "two Expects": request(b"Expect: 100-continue", b"Expect: x"),
        "two Origins": request(b"Origin: https://a", b"Origin: https://b", method=b"GET"),
        "two Upgrades": request(b"Upgrade: websocket", b"Upgrade: h2c"),
    },
)

_HOSTS = _rejected(
    Decider.ADMISSION,
    "RFC 9112 3.2",
    {
        "no Host": b"GET /pub HTTP/1.1\r\n\r\n",
        "no Host in HTTP/1.0": b"GET /pub HTTP/1.0\r\n\r\n",
        "no Host, but in the target": b"GET http://gateway/pub HTTP/1.1\r\n\r\n",
        **{
            f"Host {value!r}": b"GET /pub HTTP/1.1\r\nHost:" + value + b"\r\n\r\n"
            for value in (
                *(b"", b" ", b" user@gateway", b" user:pass@gateway", b" gateway:", b" gateway:port", b" gateway:-1"),
                *(
                    b" gateway:123456",
                    b" gateway:80:80",
                    b" gateway/",
                    b" gateway/pub",
                    b" http://gateway",
                    b" gateway?x",
                ),
                *(b" gateway#x", b" gateway, elsewhere", b" gateway elsewhere", b" gateway,", b" gateway;x", b" [::1"),
                *(b" ::1", b" [::1]x", b" [gateway]", b" g\xc3\xa4teway", b" gate%77ay", b' "gateway"', b" gate\\way"),
                *(b" <gateway>", b" gate_way\xff", b" " + b"a" * 300, b" $(id)", b" gateway'--", b" ${jndi:x}"),
            )
        },
    },
)

_TARGETS = _rejected(
    Decider.ADMISSION,
    "RFC 9112 3.2",
    {
        "absolute target of another host": request(target=b"http://elsewhere/pub", method=b"GET"),
        "absolute target of another port": request(target=b"http://gateway:81/pub", method=b"GET"),
        "absolute target with user information": request(target=b"http://user@gateway/pub", method=b"GET"),
        "absolute target with a host as user information": request(
            target=b"http://gateway@elsewhere/pub", method=b"GET"
        ),
        "absolute target with a fragment": request(target=b"http://gateway/pub#/admin", method=b"GET"),
        "absolute target of another scheme": request(target=b"ftp://gateway/pub", method=b"GET"),
        "absolute target of a file": request(target=b"file:///etc/passwd", method=b"GET"),
        "absolute target without slashes": request(target=b"http:/pub", method=b"GET"),
        "absolute target without a host": request(target=b"http:///pub", method=b"GET"),
        "absolute target with a dot segment": request(target=b"http://gateway/pub/../admin", method=b"GET"),
        "absolute target with a backslash": request(target=b"http://gateway\\@elsewhere/pub", method=b"GET"),
        "asterisk of a GET": request(target=b"*", method=b"GET"),
        "authority": request(target=b"gateway:80", method=b"GET"),
        "CONNECT": request(target=b"gateway:80", method=b"CONNECT"),
        "CONNECT elsewhere": request(target=b"169.254.169.254:80", method=b"CONNECT"),
        "CONNECT to a path": request(target=b"/pub", method=b"CONNECT"),
        "TRACE": request(target=b"/pub", method=b"TRACE"),
        "path without a slash": request(target=b"pub", method=b"GET"),
        "query alone": request(target=b"?/pub", method=b"GET"),
        "at sign first": request(target=b"@elsewhere/pub", method=b"GET"),
        "backslash first": request(target=b"\\pub", method=b"GET"),
        "method in small letters": request(method=b"get"),
        "method of mixed letters": request(method=b"Get"),
        "method that is none": request(method=b"GETGET"),
        "method of odd characters": request(method=b"!#$%&'*+-.^_`|~"),
        "method that is long": request(method=b"A" * 8000),
    },
)

_PATHS = _rejected(
    Decider.ADMISSION,
    "RFC 3986 3.3, 6.2.2",
    {
        f"path {path.decode()}": request(target=path, method=b"GET")
        for path in (
            *(b"/pub/../admin", b"/pub/./x", b"/pub/..", b"/pub/.", b"/../admin", b"/./admin", b"/pub/x/../../admin"),
            *(b"/pub/...", b"/pub./x", b"/pub%20/x", b"/pub%C2%A0/x", b"/pub/..%20./x", b"/pub/%E2%80%8B../x"),
            *(b"/pub/%EF%BC%8E%EF%BC%8E/x", b"/pub/x%EF%BC%8Fy"),
            *(b"/pub/%2e%2e/admin", b"/pub/%2E%2E/admin", b"/pub/.%2e/admin", b"/pub/%2e/x", b"/%2e%2e/admin"),
            *(b"/pub%2f..%2fadmin", b"/pub/..%2fadmin", b"/pub%2Fx", b"/pub/%2fadmin", b"/%2fadmin", b"/pub/x%2F..%2F"),
            *(b"/pub/..%5cadmin", b"/pub%5c..%5cadmin", b"/pub/%5C", b"/pub\\..\\admin", b"/pub/..\\admin", b"/pub\\x"),
            *(b"//admin", b"//pub", b"/pub//x", b"/pub//../admin", b"///", b"//gateway/admin", b"/pub/x//"),
            *(b"/pub;/../admin", b"/pub/..;/admin", b"/pub;x=1", b"/pub/;/admin", b"/pub/x;jsessionid=1", b"/pub%3Bx"),
            *(
                b"/pub%00",
                b"/pub/x%00/../admin",
                b"/pub/%00",
                b"/pub%0a",
                b"/pub/x%0D%0AX-A:%20a",
                b"/pub%09",
                b"/pub%7F",
            ),
            *(b"/pub%23", b"/pub/x%23/../admin", b"/pub#", b"/pub/x#/../admin", b"/pub%3f/../admin", b"/pub/x%3Fa"),
            *(b"/pub?x#/../admin", b"/pub?#"),
            *(
                b"/pub/%252e%252e/admin",
                b"/pub/%252fadmin",
                b"/pub/%25",
                b"/pub/%25%32%65",
                b"/pub/x%255c",
                b"/pub/%2500",
            ),
            *(b"/%61dmin", b"/adm%69n", b"/%61dmin/x", b"/admin%2E", b"/pub/%2E", b"/pub/%2E%2e/admin"),
            *(
                b"/pub/%",
                b"/pub/%2",
                b"/pub/%zz",
                b"/pub/%u002e%u002e/admin",
                b"/pub/%c0%ae%c0%ae/admin",
                b"/pub/%C0%AF",
            ),
            *(
                b"/pub/%20..",
                b"/pub/..%20/admin",
                b"/pub/%E2%80%A8..",
            ),
            *(b"/pub/" + b"a" * 9000, b"/admin/", b"/admin/x/", b"/p%C3%BCb"),
        )
    },
)

_BEYOND_ASCII = _rejected(
    Decider.ADMISSION,
    "RFC 3986 2.1",
    {
        "bytes beyond ASCII in the target": bare(b"GET /p\xc3\xbcb HTTP/1.1"),
        "bytes beyond ASCII that are not UTF-8": bare(b"GET /pub/\xfc HTTP/1.1"),
        "bytes beyond ASCII that are a dot": bare(b"GET /pub/\xc0\xae\xc0\xae/admin HTTP/1.1"),
        "bytes beyond ASCII that are a wide dot": bare(b"GET /pub/\xef\xbc\x8e\xef\xbc\x8e/admin HTTP/1.1"),
        "bytes beyond ASCII that are a wide slash": bare(b"GET /pub/x\xef\xbc\x8fy HTTP/1.1"),
    },
)

#: Several spellings of one path, which the upstream gets in one.
_NORMALISED = [
    Entry(
        f"path {path!r}",
        request(target=path, method=b"GET"),
        "RFC 3986 6.2.2",
        Outcome.ONE_REQUEST,
        Decider.ADMISSION,
        target=target,
    )
    for path, target in (
        (b"/%70ub", "/pub"),
        (b"/pub/%41", "/pub/A"),
        (b"/pub/%7Ex", "/pub/~x"),
        (b"/pub/%2D", "/pub/-"),
        (b"/pub/a%2e%2Eb", "/pub/a..b"),
        (b"/pub/%c3%a9", "/pub/%C3%A9"),
        (b"/pub/x|y", "/pub/x%7Cy"),
        (b"/pub/<x>", "/pub/%3Cx%3E"),
        (b'/pub/"x"', "/pub/%22x%22"),
        (b"/pub/^", "/pub/%5E"),
        (b"/pub/{x}", "/pub/%7Bx%7D"),
        (b"/pub/[x]", "/pub/%5Bx%5D"),
        (b"/pub/`x`", "/pub/%60x%60"),
        (b"/pub/\xc3\xa9", "/pub/%C3%A9"),
        (b"/pub?x=\xc3\xa9\xff", "/pub?x=%C3%A9%FF"),
        (b'/pub?a[]={b}|^`"<>%zz', '/pub?a[]={b}|^`"<>%zz'),
        (b"/pub/", "/pub/"),
        (b"/pub/x/", "/pub/x/"),
        (b"/pub/x.", "/pub/x."),
        (b"/pub/x%20", "/pub/x%20"),
    )
]

_CHUNKS = _rejected(
    Decider.BODY,
    "RFC 9112 7.1",
    {
        f"chunks {body!r}": chunked(body)
        for body in (
            *(b"0x5\r\nhello\r\n0\r\n\r\n", b"+5\r\nhello\r\n0\r\n\r\n", b"-5\r\nhello\r\n0\r\n\r\n"),
            *(b" 5\r\nhello\r\n0\r\n\r\n", b"5 \r\nhello\r\n0\r\n\r\n", b"\t5\r\nhello\r\n0\r\n\r\n"),
            *(b"5\t\r\nhello\r\n0\r\n\r\n", b"5 ;a=b\r\nhello\r\n0\r\n\r\n", b"5\x00\r\nhello\r\n0\r\n\r\n"),
            *(b"5,\r\nhello\r\n0\r\n\r\n", b"5.0\r\nhello\r\n0\r\n\r\n", b"5_0\r\nhello\r\n0\r\n\r\n"),
            *(b"5 5\r\nhello\r\n0\r\n\r\n", b"g\r\nhello\r\n0\r\n\r\n", b"\r\nhello\r\n0\r\n\r\n"),
            *(b"\xef\xbc\x95\r\nhello\r\n0\r\n\r\n", b'"5"\r\nhello\r\n0\r\n\r\n', b"5h\r\nhello\r\n0\r\n\r\n"),
            *(b"10000000000000005\r\nhello\r\n0\r\n\r\n", b"ffffffffffffffff\r\nhello\r\n0\r\n\r\n"),
            *(b"0" * 16 + b"5\r\nhello\r\n0\r\n\r\n", b"5;" + b"a" * 300 + b"\r\nhello\r\n0\r\n\r\n"),
            *(
                b"5\nhello\r\n0\r\n\r\n",
                b"5\rhello\r\n0\r\n\r\n",
                b"5\r\rhello\r\n0\r\n\r\n",
                b"5\r\r\nhello\r\n0\r\n\r\n",
            ),
            *(b"5;a\nhello\r\n0\r\n\r\n", b"5;a\rb\r\nhello\r\n0\r\n\r\n", b"5;\x00\r\nhello\r\n0\r\n\r\n"),
            *(b"5;a\n\r\nhello\r\n0\r\n\r\n", b"5;\x0b\r\nhello\r\n0\r\n\r\n", b"5;\x7f\r\nhello\r\n0\r\n\r\n"),
            *(b'5;a="\n"\r\nhello\r\n0\r\n\r\n', b'5;a="\r"\r\nhello\r\n0\r\n\r\n', b"5;a\r\r\nhello\r\n0\r\n\r\n"),
            *(
                b"5\r\nhelloworld\r\n0\r\n\r\n",
                b"5\r\nhello0\r\n\r\n",
                b"5\r\nhello\n0\r\n\r\n",
                b"5\r\nhello\r0\r\n\r\n",
            ),
            *(
                b"5\r\nhello\n\r0\r\n\r\n",
                b"5\r\nhello\r\n\r\n0\r\n\r\n",
                b"4\r\nhello\r\n0\r\n\r\n",
                b"0\n\n",
                b"0\n\r\n",
            ),
            *(b"0x0\r\n\r\n", b"-0\r\n\r\n", b"+0\r\n\r\n", b"0 \r\n\r\n", b" 0\r\n\r\n", b"0\rX\r\n\r\n"),
        )
    },
)

_TRAILERS = _rejected(
    Decider.BODY,
    "RFC 9112 7.1.2",
    {
        f"trailers {lines!r}": chunked(b"0\r\n" + lines + b"\r\n\r\n")
        for lines in (
            *(b"\n" + SMUGGLED[:-4], SMUGGLED[:-4], b"X-A : a", b" X-A: a", b": a", b"X-A", b"X-A: a\r\n b"),
            *(
                b"X-A: a\nX-B: b",
                b"X-A: a\rX-B: b",
                b"X-A: a\x00",
                b"X-A: a\x0b",
                b"X A: a",
                b"X-A: a\r",
                b"X-A: a\r\n\tb",
            ),
            *(b"X-A: " + b"a" * 9000, b"X-A: a\r\n" * 129 + b"X-A: a", b"\n", b"\r"),
        )
    },
)

_LENGTH_WINS = _forwarded(
    "RFC 9112 6.2",
    {
        "a request in a body with CL": (request(b"Content-Length: %d" % len(SMUGGLED), body=SMUGGLED), SMUGGLED),
        "a request in a body of a GET": (
            request(b"Content-Length: %d" % len(SMUGGLED), body=SMUGGLED, method=b"GET"),
            SMUGGLED,
        ),
        "a last chunk in a body with CL": (request(b"Content-Length: 5", body=_LAST), _LAST),
        "CL with zeros before": (request(b"Content-Length: 000005", body=b"hello"), b"hello"),
        "CL of nothing": (request(b"Content-Length: 0"), b""),
        "CL with spaces around": (request(b"Content-Length: \t 5 \t ", body=b"hello"), b"hello"),
        "CL without a space": (request(b"Content-Length:5", body=b"hello"), b"hello"),
        "CL that Connection lists": (
            request(b"Content-Length: 5", b"Connection: content-length", body=b"hello"),
            b"hello",
        ),
        "CL of HTTP/1.0": (request(b"Content-Length: 5", body=b"hello", version=b"HTTP/1.0"), b"hello"),
        "names that only look like TE": (
            request(
                b"Transfer_Encoding: chunked", b"X-Transfer-Encoding: chunked", b"Content-Length: 5", body=b"hello"
            ),
            b"hello",
        ),
        "names that only look like CL": (
            request(b"Content_Length: 5", b"Content-Length-X: 5", b"X: Content-Length: 5"),
            b"",
        ),
    },
)

_CHUNKS_WIN = _forwarded(
    "RFC 9112 7.1",
    {
        "chunked": (chunked(b"5\r\nhello\r\n0\r\n\r\n"), b"hello"),
        "chunked in other letters": (request(b"transfer-ENCODING: ChunKed", body=b"5\r\nhello\r\n0\r\n\r\n"), b"hello"),
        "chunked after a tab": (request(b"Transfer-Encoding:\tchunked\t", body=b"5\r\nhello\r\n0\r\n\r\n"), b"hello"),
        "chunked without a space": (request(b"Transfer-Encoding:chunked", body=b"5\r\nhello\r\n0\r\n\r\n"), b"hello"),
        "chunked that Connection lists": (chunked(_LAST, b"Connection: transfer-encoding"), b""),
        "chunked of a GET": (request(b"Transfer-Encoding: chunked", body=_LAST, method=b"GET"), b""),
        "chunk sizes with zeros": (chunked(b"0005\r\nhello\r\n000\r\n\r\n"), b"hello"),
        "chunk sizes in letters": (chunked(b"A\r\nhellohello\r\na\r\nhellohello\r\n0\r\n\r\n"), b"hello" * 4),
        "a request in a chunk": (chunked(b"%x\r\n%b\r\n0\r\n\r\n" % (len(SMUGGLED), SMUGGLED)), SMUGGLED),
        "a last chunk in a chunk": (chunked(b"5\r\n0\r\n\r\n\r\n0\r\n\r\n"), _LAST),
        "chunk extensions": (chunked(b'5;a;b=c;d="e;\\"f"\r\nhello\r\n0;g\r\n\r\n'), b"hello"),
        "a chunk extension that looks like a chunk": (chunked(b"5;0\r\nhello\r\n0\r\n\r\n"), b"hello"),
        "trailers": (chunked(b"5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n"), b"hello"),
        "framing fields as trailers": (
            chunked(b"0\r\nContent-Length: 38\r\nTransfer-Encoding: identity\r\nHost: elsewhere\r\n\r\n"),
            b"",
        ),
        "authority as a trailer": (
            chunked(b"0\r\nAuthorization: Bearer x\r\nX-User: admin\r\nCookie: a=b\r\n\r\n"),
            b"",
        ),
    },
)

_PLAIN = _forwarded(
    "RFC 9112 2, 3",
    {
        "plain": (request(method=b"GET"), b""),
        "HTTP/1.0": (request(method=b"GET", version=b"HTTP/1.0"), b""),
        "HTTP/1.2": (request(method=b"GET", version=b"HTTP/1.2"), b""),
        "HTTP/1.9": (request(method=b"GET", version=b"HTTP/1.9"), b""),
        "Host with a port": (b"GET /pub HTTP/1.1\r\nHost: gateway:8080\r\n\r\n", b""),
        "Host in other letters": (b"GET /pub HTTP/1.1\r\nhOST: GateWay\r\n\r\n", b""),
        "Host without a space": (b"GET /pub HTTP/1.1\r\nHost:gateway\r\n\r\n", b""),
        "Host of an IPv6 address": (b"GET /pub HTTP/1.1\r\nHost: [::1]:8080\r\n\r\n", b""),
        "absolute target": (request(target=b"http://gateway/pub", method=b"GET"), b""),
        "absolute target in other letters": (request(target=b"HTTP://GATEWAY/pub", method=b"GET"), b""),
        "query that looks like a path": (request(target=b"/pub?/../admin", method=b"GET"), b""),
        "query that looks like a target": (request(target=b"/pub?http://elsewhere/%2e%2e", method=b"GET"), b""),
        "dots that are no dot segment": (request(target=b"/pub/..a", method=b"GET"), b""),
        "escape that is needed": (request(target=b"/pub/a%20b", method=b"GET"), b""),
        "empty value": (request(b"X-A:", b"X-B: ", method=b"GET"), b""),
        "bytes beyond ASCII in a value": (request(b"X-A: \xc3\xa4\xff", method=b"GET"), b""),
        "tabs in a value": (request(b"X-A:\ta\tb\t", method=b"GET"), b""),
        "change to HTTP/2": (
            request(
                b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABk", method=b"GET"
            ),
            b"",
        ),
        "Connection that lists what was decided on": (
            request(b"Connection: authorization, cookie, host", method=b"GET"),
            b"",
        ),
        "expectation that is none": (request(b"Expect: x", b"Content-Length: 5", body=b"hello"), b"hello"),
    },
)

#: All of them, with names of their own.
CORPUS: tuple[Entry, ...] = (
    *_TWO_LENGTHS,
    *_CODINGS,
    *_LENGTHS,
    *_FIELD_LINES,
    *_REQUEST_LINES,
    *_VERSIONS,
    *_SEVERAL,
    *_HOSTS,
    *_TARGETS,
    *_PATHS,
    *_BEYOND_ASCII,
    *_NORMALISED,
    *_CHUNKS,
    *_TRAILERS,
    *_LENGTH_WINS,
    *_CHUNKS_WIN,
    *_PLAIN,
)


def short_name(entry: Entry) -> str:
    """Return a name for pytest's reports."""
    return entry.name if len(entry.name) < 60 else f"{entry.name[:60]}..."
