"""Which spellings of an address are one account: those that people take for one, and no others."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ostiary_auth.domain.accounts.emails import MAX_EMAIL_KEY_CHARACTERS, email_key, parse_email
from ostiary_auth.domain.errors import InvalidEmail

#: Letters with look-alikes, accents that join what stands before them, and the rest of Unicode.
LOCAL_PART = st.text(
    st.one_of(
        st.sampled_from(
            "aeiop\u0430\u0435\u0456\u043e\u0440\u03b1\u03b9\u03bf\u03c1\u0131\uff41\ufb01\u0301\u0308\u0345.+"
        ),
        st.characters(exclude_categories=["Cs"], exclude_characters="@"),
    ),
    min_size=1,
    max_size=20,
)


def key(address: str) -> str:
    return email_key(parse_email(address))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param("ADA@Example.COM", "ada@example.com", id="case"),
        pytest.param("\uff41\uff44\uff41@example.com", "ada@example.com", id="full-width letters"),
        pytest.param("\ufb01ona@example.com", "fiona@example.com", id="ligature"),
        pytest.param("gro\u00df@example.com", "gross@example.com", id="sharp s"),
        pytest.param("cafe\u0301@example.com", "caf\u00e9@example.com", id="decomposed accent"),
        pytest.param("\u0430d\u0430@example.com", "ada@example.com", id="Cyrillic a"),
        pytest.param("\u0410D\u0410@example.com", "ada@example.com", id="Cyrillic capital A"),
        pytest.param("\u0440\u0435t\u0435r@example.com", "peter@example.com", id="Cyrillic p and e"),
        pytest.param("\u0455c\u043e\u0440\u0435@example.com", "scope@example.com", id="Cyrillic s, o, p and e"),
        pytest.param("b\u03bfb@example.com", "bob@example.com", id="Greek omicron"),
        pytest.param("d\u03b1v\u03b9d@example.com", "david@example.com", id="Greek alpha and iota"),
        pytest.param("d\u0131ana@example.com", "diana@example.com", id="dotless i"),
        pytest.param("ada@\u0435xample.com", "ada@example.com", id="Cyrillic e in the domain"),
        pytest.param("\u0430\u0301da@example.com", "\u00e1da@example.com", id="Cyrillic a under an accent"),
        pytest.param("j\u043e\u0308rg@example.com", "j\u00f6rg@example.com", id="Cyrillic o under dots"),
    ],
)
def test_addresses_that_look_the_same_are_one_account(one: str, other: str) -> None:
    assert key(one) == key(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param("ada.l@example.com", "adal@example.com", id="dots"),
        pytest.param("ada+work@example.com", "ada@example.com", id="a tag"),
        pytest.param("ada+work@example.com", "ada+home@example.com", id="two tags"),
        pytest.param("ada@example.com", "ada@example.org", id="domains"),
        pytest.param("ada@example.com", "ada@mail.example.com", id="a domain below"),
        pytest.param("ada@example.com", "eda@example.com", id="letters"),
        pytest.param("andre@example.com", "andr\u00e9@example.com", id="an accent"),
        pytest.param("bill@example.com", "bi1l@example.com", id="ASCII alone is never changed"),
    ],
)
def test_addresses_of_different_mailboxes_are_two_accounts(one: str, other: str) -> None:
    assert key(one) != key(other)


@pytest.mark.parametrize(
    ("in_unicode", "in_punycode"),
    [
        ("ada@b\u00fccher.example", "ada@xn--bcher-kva.example"),
        ("ada@B\u00dcCHER.example", "ada@XN--BCHER-KVA.example"),
        ("ada@m\u00fcnchen.example", "ada@xn--mnchen-3ya.example"),
        ("ada@\u4f8b\u3048.example", "ada@xn--r8jz45g.example"),
    ],
)
def test_a_domain_in_unicode_and_in_punycode_is_one(in_unicode: str, in_punycode: str) -> None:
    assert key(in_unicode) == key(in_punycode)


@given(LOCAL_PART)
@settings(deadline=None)
@example("\u0430\u0301")
@example("\u0345\u03b9")
@example("\u0130")
@example("\u1e9e")
def test_the_key_of_a_key_is_itself(local_part: str) -> None:
    try:
        once = email_key(f"{local_part}@example.com")
    except InvalidEmail:
        return
    assert email_key(once) == once


@given(st.text(st.characters(max_codepoint=127, exclude_characters="@"), min_size=1, max_size=64))
def test_of_ascii_only_the_case_is_folded(local_part: str) -> None:
    assert email_key(f"{local_part}@example.com") == f"{local_part}@example.com".lower()


@pytest.mark.parametrize(
    "address",
    [
        "",
        " ",
        "ada",
        "@",
        "@example.com",
        "ada@",
        "ada@@example.com",
        "ada@eve@example.com",
        "ada@localhost",
        "ada@example",
        "ada@-example.com",
        "ada@example..com",
        ".ada@example.com",
        "ada.@example.com",
        "a..da@example.com",
        "a da@example.com",
        "ada @example.com",
        "ada@exa mple.com",
        "ada@[192.0.2.7]",
        "ada\n@example.com",
        "ada\0@example.com",
        "Ada <ada@example.com>",
        "ada@xn--a.example",
        "\u0301ada@example.com",
        "ad\u202ea@example.com",
        "ada@" + "x" * 64 + ".com",
        "ada@" + "x." * 127 + "com",
    ],
)
def test_what_mail_cannot_reach_is_no_address(address: str) -> None:
    with pytest.raises(InvalidEmail):
        parse_email(address)


@pytest.mark.parametrize(
    "address", ["", "ada", "a\uff20b@example.com", "a\ufe6bb@example.com", "\ufdfa" * 40 + "@a.com"]
)
def test_what_folds_into_no_address_has_no_key(address: str) -> None:
    with pytest.raises(InvalidEmail):
        email_key(address)


def test_a_key_has_room_in_its_column() -> None:
    assert len(key("\ufdfa" * 20 + "@example.com")) <= MAX_EMAIL_KEY_CHARACTERS
