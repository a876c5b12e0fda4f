"""Options below tables whose keys the user chooses: streams and tokenizer keyword arguments.

tyro makes options only for the keys that a dictionary already has, so these are read here and
laid over the TOML tables before the configuration is built.
"""

from collections.abc import Sequence
from typing import Any

from mosaic_config.arguments import Given, underscored
from mosaic_config.cli_value import parse_free, parse_typed
from mosaic_config.errors import ConfigError
from mosaic_config.schema import NAME, Path, keys_of, named_value, table_in, tables
from mosaic_config.suggest import unknown_option


def named_fields(root: type) -> dict[Path, Any]:
    """Return the paths of all `dict[str, T]` keys of a configuration, with T."""
    return {
        (*path, key): named
        for path, cls in tables(root)
        for key, annotation in keys_of(cls).items()
        if (named := named_value(annotation)) is not None
    }


def take_named_options(root: type, given: Sequence[Given], data: dict[str, Any]) -> list[Given]:
    """Lay options such as `--….streams.code.proportion 0.3` over TOML tables.

    Args:
        root: The dataclass of the whole configuration.
        given: All options of the command line.
        data: The TOML file's tables, in which the values are set.

    Returns:
        The other options.

    Raises:
        ConfigError: an option has no field, an unknown one, or a value of a wrong type.
    """
    fields = named_fields(root)
    rest: list[Given] = []
    for option in given:
        path = next((p for p in fields if f"{option.name}.".startswith(".".join(p) + ".")), None)
        if path is None:
            rest.append(option)
            continue
        table = _table_at(data, path)
        if table is None:  # not a table in the TOML file, which is then reported as the mistake
            continue
        tail = option.flag[2 + len(".".join(path)) + 1 :]
        if not tail:
            raise ConfigError(_spelled(option.flag, path, fields[path]))
        elif (cls := table_in(fields[path])) is not None:
            _set_field(root, cls, path, option, tail, table)
        elif fields[path] is Any:
            table[underscored(tail)] = parse_free(option.flag, option.values)
        else:
            table[tail] = parse_typed(option.flag, fields[path], option.values)
    return rest


def _set_field(
    root: type, cls: type, path: Path, option: Given, tail: str, table: dict[str, Any]
) -> None:
    written, dot, field = tail.rpartition(".")
    field = underscored(field)
    keys = keys_of(cls)
    if not dot or not written:
        raise ConfigError(_spelled(option.flag, path, cls))
    if field not in keys:
        raise ConfigError(
            unknown_option(root, option.flag, (*path, NAME), field, written=(*path, written))
        )
    entry = table.setdefault(_existing_name(written, table), {})
    if isinstance(entry, dict):  # otherwise the TOML file's mistake, reported later
        entry[field] = parse_typed(option.flag, keys[field], option.values)


def _spelled(flag: str, path: Path, named: Any) -> str:
    cls = table_in(named)
    keys = f", where the key is one of {', '.join(keys_of(cls))}" if cls is not None else ""
    return (
        f"{flag} is not an option of its own; "
        f"write --{'.'.join(path)}.{NAME + '.' if cls is not None else ''}<key> VALUE{keys}"
    )


def _existing_name(written: str, table: dict[str, Any]) -> str:
    """Return the name of the TOML file that is meant, or the name as written for a new one."""
    if len(written) > 2 and written[0] == written[-1] and written[0] in "\"'":
        written = written[1:-1]
    if written in table:
        return written
    alike = [name for name in table if underscored(name) == underscored(written)]
    return alike[0] if len(alike) == 1 else written


def _table_at(data: dict[str, Any], path: Path) -> dict[str, Any] | None:
    here = data
    for key in path:
        inner = here.setdefault(key, {})
        if not isinstance(inner, dict):
            return None
        here = inner
    return here
