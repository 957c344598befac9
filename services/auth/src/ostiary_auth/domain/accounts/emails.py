"""E-mail addresses, and what makes two spellings of one the same account."""

import unicodedata
from functools import cache
from importlib.resources import files

from email_validator import EmailNotValidError, validate_email

from ostiary_auth.domain.errors import InvalidEmail

#: Characters of an address with its case and compatible characters folded; some become eighteen.
MAX_EMAIL_KEY_CHARACTERS = 640


def parse_email(email: str) -> str:
    """Return an address in its normal form. Raises InvalidEmail."""
    try:
        return validate_email(email, check_deliverability=False, allow_smtputf8=True, strict=True).normalized
    except EmailNotValidError:
        raise InvalidEmail from None


def email_key(address: str) -> str:
    """Return what is the same for all spellings of an address that people take for one.

    Case and compatible characters are folded, as mailboxes that differ only there belong to one person in
    practice; then characters that look like an ASCII letter become that letter (UTS #39), so that
    nobody can hold an account that looks like another's. Raises InvalidEmail for an address that folds into none.
    """
    key = _fold(address)
    # What looks like a letter may be one with an accent; once it is the letter, it may fold further.
    while not key.isascii() and (again := _fold(_replace_look_alikes(key))) != key:
        key = again
    if len(key) > MAX_EMAIL_KEY_CHARACTERS or key.count("@") != 1:
        raise InvalidEmail
    return key


def _fold(text: str) -> str:
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())


def _replace_look_alikes(text: str) -> str:
    """Replace letters that look like ASCII ones, under their accents, too."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", text).translate(_look_alikes()))


@cache
def _look_alikes() -> dict[int, str]:
    """Return the table, which is only read for an address that is not ASCII."""
    text = (files("ostiary_auth.domain.accounts") / "confusables.txt").read_text("utf-8")
    pairs = (line.split() for line in text.splitlines() if not line.startswith("#"))
    return {int(code, 16): looks_like for code, looks_like in pairs}
