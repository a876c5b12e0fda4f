"""`MosaicConfigManager`: TOML and command line in, checked `MosaicJobConfig` out."""

import contextlib
import importlib
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import is_dataclass
from typing import Any

from torchtitan.config import ConfigManager
from torchtitan.tools.logging import logger

from mosaic_config.arguments import (
    FILE_OPTIONS,
    Given,
    config_file,
    read_arguments,
    single_value,
)
from mosaic_config.errors import ConfigError
from mosaic_config.job_config import MosaicJobConfig
from mosaic_config.options import print_help, set_options
from mosaic_config.schema import place, tables_of
from mosaic_config.strict import build_strictly
from mosaic_config.toml_file import read_toml
from mosaic_config.validation import validate

CUSTOM_MODULE = "job.custom_config_module"


class MosaicConfigManager(ConfigManager):
    """TorchTitan's `ConfigManager` for `MosaicJobConfig`, with strict reading.

    Precedence is TorchTitan's: the command line wins over the TOML file, and the file over the
    defaults. The file is given as `--config-path FILE` or as TorchTitan's `--job.config_file FILE`.

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
            ConfigError: There are mistakes in the file or on the command line; one line for each.
            SystemExit: `--help` was given; help is printed, the status is 0.
        """
        args = sys.argv[1:] if args is None else args
        root, given, base = self._read(args)
        if {"-h", "--help"} & {*args}:
            print_help(root, base)
        self.config = set_options(root, given, base)
        problems = list(_expand_home(self.config))
        if problems:
            raise ConfigError.of_file(problems, self.config.job.config_file)
        self._validate_config()
        validate(self.config)
        return self.config

    def print_section(self, section: str | None, args: Sequence[str]) -> None:
        """Print the options of one section, or of all.

        Args:
            section: Its name, such as `training`; None for all.
            args: Command line tokens; a file among them gives the values that are shown.

        Raises:
            ConfigError: There is no such section, or the file has a mistake.
        """
        root, _, base = self._read(args)
        with contextlib.suppress(SystemExit):
            print_help(root, base, section)

    def _read(self, args: Sequence[str]) -> tuple[type[MosaicJobConfig], list[Given], Any]:
        """Return the configuration's class, the options left to set, and the file's values."""
        given, path = read_arguments(args), config_file(args)
        data = read_toml(path) if path else {}
        root = self._class_for(given, data)
        base = build_strictly(root, data, path)
        if path:
            base.job.config_file = path
        return root, [option for option in given if option.name not in FILE_OPTIONS], base

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
        """Apply TorchTitan's checks, without its warning about a tokenizer that is not used."""
        model = self.config.model
        assets = model.tokenizer_path or model.hf_assets_path
        if assets.endswith("tokenizer.model") and os.path.exists(assets):
            raise ConfigError(
                f"model.hf_assets_path = {assets} is an old tokenizer.model file; "
                "give the directory of tokenizer files from torchtitan's download_hf_assets.py"
            )
        if self.config.mosaic_tokenizer.name is not None:
            logger.addFilter(_is_not_about_assets)
        try:
            super()._validate_config()
        finally:
            logger.removeFilter(_is_not_about_assets)


def _is_not_about_assets(record: logging.LogRecord) -> bool:
    """Refuse "HF assets path … does not exist!": nothing reads it with another tokenizer."""
    return not record.getMessage().startswith("HF assets path")


def _is_path(key: str) -> bool:
    """Whether an option holds a path, by its name; TorchTitan's and a custom module's, too."""
    return key in ("folder", "remote", "local") or key.endswith(
        ("_folder", "_path", "_file", "_dir")
    )


def _expand_home(config: MosaicJobConfig) -> Iterator[str]:
    """Replace `~` and `~user` at the start of every path in place; no library below does.

    Yields:
        A sentence for each path whose home directory is not known.
    """
    for path, table in tables_of(config):
        for key, value in vars(table).items():
            starts = isinstance(value, str) and value.startswith("~")
            if not starts or not _is_path(key) or table is config.mosaic_prepare:
                continue  # mosaic-prepare resolves its own
            expanded = os.path.expanduser(value)
            setattr(table, key, expanded)
            if expanded.startswith("~"):
                user = value.partition("/")[0]
                yield (
                    f"{place(path)} {key} = {value!r}: there is no home directory for {user!r}; "
                    "write the path in full"
                )
