"""What values of a routes file look like, and what is said of those that look different."""

from typing import Annotated, Literal

from pydantic import Discriminator, Field, StrictBool, StrictInt, StrictStr, Tag
from pydantic_core import ErrorDetails

from ostiary_chassis.settings import BaseUrl

_HOST = r"^(\*\.)?[a-z0-9-]+(\.[a-z0-9-]+)*$"
_HEADER_NAME = r"^[A-Za-z0-9-]{1,64}$"
_HEADER_VALUE = r"^[\x21-\x7e]([\x20-\x7e]{0,254}[\x21-\x7e])?$"
_ORIGIN = r"^(\*|https?://[a-z0-9.:\[\]-]+)$"
_UNIX_URL = r"^unix:/[^\x00?#]{1,100}$"
_NAME = r"^[a-z][a-z0-9-]{0,63}$"
_PERMISSION = r"^[\x21\x23-\x5b\x5d-\x7e]+$"  # RFC 6749 section 3.3, scope-token
PATH = r"^/[\x21-\x7e]{0,255}$"

#: What patterns ask for, in words.
_WORDS = {
    _HOST: "must be a host, in lower case and without port, as in api.example.com or *.example.com",
    _HEADER_NAME: "must be the name of a header field: letters, digits and '-', 64 at most",
    _HEADER_VALUE: "must be the value of a header field: printable, without spaces around it, 256 characters at most",
    _ORIGIN: "must be '*' or an origin, in lower case and without a final slash, as in https://app.example.com",
    _UNIX_URL: "must be unix: and the path of a socket, as in unix:/run/orders.sock",
    _NAME: "must be a name: lower-case letters, digits and '-', a letter first, 64 at most",
    _PERMISSION: "must be a scope or role: printable, without spaces, quotation marks and backslashes",
    PATH: "must be a path: '/' first, printable, without spaces, 256 characters at most",
}


def kind(value: object) -> str:
    """Return which member of a union a value is meant to be, so that nothing is said of the other one."""
    return "text" if isinstance(value, str) else "other"


def _address_kind(value: object) -> str:
    return "unix" if isinstance(value, str) and value.startswith("unix:") else "text"


def _scalar_kind(value: object) -> str | None:
    return type(value).__name__ if isinstance(value, str | bool | int) else None


Host = Annotated[str, Field(pattern=_HOST)]
HeaderName = Annotated[str, Field(pattern=_HEADER_NAME)]
HeaderValue = Annotated[str, Field(pattern=_HEADER_VALUE)]
Origin = Annotated[str, Field(pattern=_ORIGIN)]
Scalar = Annotated[
    Annotated[StrictStr, Tag("str")] | Annotated[StrictBool, Tag("bool")] | Annotated[StrictInt, Tag("int")],
    Discriminator(
        _scalar_kind,
        custom_error_type="scalar",
        custom_error_message="must be text, a whole number, or true or false",
    ),
]
UnixUrl = Annotated[str, Field(pattern=_UNIX_URL)]
Address = Annotated[Annotated[UnixUrl, Tag("unix")] | Annotated[BaseUrl, Tag("text")], Discriminator(_address_kind)]
Method = Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
Name = Annotated[str, Field(pattern=_NAME)]
Permission = Annotated[str, Field(pattern=_PERMISSION)]

#: What pydantic's kinds of errors say, for people who write YAML.
_MESSAGES = {
    "bool_type": "must be true or false",
    "dict_type": "must be a mapping",
    "extra_forbidden": "there is no such member",
    "float_type": "must be a number",
    "frozen_set_type": "must be a list",
    "int_type": "must be a whole number",
    "model_type": "must be a mapping",
    "string_type": "must be text",
    "too_long": "must have {max_length} at most",
    "too_short": "must have {min_length} at least",
    "tuple_type": "must be a list",
}


def words(item: ErrorDetails) -> str:
    """Return what is wrong, without the words of pydantic and Python."""
    context = item.get("ctx", {})
    if item["type"] == "string_pattern_mismatch":
        return _WORDS[context["pattern"]]
    known = _MESSAGES.get(item["type"])
    if known is not None:
        return known.format(**context)
    return item["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
