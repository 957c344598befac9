import base64
from pathlib import Path

import pytest

from ostiary_auth.domain.keys.vault import UnsealError, Vault, load_vault, new_kek
from ostiary_chassis.settings import create_secret

OLD, NEW = bytes(32), bytes([1]) * 32


def test_what_was_sealed_is_opened_under_its_name_only() -> None:
    vault = Vault((OLD,))
    sealed = vault.seal(b"secret", "name")
    assert b"secret" not in sealed
    assert vault.open(sealed, "name") == b"secret"
    with pytest.raises(UnsealError):
        vault.open(sealed, "another")


def test_the_first_key_seals_and_all_open() -> None:
    sealed = Vault((OLD,)).seal(b"secret", "name")
    both = Vault((NEW, OLD))
    assert both.open(sealed, "name") == b"secret"
    assert Vault((NEW,)).open(both.seal(b"secret", "name"), "name") == b"secret"
    with pytest.raises(UnsealError):
        Vault((NEW,)).open(sealed, "name")


@pytest.mark.parametrize("sealed", [b"", b"x", bytes(12), bytes(40)])
def test_what_was_never_sealed_cannot_be_opened(sealed: bytes) -> None:
    with pytest.raises(UnsealError):
        Vault((OLD,)).open(sealed, "name")


def test_the_kek_is_made_once_and_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "kek"
    create_secret(path, new_kek())
    vault = load_vault(path)
    assert [len(kek) for kek in vault.keks] == [32]
    create_secret(path, new_kek())
    assert load_vault(path) == vault
    assert path.stat().st_mode & 0o777 == 0o600
    assert [file.name for file in tmp_path.iterdir()] == ["kek"]


def test_a_file_may_hold_several_keys_the_newest_first(tmp_path: Path) -> None:
    path = tmp_path / "kek"
    path.write_bytes(base64.b64encode(NEW) + b"\n" + base64.b64encode(OLD) + b"\n")
    assert load_vault(path).keks == (NEW, OLD)


@pytest.mark.parametrize(
    "content",
    [b"", b"\n", b"short", base64.b64encode(bytes(31)), bytes(32), b"\xff" * 44, base64.b64encode(OLD) + b"\nx"],
)
def test_a_file_that_is_no_kek_is_refused_and_kept(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "kek"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="32 random bytes"):
        load_vault(path)
    assert path.read_bytes() == content


def test_a_vault_does_not_show_its_keys() -> None:
    assert "kek" not in repr(Vault((b"kek" * 8,)))
