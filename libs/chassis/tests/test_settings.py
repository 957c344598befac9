from pathlib import Path
from typing import Annotated

import pytest
from pydantic import Field, ValidationError

from ostiary_chassis.settings import ConfigError, Port, Settings, read_secret, reject_unknown, require_writable
from ostiary_chassis.urls import BaseUrl


class Config(Settings):
    port: Annotated[Port, Field(alias="OSTIARY_TEST_PORT")] = 8080
    url: Annotated[BaseUrl, Field(alias="OSTIARY_TEST_URL")] = "http://localhost:8080"


def test_what_is_not_set_has_its_default() -> None:
    assert Config.load({}).port == 8080
    assert Config.load({"OSTIARY_TEST_PORT": ""}).port == 8080


def test_what_is_set_counts() -> None:
    assert Config.load({"OSTIARY_TEST_PORT": "1234", "OTHER": "x"}).port == 1234


def test_an_unknown_setting_is_rejected() -> None:
    reject_unknown({"OSTIARY_TEST_PORT": "1", "OTHER_PROT": "1"}, "OSTIARY_TEST_", Config.names())
    with pytest.raises(ConfigError, match=r"OSTIARY_TEST_PROT: unknown setting; did you mean \w+_PORT\?"):
        reject_unknown({"OSTIARY_TEST_PROT": "1"}, "OSTIARY_TEST_", Config.names())


@pytest.mark.parametrize("value", ["abc", "0", "65536", "-1", "80.5", " "])
def test_a_bad_value_is_one_line_that_names_the_setting(value: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Config.load({"OSTIARY_TEST_PORT": value})
    assert str(caught.value).startswith("OSTIARY_TEST_PORT: ")
    assert repr(value) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_all_bad_values_are_named_at_once() -> None:
    with pytest.raises(ConfigError, match=r"OSTIARY_TEST_PORT: .*OSTIARY_TEST_URL: "):
        Config.load({"OSTIARY_TEST_PORT": "x", "OSTIARY_TEST_URL": "x"})


def test_a_password_is_not_repeated_even_where_none_belongs() -> None:
    with pytest.raises(ConfigError, match=r"OSTIARY_TEST_URL: .*; remove user and password") as caught:
        Config.load({"OSTIARY_TEST_URL": "http://u:letmein@host"})
    assert "letmein" not in str(caught.value)


def test_a_config_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        Config.load({}).port = 1  # type: ignore[misc]  # what is tried here is not allowed


def test_a_writable_directory_is_made_for_its_owner_only(tmp_path: Path) -> None:
    directory = tmp_path / "new" / "data"
    require_writable(directory, "X")
    assert directory.stat().st_mode & 0o777 == 0o700
    assert list(directory.iterdir()) == []


def test_a_directory_that_cannot_be_written_names_the_setting(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="OSTIARY_DATA_DIR: cannot write in"):
        require_writable(tmp_path / "file" / "data", "OSTIARY_DATA_DIR")


def test_a_secret_comes_without_its_line_end(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text(" s3cret \n")
    assert read_secret(file, "X") == " s3cret "


@pytest.mark.parametrize("content", [None, "", "\n"])
def test_a_secret_that_is_not_there_names_the_setting(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "secret"
    if content is not None:
        file.write_text(content)
    with pytest.raises(ConfigError, match="MY_SECRET_FILE"):
        read_secret(file, "MY_SECRET_FILE")
