"""NIST SP 800-63B-4 section 3.1.1.2: length and a list of what is guessed first, and nothing else."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ostiary_auth.domain.accounts.password_policy import MAX_PASSWORD_CHARACTERS, accept, normalise
from ostiary_auth.domain.errors import UnacceptablePassword

GOOD = "correct horse battery staple"


def refused(password: str, *, minimum: int = 8, about: tuple[str, ...] = ()) -> str:
    """Return why a password was refused."""
    with pytest.raises(UnacceptablePassword) as caught:
        accept(password, minimum=minimum, about=about)
    assert str(caught.value) == caught.value.detail
    return caught.value.detail


class TestLength:
    @pytest.mark.parametrize("minimum", [8, 12, 15, 64])
    def test_the_minimum_is_a_setting(self, minimum: int) -> None:
        shortest = ("kestrel vole " * 5)[:minimum]
        assert accept(shortest, minimum=minimum) == shortest
        assert f"at least {minimum} characters" in refused(shortest[:-1], minimum=minimum)

    @pytest.mark.parametrize("length", [64, 128, 255, MAX_PASSWORD_CHARACTERS])
    def test_a_long_password_is_kept_whole(self, length: int) -> None:
        password = (GOOD * 10)[:length]
        assert accept(password, minimum=8) == password

    def test_a_longer_one_than_the_maximum_is_refused_and_not_cut(self) -> None:
        assert MAX_PASSWORD_CHARACTERS == 256
        assert "at most 256 characters" in refused("x" * 257)

    def test_characters_are_counted_and_not_bytes(self) -> None:
        assert accept("\U0001f98a" * 8, minimum=8) == "\U0001f98a" * 8
        assert accept("\U0001f98a" * 256, minimum=8) == "\U0001f98a" * 256
        assert "at least 8" in refused("\U0001f98a" * 7)

    def test_a_password_is_measured_as_it_is_stored(self) -> None:
        # Seven letters whose accents were typed apart.
        assert "at least 8" in refused("e\u0301" * 7)

    def test_an_empty_password_is_refused(self) -> None:
        assert "at least 8" in refused("")


class TestCharacters:
    @pytest.mark.parametrize(
        "password",
        [
            "   two spaces  around  ",
            "tab\tand\nnewline",
            "\u043f\u0430\u0440\u043e\u043b\u044c\u043d\u0430\u044f \u0444\u0440\u0430\u0437\u0430",
            "\u5bc6\u78bc\u5bc6\u78bc\u6b63\u78ba\u99ac\u96fb\u6c60",
            "\U0001f98a\U0001f9a6\U0001f9a1\U0001f994\U0001f43f\U0001f987\U0001f40b\U0001f988",
            "\u05e9\u05dc\u05d5\u05dd \u05e2\u05d5\u05dc\u05dd",
            "'; DROP TABLE users; --",
            "<script>alert(1)</script>",
            "kestrelvole",
            "KESTRELVOLE",
            "7391846520462",
            "?!$%&/()=#+*~",
        ],
    )
    def test_no_kind_of_character_is_asked_for_and_none_is_refused(self, password: str) -> None:
        assert accept(password, minimum=8) == unicodedata.normalize("NFKC", password)

    @given(st.characters(exclude_categories=["Cs"]))
    def test_every_character_counts(self, character: str) -> None:
        accepted = accept(f"kestrel{character}vole 731", minimum=8)
        assert accepted == normalise(f"kestrel{character}vole 731")
        assert len(accepted) >= len("kestrelvole 731")

    @given(st.text(st.characters(exclude_categories=["Cs"]), max_size=300))
    def test_what_is_accepted_is_the_whole_password_or_nothing(self, password: str) -> None:
        try:
            accepted = accept(password, minimum=8)
        except UnacceptablePassword:
            return
        assert accepted == unicodedata.normalize("NFKC", password)
        assert 8 <= len(accepted) <= MAX_PASSWORD_CHARACTERS

    @pytest.mark.parametrize(
        ("typed", "stored"),
        [
            ("cafe\u0301 au lait", "caf\u00e9 au lait"),
            ("\uff4b\uff45\uff53trel vole", "kestrel vole"),
            ("\ufb01nal kestrel", "final kestrel"),
            ("kestrel\u00a0vole", "kestrel vole"),
            ("kestrel\u00b2vole", "kestrel2vole"),
        ],
    )
    def test_what_looks_the_same_is_the_same(self, typed: str, stored: str) -> None:
        assert accept(typed, minimum=8) == stored == normalise(typed)

    def test_case_counts(self) -> None:
        assert accept("Kestrel Vole", minimum=8) != accept("kestrel vole", minimum=8)


class TestGuessedFirst:
    @pytest.mark.parametrize(
        "password",
        [
            *("password", "PASSWORD", "PassWord", "password1", "Password123", "qwertyuiop", "QwertyUIOP"),
            *("12345678", "123456789", "11111111", "iloveyou", "ILoveYou", "football", "1q2w3e4r", "trustno1"),
            "\uff50\uff41\uff53\uff53\uff57\uff4f\uff52\uff44",
        ],
    )
    def test_a_common_password_is_refused_in_any_case(self, password: str) -> None:
        assert "too common or too easy to guess" in refused(password)

    @pytest.mark.parametrize(
        "password", ["ostiary1", "Ostiary123", "OSTIARY!2026", "12345ostiary", "ostiary-ostiary", "...ostiary..."]
    )
    def test_the_name_of_the_service_with_digits_is_refused(self, password: str) -> None:
        assert "choose another" in refused(password)

    @pytest.mark.parametrize(
        "password",
        [
            *("ada@example.com", "ADA@EXAMPLE.COM", "ada@example.com1", "lovelace-1815", "1815Lovelace", "LOVELACE!"),
            *("ada.byron", "ada.byron1", "2026ada.byron"),
        ],
    )
    def test_the_owners_address_or_name_with_digits_is_refused(self, password: str) -> None:
        assert "choose another" in refused(password, about=("ada@example.com", "ada.byron", "Lovelace"))
        if password.casefold() != "lovelace!":
            assert accept(password, minimum=8) == password

    def test_a_name_is_recognised_however_its_accents_were_typed(self) -> None:
        assert "choose another" in refused("Ren\u00e9e Zo\u00eb 1987", about=("Rene\u0301e Zoe\u0308",))

    @pytest.mark.parametrize("password", ["ostiary kestrel", "lovelace likes kestrels", "adaexample kestrel"])
    def test_a_phrase_may_hold_such_a_word(self, password: str) -> None:
        assert accept(password, minimum=8, about=("ada@example.com", "ada", "Lovelace")) == password

    @pytest.mark.parametrize("about", ["", "7", "42", "\U0001f98a"])
    def test_who_has_a_name_without_letters_need_not_use_letters_either(self, about: str) -> None:
        password = "7391-8465-2042 \U0001f98a"
        assert accept(password, minimum=8, about=(about,)) == password


@pytest.mark.parametrize("password", ["kestrel", "kestrel" * 60, "password1", "ostiary2026", "lovelace1"])
def test_a_refusal_says_what_to_do_and_does_not_repeat_the_password(password: str) -> None:
    reason = refused(password, about=("Lovelace",))
    assert any(hint in reason for hint in ("at least 8 characters", "at most 256 characters", "choose another"))
    assert password not in reason
    assert "lovelace" not in reason.lower()
