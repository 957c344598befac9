"""Which passwords are good enough (NIST SP 800-63B-4 section 3.1.1.2): long ones that are not on every guesser's list.

No character is asked for and none is refused; nothing is cut off. What looks the same is the same (NFKC).
"""

import gzip
import unicodedata
from collections.abc import Iterable
from functools import cache
from importlib.resources import files

from ostiary_auth.domain.errors import UnacceptablePassword

MAX_PASSWORD_CHARACTERS = 256

#: Words that a guesser tries here first: the name of the service (section 3.1.1.2, "context-specific words").
_CONTEXT = ("ostiary",)


def normalise(password: str) -> str:
    """Bring different encodings of the same characters together."""
    return unicodedata.normalize("NFKC", password)


def accept(password: str, *, minimum: int, about: Iterable[str] = ()) -> str:
    """Return a new password, normalised. `about` is what is known of its owner. Raises UnacceptablePassword."""
    normalised = normalise(password)
    if len(normalised) < minimum:
        raise UnacceptablePassword(f"The password must have at least {minimum} characters.")
    if len(normalised) > MAX_PASSWORD_CHARACTERS:
        raise UnacceptablePassword(f"The password must have at most {MAX_PASSWORD_CHARACTERS} characters.")
    folded = normalised.casefold()
    if folded in _common() or _is_made_of(folded, (*about, *_CONTEXT)):
        raise UnacceptablePassword("This password is one of the first that somebody would try; choose another.")
    return normalised


def _is_made_of(folded: str, words: Iterable[str]) -> bool:
    """Return whether no letter is left when a word that has some is taken away."""
    parts = (normalise(word).casefold() for word in words if any(map(str.isalpha, word)))
    return any(part in folded and not any(map(str.isalpha, folded.replace(part, ""))) for part in parts)


@cache
def _common() -> frozenset[str]:
    """Return the list, which is only read when the first password is chosen."""
    packed = (files("ostiary_auth.domain.accounts") / "common_passwords.txt.gz").read_bytes()
    return frozenset(gzip.decompress(packed).decode().splitlines())
