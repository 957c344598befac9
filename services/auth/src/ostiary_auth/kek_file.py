"""The file with the key-encryption keys."""

from ostiary_auth.config import AuthConfig
from ostiary_auth.domain.keys.vault import Vault, load_vault, new_kek
from ostiary_chassis.settings import ConfigError, create_secret


def open_vault(config: AuthConfig, *, may_create: bool = False) -> Vault:
    """Read the key-encryption keys. Raises ConfigError."""
    try:
        if may_create:
            create_secret(config.kek_path, new_kek())
        return load_vault(config.kek_path)
    except ValueError as error:
        raise ConfigError(f"OSTIARY_AUTH_KEK_FILE: {config.kek_path} {error}") from None
    except OSError as error:
        raise ConfigError(f"OSTIARY_AUTH_KEK_FILE: cannot use {config.kek_path}: {error.strerror}") from None


def wrong_kek(config: AuthConfig) -> ConfigError:
    return ConfigError(f"OSTIARY_AUTH_KEK_FILE: {config.kek_path} does not open the keys in the database")
