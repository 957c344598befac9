"""The password policy (NIST SP 800-63B-4 section 3.1.1.2): a minimum length, and no commonly used passwords.

No class of characters is required or forbidden, and nothing is truncated. Equivalent characters are equal (NFKC).
"""

import gzip
import unicodedata
from collections.abc import Iterable
from functools import cache
from importlib.resources import files

from ostiary_auth.domain.errors import UnacceptablePassword

MAX_PASSWORD_CHARACTERS = 256

#: Context-specific words (section 3.1.1.2): the name of the service.
_CONTEXT = ("ostiary",)


def normalise(password: str) -> str:
    return unicodedata.normalize("NFKC", password)


def accept(password: str, *, minimum: int, about: Iterable[str] = ()) -> str:
    """Return a new password, normalised. `about` is what is known about its owner. Raises UnacceptablePassword."""
    normalised = normalise(password)
    if len(normalised) < minimum:
        raise UnacceptablePassword(f"The password must have at least {minimum} characters.")
    if len(normalised) > MAX_PASSWORD_CHARACTERS:
        raise UnacceptablePassword(f"The password must have at most {MAX_PASSWORD_CHARACTERS} characters.")
    folded = normalised.casefold()
    if folded in common() or _is_made_of(folded, (*about, *_CONTEXT)):
        raise UnacceptablePassword("This password is too common or too easy to guess; choose another one.")
    return normalised


def _is_made_of(folded: str, words: Iterable[str]) -> bool:
    """Return whether only digits and symbols are left when one of the words is removed."""
    parts = (normalise(word).casefold() for word in words if any(map(str.isalpha, word)))
    return any(part in folded and not any(map(str.isalpha, folded.replace(part, ""))) for part in parts)


@cache
def common() -> frozenset[str]:
    """Return the list of common passwords."""
    packed = (files("ostiary_auth.domain.accounts") / "common_passwords.txt.gz").read_bytes()
    return frozenset(gzip.decompress(packed).decode().splitlines())
