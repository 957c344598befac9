"""Names of people in every script are accepted, and nothing that hides in them or turns text around."""

import pytest

from ostiary_chassis.names import has_controls, has_ignorables, is_name


@pytest.mark.parametrize(
    "name",
    [
        "Ada Lovelace",
        "O'Brien-Smith, Jr.",
        "Zoë Ünal",
        "Zoe\u0308",
        "李小龍",
        "さくら",
        "김유나",
        "Мария Склодовская",
        "Ελένη",
        "محمد",
        "שרה כהן",
        "Ada محمد",
        "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
        "क्\u200dष",
        "ක්\u200dරි",
        "ශ්\u200dරී",
        "สมชาย",
        "👩\u200d💻 Ada",
        "❤\ufe0f",
        "\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",
        "葛\U000e0100城",
        "ᠮᠣᠩᠭᠣᠯ\u180eᠤ",
        "a\u00a0b",
        "x",
    ],
)
def test_names_of_all_languages_are_accepted(name: str) -> None:
    assert is_name(name)


@pytest.mark.parametrize("code", [0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)])
def test_controls_of_the_direction_are_refused(code: int) -> None:
    assert not is_name(f"Ada{chr(code)}nimda")


@pytest.mark.parametrize("code", [*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029, 0x206A, 0x206F, 0xFFF9, 0xD800])
def test_controls_are_refused(code: int) -> None:
    assert not is_name(f"Ada{chr(code)}Lovelace")


@pytest.mark.parametrize(
    "name", ["", " ", "\u00a0", "\u200b", "\u3164", "\u115f\u1160", "\ufeff", "\u2800", "\u034f", "\ufe0f"]
)
def test_a_name_has_something_to_see(name: str) -> None:
    assert not is_name(name)


def test_a_text_may_have_the_controls_that_it_needs() -> None:
    assert not has_controls("a\nb\u200f", allowed="\n\u200f")
    assert has_controls("a\nb\u202e", allowed="\n\u200f")


def test_default_ignorable_characters_are_those_of_unicode() -> None:
    """Their number in DerivedCoreProperties.txt of Unicode 14 to 17."""
    assert sum(has_ignorables(chr(code)) for code in range(0x110000)) == 4174
