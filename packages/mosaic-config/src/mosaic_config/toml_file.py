"""Reading a TOML file, without the seconds that importing TorchTitan takes."""

import tomllib
from typing import Any

from mosaic_config.errors import ConfigError

# tomllib's own words for a repeated key or table do not say so.
_REPEATED = ("Cannot overwrite", "Cannot declare", "Duplicate", "Cannot mutate")


def read_toml(path: str) -> dict[str, Any]:
    """Return the tables of a TOML file.

    Raises:
        ConfigError: The file cannot be read or is not valid TOML.
    """
    try:
        with open(path, "rb") as file:
            return tomllib.load(file)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; give the path of a TOML file") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not valid TOML: not UTF-8 text ({error.reason})") from error
    except tomllib.TOMLDecodeError as error:
        why = str(error)
        if why.startswith(_REPEATED):
            why = f"a key or table is given twice: {why}"
        raise ConfigError(f"{path}: not valid TOML: {why}") from error
