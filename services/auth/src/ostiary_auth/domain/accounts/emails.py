"""E-mail addresses, and which spellings belong to the same account."""

import unicodedata
from functools import cache
from importlib.resources import files

from email_validator import EmailNotValidError, validate_email

from ostiary_auth.domain.errors import InvalidEmail

#: Characters of a folded address; folding may turn one character into eighteen.
MAX_EMAIL_KEY_CHARACTERS = 640


def parse_email(email: str) -> str:
    """Return a normalised address. Raises InvalidEmail."""
    try:
        return validate_email(email, check_deliverability=False, allow_smtputf8=True, strict=True).normalized
    except EmailNotValidError:
        raise InvalidEmail from None


def email_key(address: str) -> str:
    """Return a key that all confusable spellings of an address share. Raises InvalidEmail if nothing valid is left.

    Case and compatibility characters are folded, as mailboxes that differ only in those belong to one person in
    practice. Then characters that look like an ASCII letter are replaced by it (UTS #39), so that nobody can register
    an address that looks like another user's.
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
    """Replace letters that look like ASCII ones, also below accents."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", text).translate(look_alikes()))


@cache
def look_alikes() -> dict[int, str]:
    """Return the table of letters that look like ASCII ones."""
    text = (files("ostiary_auth.domain.accounts") / "confusables.txt").read_text("utf-8")
    pairs = (line.split() for line in text.splitlines() if not line.startswith("#"))
    return {int(code, 16): looks_like for code, looks_like in pairs}
