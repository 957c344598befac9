"""Names that people see: nobody's may look like another's, or change how the text around it is shown."""

import unicodedata
from collections.abc import Iterable

#: Characters that reorder the text around them (UAX #9 section 2). Letters of right-to-left scripts need none of them.
_BIDIRECTIONAL_CONTROLS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")

#: Deprecated formatting characters, and those of interlinear annotations (Unicode Standard sections 23.3 and 23.8).
_OBSOLETE_CONTROLS = frozenset(map(chr, (*range(0x206A, 0x2070), *range(0xFFF9, 0xFFFC))))

#: General categories: controls, surrogates, line and paragraph separators.
_CONTROL_CATEGORIES = frozenset({"Cc", "Cs", "Zl", "Zp"})

#: Code points with the property Default_Ignorable_Code_Point, which are shown as nothing: first and last of each range.
#: From the Unicode Character Database, DerivedCoreProperties.txt (Unicode License V3,
#: https://www.unicode.org/license.txt); it has had these since version 5.0, apart from 180F, which is of 14.0.
_DEFAULT_IGNORABLE_RANGES = (
    (0xAD, 0xAD),
    (0x34F, 0x34F),
    (0x61C, 0x61C),
    (0x115F, 0x1160),
    (0x17B4, 0x17B5),
    (0x180B, 0x180F),
    (0x200B, 0x200F),
    (0x202A, 0x202E),
    (0x2060, 0x206F),
    (0x3164, 0x3164),
    (0xFE00, 0xFE0F),
    (0xFEFF, 0xFEFF),
    (0xFFA0, 0xFFA0),
    (0xFFF0, 0xFFF8),
    (0x1BCA0, 0x1BCA3),
    (0x1D173, 0x1D17A),
    (0xE0000, 0xE0FFF),
)
_DEFAULT_IGNORABLE = frozenset(
    chr(code) for first, last in _DEFAULT_IGNORABLE_RANGES for code in range(first, last + 1)
)


def has_ignorables(text: str) -> bool:
    """Return whether a text has characters that are shown as nothing, unless they change a neighbour."""
    return not _DEFAULT_IGNORABLE.isdisjoint(text)


def has_controls(text: str, allowed: Iterable[str] = ()) -> bool:
    """Return whether a text has control characters, of the line or of its direction, other than the `allowed` ones."""
    return any(_is_control(character) for character in set(text).difference(allowed))


def is_name(text: str) -> bool:
    """Return whether a text is fit for a name: it has no controls, and something to see.

    Joiners (U+200C, U+200D) and variation selectors are needed in Persian, in Indic scripts and in emoji.
    """
    return not has_controls(text) and any(not _is_blank(character) for character in text)


def _is_control(character: str) -> bool:
    return (
        unicodedata.category(character) in _CONTROL_CATEGORIES
        or character in _BIDIRECTIONAL_CONTROLS
        or character in _OBSOLETE_CONTROLS
    )


def _is_blank(character: str) -> bool:
    # U+2800 is a Braille pattern without dots.
    return character.isspace() or character == "\u2800" or character in _DEFAULT_IGNORABLE
