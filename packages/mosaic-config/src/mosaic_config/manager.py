"""`MosaicConfigManager`: TOML and command line in, checked `MosaicJobConfig` out."""

import contextlib
import importlib
import logging
import os
import sys
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import is_dataclass
from typing import Any

from torchtitan.config import ConfigManager
from torchtitan.tools.logging import logger

from mosaic_config.arguments import Given, read_arguments, single_value
from mosaic_config.errors import ConfigError
from mosaic_config.job_config import MosaicJobConfig
from mosaic_config.named_options import take_named_options
from mosaic_config.options import parse_options, print_section
from mosaic_config.schema import Path, dotted
from mosaic_config.strict import build_strictly
from mosaic_config.validate import validate

CONFIG_PATH = "config_path"
CONFIG_FILE = "job.config_file"
CUSTOM_MODULE = "job.custom_config_module"

# tomllib's own words for a repeated key or table do not say so.
_REPEATED = ("Cannot overwrite", "Cannot declare", "Duplicate", "Cannot mutate")


class MosaicConfigManager(ConfigManager):
    """TorchTitan's `ConfigManager` for `MosaicJobConfig`, with strict reading.

    Precedence is TorchTitan's: command line over TOML file over defaults. Beside its
    `--job.config_file FILE`, the file may be given as `--config-path FILE`.

        config = MosaicConfigManager().parse_args(sys.argv[1:])
    """

    config_cls: type[MosaicJobConfig]
    config: MosaicJobConfig

    def __init__(self, config_cls: type[MosaicJobConfig] = MosaicJobConfig) -> None:
        """Create a manager for a configuration dataclass, `MosaicJobConfig` or one derived."""
        super().__init__(config_cls)

    def parse_args(self, args: Sequence[str] | None = None) -> MosaicJobConfig:
        """Return the configuration; `job.config_file` holds the TOML file's path, if there is one.

        Args:
            args: Command line tokens; `sys.argv[1:]` if None.

        Raises:
            ConfigError: one line for whatever is wrong in the file or on the command line.
            SystemExit: `--help` was given; help is printed, the status is 0.
        """
        root, given, base = self._read(sys.argv[1:] if args is None else args)
        self.config = parse_options(root, given, base)
        problems = list(_expand_home(self.config))
        if problems:
            raise ConfigError.of_file(problems, self.config.job.config_file)
        self._validate_config()
        validate(self.config)
        return self.config

    def print_section(self, section: str, args: Sequence[str]) -> None:
        """Print the options of one section; `--help` among `parse_args`' prints those of all.

        Args:
            section: Its name, such as `training`.
            args: Command line tokens; a file among them gives the values that are shown.

        Raises:
            ConfigError: there is no such section, or the file has a mistake.
        """
        root, _, base = self._read(args)
        print_section(root, base, section)

    def _read(self, args: Sequence[str]) -> tuple[type[MosaicJobConfig], list[Given], Any]:
        """Return the configuration's class, the options left to parse, and the file's values."""
        given = read_arguments(args)
        path = single_value(given, {CONFIG_PATH, CONFIG_FILE})
        # A shell leaves it in `--config-path=~/job.toml`.
        path = os.path.expanduser(path) if path else path
        data = _read_toml(path) if path else {}
        root = self._class_for(given, data)
        given = take_named_options(root, _with_config_file(given, path), data)
        return root, given, build_strictly(root, data, path)

    def _class_for(self, given: Sequence[Given], data: dict[str, Any]) -> type[MosaicJobConfig]:
        """Return the configuration class, merged with `job.custom_config_module`'s if named."""
        name = single_value(given, {CUSTOM_MODULE})
        job = data.get("job")
        if name is None and isinstance(job, dict):
            name = job.get("custom_config_module")
        if not name or not isinstance(name, str):  # a wrong type is reported with the others
            return self.config_cls
        try:
            custom = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if not error.name or not f"{name}.".startswith(f"{error.name}."):
                raise  # the module is there; what it imports is not
            raise ConfigError(
                f'{CUSTOM_MODULE} "{name}" cannot be imported: no module named "{error.name}"; '
                "check the spelling and PYTHONPATH"
            ) from error
        if not is_dataclass(getattr(custom, "JobConfig", None)):
            raise ConfigError(f'{CUSTOM_MODULE} "{name}" has no dataclass named JobConfig')
        merged: type[MosaicJobConfig] = self._merge_configs(self.config_cls, custom.JobConfig)
        return merged

    def _validate_config(self) -> None:
        """Apply TorchTitan's checks, without its tokenizer warning if it has no place."""
        model = self.config.model
        assets = model.tokenizer_path or model.hf_assets_path
        if assets.endswith("tokenizer.model") and os.path.exists(assets):
            raise ConfigError(
                f"model.hf_assets_path = {assets} is an old tokenizer.model file; "
                "give the directory of tokenizer files from torchtitan's download_hf_assets.py"
            )
        with _quiet_about_assets(self.config.mosaic_tokenizer.name is not None):
            super()._validate_config()


def _is_path(key: str) -> bool:
    """Whether an option holds a path, by its name; TorchTitan's and a custom module's, too."""
    return key in ("folder", "remote", "local") or key.endswith(
        ("_folder", "_path", "_file", "_dir")
    )


def _expand_home(section: Any, place: Path = ()) -> Iterator[str]:
    """Replace `~` and `~user` at the start of every path; no library below does.

    Args:
        section: The configuration, or a section of it; changed in place.
        place: Where it stands.

    Yields:
        A sentence for each path whose home directory is not known.
    """
    for key, value in list(vars(section).items()):
        where = (*place, key)
        if is_dataclass(value) and where != ("mosaic_prepare",):  # resolves its own
            yield from _expand_home(value, where)
        elif key == "streams" and isinstance(value, dict):
            for name, stream in value.items():
                yield from _expand_home(stream, (*where, name))
        elif _is_path(key) and isinstance(value, str) and value.startswith("~"):
            expanded = os.path.expanduser(value)
            setattr(section, key, expanded)
            if expanded.startswith("~"):
                user = value.partition("/")[0]
                yield (
                    f"[{dotted(place)}] {key} = {value!r}: there is no home directory for "
                    f"{user!r}; write the path in full"
                )


def _with_config_file(given: Sequence[Given], path: str | None) -> list[Given]:
    """Spell the TOML file's option as TorchTitan does, so that it ends up in the configuration."""
    rest = [option for option in given if option.name not in (CONFIG_PATH, CONFIG_FILE)]
    return rest if path is None else [*rest, Given(f"--{CONFIG_FILE}", [path], inline=True)]


@contextlib.contextmanager
def _quiet_about_assets(quiet: bool) -> Iterator[None]:
    """Drop "HF assets path … does not exist!": with a tokenizer of its own, nobody reads it."""

    def wanted(record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith("HF assets path")

    if not quiet:
        yield
        return
    logger.addFilter(wanted)
    try:
        yield
    finally:
        logger.removeFilter(wanted)


def _read_toml(path: str) -> dict[str, Any]:
    """Return the tables of a TOML file.

    Raises:
        ConfigError: the file cannot be read or is not valid TOML.
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
