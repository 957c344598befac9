"""E-mail addresses, and which spellings belong to the same account."""

import unicodedata
from collections.abc import Collection
from functools import cache
from importlib.resources import files

from email_validator import SPECIAL_USE_DOMAIN_NAMES, EmailNotValidError, validate_email

from ostiary_auth.domain.errors import InvalidEmail
from ostiary_chassis.names import has_ignorables

#: Characters of a folded address; folding may turn one character into eighteen.
MAX_EMAIL_KEY_CHARACTERS = 640


#: Domains of special use, without those that mail may reach within a network, such as `internal` (RFC 6761 and others).
_SPECIAL_USE = frozenset(SPECIAL_USE_DOMAIN_NAMES)

# Which of them are accepted is decided here: its documentation tells to change this list for that.
SPECIAL_USE_DOMAIN_NAMES.clear()


def accept_email(email: str, special_domains: Collection[str]) -> str:
    """Return the normalised address of a new account. Raises InvalidEmail.

    No mail reaches domains of special use, such as `.local` (RFC 6761), except the `special_domains` and those below
    them. Characters that are shown as nothing would make two addresses of what people take for one.
    """
    address = parse_email(email)
    domain = address.rpartition("@")[2]
    if has_ignorables(address):
        raise InvalidEmail
    if not _is_in(domain, special_domains):
        if _is_in(domain, _SPECIAL_USE):
            raise InvalidEmail
        _validated(address, globally_deliverable=True)
    return address


def parse_email(email: str) -> str:
    """Return a normalised address, without white space around it. Raises InvalidEmail."""
    return _validated(email.strip(), globally_deliverable=False)


def _validated(email: str, *, globally_deliverable: bool) -> str:
    try:
        return validate_email(
            email,
            check_deliverability=False,
            globally_deliverable=globally_deliverable,
            allow_smtputf8=True,
            strict=True,
        ).normalized
    except EmailNotValidError:
        raise InvalidEmail from None


def _is_in(domain: str, domains: Collection[str]) -> bool:
    return any(domain == each or domain.endswith(f".{each}") for each in domains)


def email_key(address: str) -> str:
    """Return a key that all confusable spellings of an address share. Raises InvalidEmail if nothing valid is left.

    Case and compatibility characters are folded, as mailboxes that differ only in those belong to one person in
    practice. Then characters that look like one of ASCII are replaced by it (UTS #39), so that nobody can register an
    address that looks like another user's.
    """
    key = _fold(address)
    # A replaced character may fold further.
    while not key.isascii() and (again := _fold(_replace_look_alikes(key))) != key:
        key = again
    if len(key) > MAX_EMAIL_KEY_CHARACTERS or key.count("@") != 1:
        raise InvalidEmail
    return key


def _fold(text: str) -> str:
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())


def _replace_look_alikes(text: str) -> str:
    """Replace characters that look like ASCII ones, also below accents."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", text).translate(look_alikes()))


@cache
def look_alikes() -> dict[int, str]:
    """Return the table of characters that look like ASCII ones."""
    text = (files("ostiary_auth.domain.accounts") / "confusables.txt").read_text("utf-8")
    pairs = (line.split() for line in text.splitlines() if not line.startswith("#"))
    return {int(code, 16): looks_like for code, looks_like in pairs}
