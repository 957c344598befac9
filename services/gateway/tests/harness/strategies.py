"""Hypothesis strategies for messages, valid and malformed."""

from corpus import SMUGGLED
from hypothesis import strategies as st

TCHARS = b"!#$%&'*+-.^_`|~09azAZ"
tokens = st.lists(st.sampled_from(TCHARS), min_size=1, max_size=6).map(bytes)
values = (
    st.lists(st.sampled_from([*b'\t \x21az,;="\\:\x7e\x80\xa0\xff0']), max_size=8)
    .map(bytes)
    .map(lambda value: value.strip(b"\t "))
)
trailer_fields = st.lists(st.tuples(tokens.map(bytes.lower), values), max_size=4)
contents = st.lists(
    st.binary(min_size=1, max_size=20) | st.sampled_from([b"0\r\n\r\n", b"\r\n", b"a" * 300]), max_size=5
)
extensions = st.sampled_from([b"", b"", b";0", b";a=b ;c", b';a="\\";0"', b'; a\t= "\xff"'])
CUTS = st.lists(st.integers(0, 400), max_size=8)


@st.composite
def mutated(draw: st.DrawFn, originals: st.SearchStrategy[bytes]) -> bytes:
    """Reposition, delete or insert some bytes."""
    data = bytearray(draw(originals))
    for _ in range(draw(st.sampled_from([0, 0, 1, 1, 2, 4]))):
        position = draw(st.integers(0, len(data)))
        removed = draw(st.integers(0, 2))
        data[position : position + removed] = draw(
            st.sampled_from(
                [b"", b"\r", b"\n", b"\r\n", b" ", b"\t", b"\x00", b"\x0b", b":", b",", b";", b"0", b"5", b"a", b"\xa0"]
            )
        )
    return bytes(data)


@st.composite
def chunked_bodies(draw: st.DrawFn) -> bytes:
    """Generate a valid chunked body and what follows it."""
    parts = []
    for content in draw(contents):
        form = draw(st.sampled_from([b"%x", b"%X", b"00%x"]))
        parts.append(form % len(content) + draw(extensions) + b"\r\n" + content + b"\r\n")
    parts.append(draw(st.sampled_from([b"0", b"000"])) + draw(extensions) + b"\r\n")
    parts += [b"%b:%b\r\n" % field for field in draw(trailer_fields)]
    return b"".join([*parts, b"\r\n", draw(st.sampled_from([b"", b"rest", b"\r\n\r\n", SMUGGLED]))])


FIRST_LINES = [
    *(b"GET / HTTP/1.1", b"POST /a?b HTTP/1.1", b"GET / HTTP/1.0", b"POST * HTTP/1.2", b"GET /  HTTP/1.1"),
    *(b"GET / HTTP/0.9", b"CONNECT a:1 HTTP/1.1", b"put http://a/ HTTP/1.1", b"HEAD / HTTP/1.1"),
]
FIELD_LINES = [
    *(
        b"Content-Length: 5",
        b"content-length: 0005 ",
        b"Content-Length: 0",
        b"Content-Length: 5, 5",
        b"Content-Length: +5",
    ),
    *(b"Transfer-Encoding: chunked", b"transfer-encoding:\tChunked", b"Transfer-Encoding: gzip, chunked"),
    *(
        b"Transfer-Encoding : chunked",
        b" chunked",
        b"Transfer-Encoding:",
        b"Connection: close",
        b"Connection: Keep-Alive, x",
    ),
    *(b"Expect: 100-continue", b"Upgrade: h2c", b"Cookie: a=b", b"X-A: \xc3\xa4 \t b \t", b"X-A:", b"Host: b"),
]


@st.composite
def heads(draw: st.DrawFn) -> bytes:
    """Generate the head of a request, mostly valid."""
    lines = [draw(st.sampled_from(FIRST_LINES))]
    if draw(st.integers(0, 7)):
        lines.append(b"Host: a")
    framing = st.sampled_from(FIELD_LINES)
    others = st.builds(lambda name, value: name + b":" + value, tokens, values)
    lines += draw(st.lists(framing | others, max_size=3))
    ends = st.sampled_from([b"\r\n"] * 15 + [b"\n"])
    return b"".join([line + draw(ends) for line in lines]) + b"\r\n"


TAILS = [
    b"",
    b"hello",
    b"hello, you",
    b"5\r\nhello\r\n0\r\n\r\nrest",
    b"0\r\n\r\n",
    b"5\r\nhel",
    b"0\r\nX-Sum: 1\r\n\r\n" + SMUGGLED,
]
tails = st.sampled_from(TAILS) | chunked_bodies()
whole_requests = mutated(st.builds(lambda head, tail: head + tail, heads(), tails))
