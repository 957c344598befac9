"""Types of values in the routes file, and the error texts for values that do not fit."""

from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    StrictBool,
    StrictInt,
    StrictStr,
    Tag,
)
from pydantic_core import ErrorDetails

from ostiary_chassis.origins import SCHEMA_PATTERN, check_origin
from ostiary_chassis.urls import BaseUrl, split_list
from ostiary_gateway.http1.headers import is_own
from ostiary_gateway.http1.methods import KNOWN
from ostiary_gateway.routing import hosts

_HOST = r"^((\*\.)?[a-z0-9_-]+(\.[a-z0-9_-]+)*|\[[0-9a-f:.]+\])$"
_SENT_HOST = r"^([a-z0-9_-]+(\.[a-z0-9_-]+)*|\[[0-9a-f:.]+\])(:[0-9]{1,5})?$"
_HEADER_NAME = r"^[A-Za-z0-9-]{1,64}$"
_CORS_NAME = r"^(\*|[A-Za-z0-9_.-]{1,64})$"
_HEADER_NAMES = r"^[A-Za-z0-9$._-]{1,64}(-\*)?$"
_HEADER_VALUE = r"^[\x21-\x7e]([\x20-\x7e]{0,254}[\x21-\x7e])?$"
_UNIX_URL = r"^unix:/[^\x00?#]{1,100}$"
_METHOD = r"^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,32}$"  # RFC 9110 section 5.6.2, token
_NAME = r"^[a-z][a-z0-9_-]{0,63}$"
_PERMISSION = r"^[\x21\x23-\x5b\x5d-\x7e]+$"  # RFC 6749 section 3.3, scope-token
_PATH = r"^/[\x21-\x7e]{0,255}$"

_PATTERN_MESSAGES = {
    _HOST: "must be a host name in lower case, without port, such as api.example.com or *.example.com",
    _SENT_HOST: "must be client, upstream or a host name in lower case, such as orders.example.com",
    _HEADER_NAME: "must be a header name: letters, digits and '-', at most 64",
    _CORS_NAME: "must be '*' or a header name: letters, digits, '-', '_' and '.', at most 64",
    _HEADER_NAMES: "must be a header name, or the beginning of several with '-*' at its end",
    _HEADER_VALUE: "must be a header value: printable ASCII, no surrounding spaces, at most 256 characters",
    _UNIX_URL: "must be unix: and the absolute path of a socket, such as unix:/run/orders.sock",
    _METHOD: "must be a method, such as GET: a token (RFC 9110 section 5.6.2) of at most 32 characters",
    _NAME: "must be a name: lower-case letters, digits, '-' and '_', starting with a letter, at most 64 characters",
    _PERMISSION: "must be a scope or role: printable ASCII without spaces, quotation marks and backslashes",
    _PATH: "must be a path: starting with '/', printable ASCII without spaces, at most 256 characters",
}

# By pydantic's error types.
_MESSAGES = {
    "bool_type": "must be true or false",
    "dict_type": "must be a mapping",
    "extra_forbidden": "unknown field",
    "float_type": "must be a number",
    "frozen_set_type": "must be a list",
    "int_type": "must be an integer",
    "missing": "required field is missing",
    "model_type": "must be a mapping",
    "string_type": "must be a string",
    "too_long": "at most {max_length} items allowed",
    "too_short": "at least {min_length} items required",
    "tuple_type": "must be a list",
}

#: For the JSON Schema: no keys but those that match the pattern.
CLOSED_MAPPING = {"additionalProperties": False}


class Section(BaseModel):
    """Base of all mappings with fixed fields in the routes file. The fields' docstrings go into the JSON Schema."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    def over(self, default: Self) -> Self:
        """Return `default` with what is set here in its place. Raises ValidationError if that does not go together."""
        fields = {name: getattr(each, name) for each in (default, self) for name in each.model_fields_set}
        return type(self).model_validate(fields)


def text_or_other(value: object) -> str:
    """Choose the member of a union by the value's type, so that errors are about that member alone."""
    return "text" if isinstance(value, str) else "other"


def none_for_text(value: object) -> object:
    """Take the text `none` for the absence of a section."""
    return None if value == "none" else value


def _address_kind(value: object) -> str:
    return "unix" if isinstance(value, str) and value.startswith("unix:") else "text"


def _valid_method(method: str) -> str:
    if method in {"CONNECT", "TRACE"}:
        raise ValueError(f"{method} is not supported: it would reach through the service, or show what only it may see")
    if method not in KNOWN and method.upper() in KNOWN:
        raise ValueError(f"methods are case-sensitive: write {method.upper()}")
    return method


def _scalar_kind(value: object) -> str | None:
    return type(value).__name__ if isinstance(value, str | bool | int) else None


def _check_not_own(name: str) -> str:
    if is_own(name):
        raise ValueError("the gateway itself sets or removes this header")
    return name


def _ascii_host(value: object) -> object:
    """Ask for the A-labels of a host: that is how clients send it."""
    if not isinstance(value, str) or value.isascii():
        return value
    raise ValueError(f"must be in ASCII: {hosts.normalise_name(value)}")


def _valid_host(value: str) -> str:
    prefix = "*." if value.startswith("*.") else ""
    return prefix + hosts.normalise_name(value.removeprefix(prefix))


def _valid_authority(value: str) -> str:
    name, port = hosts.parse_authority(value.encode())
    return name if port is None else f"{name}:{port}"


Host = Annotated[str, BeforeValidator(_ascii_host), Field(pattern=_HOST), AfterValidator(_valid_host)]
SentHost = Annotated[str, BeforeValidator(_ascii_host), Field(pattern=_SENT_HOST), AfterValidator(_valid_authority)]
HeaderName = Annotated[str, Field(pattern=_HEADER_NAME)]
HeaderNames = Annotated[str, Field(pattern=_HEADER_NAMES), AfterValidator(_check_not_own)]
HeaderValue = Annotated[str, Field(pattern=_HEADER_VALUE)]
CorsName = Annotated[str, Field(pattern=_CORS_NAME)]
Origin = Annotated[str, AfterValidator(check_origin), Field(json_schema_extra={"pattern": SCHEMA_PATTERN})]
Scalar = Annotated[
    Annotated[StrictStr, Tag("str")] | Annotated[StrictBool, Tag("bool")] | Annotated[StrictInt, Tag("int")],
    Discriminator(
        _scalar_kind,
        custom_error_type="scalar",
        custom_error_message="must be a string, an integer or a boolean",
    ),
]
UnixUrl = Annotated[str, Field(pattern=_UNIX_URL)]
Address = Annotated[Annotated[UnixUrl, Tag("unix")] | Annotated[BaseUrl, Tag("text")], Discriminator(_address_kind)]
Addresses = Annotated[
    tuple[Address, ...],
    Field(min_length=1, max_length=64),
    BeforeValidator(split_list, json_schema_input_type=list[Address] | str),
]
Special = Literal["/", "\\", "#", "?", "%", ";", "//"]
Method = Annotated[str, Field(pattern=_METHOD), AfterValidator(_valid_method)]
Name = Annotated[str, Field(pattern=_NAME)]
PlainPath = Annotated[str, Field(pattern=_PATH)]
Permission = Annotated[str, Field(pattern=_PERMISSION)]


def error_message(item: ErrorDetails) -> str:
    """Translate one of pydantic's errors into the terms of the routes file."""
    context = item.get("ctx", {})
    if item["type"] == "string_pattern_mismatch":
        return _PATTERN_MESSAGES[context["pattern"]]
    known = _MESSAGES.get(item["type"])
    if known is not None:
        return known.format(**context)
    return item["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
