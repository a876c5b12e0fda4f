"""docs/options.md names every option of mosaicml-streaming, and tells what becomes of it."""

import inspect
import re
from pathlib import Path
from typing import Any

import pytest
from streaming import Stream, StreamingDataLoader, StreamingDataset
from torch.utils.data import DataLoader

from mosaic_config import ConfigError, MosaicConfigManager
from mosaic_config.sections import MosaicDataloader, MosaicDataset, MosaicStream
from mosaic_dataloader import MosaicParallelAwareDataloader, StreamingTextDataset

PAGE = Path(__file__).resolve().parent.parent / "docs" / "options.md"
LOADER, DATASET = "mosaic_dataloader", "mosaic_dataloader.dataset"
STREAM = "mosaic_dataloader.dataset.streams.a"
# Where a heading's options stand, the table after the first in the last section apart.
PLACES = {"StreamingDataset": DATASET, "Stream": STREAM, "StreamingDataLoader": LOADER}
KINDS = {"same", "renamed", "changed", "refused"}


def tables() -> list[tuple[str, dict[str, tuple[str, str]]]]:
    """Heading, and kind and text by option, of each table."""
    found: list[tuple[str, dict[str, tuple[str, str]]]] = []
    heading = ""
    for line in PAGE.read_text().splitlines():
        if line.startswith("## "):
            heading = line[3:]
        elif line == "| option | | here |":
            found.append((heading, {}))
        elif match := re.match(r"\| `(\w+)` \| (\w+) \| ?(.*?) ?\|$", line):
            assert match[1] not in found[-1][1], f"{match[1]} stands twice"
            found[-1][1][match[1]] = (match[2], match[3])
    return found


def parameters(function: Any) -> set[str]:
    return set(inspect.signature(function).parameters) - {"self", "args", "kwargs"}


def test_no_option_is_missing() -> None:
    by_heading = {heading: set(options) for heading, options in tables()[:3]}
    assert by_heading == {
        "StreamingDataset": parameters(StreamingDataset.__init__),
        "Stream": parameters(Stream.__init__),
        "StreamingDataLoader": parameters(StreamingDataLoader.__init__)
        | parameters(DataLoader.__init__),
    }
    assert {kind for _, options in tables() for kind, _ in options.values()} <= KINDS


PLACED = [
    (place, option, kind)
    for (heading, options), last in zip(tables(), [None, None, None, LOADER, DATASET], strict=True)
    for place in [last or PLACES[heading]]
    for option, (kind, _) in options.items()
]


@pytest.mark.parametrize(("place", "option", "kind"), PLACED)
def test_what_the_table_says_is_so(place: str, option: str, kind: str, tmp_path: Path) -> None:
    """Refused ones end in a line that says what to do; the others are keys that are read."""
    section = {LOADER: MosaicDataloader, DATASET: MosaicDataset, STREAM: MosaicStream}[place]
    if kind != "refused":
        assert option in section.__dataclass_fields__
        if place == LOADER:
            # The builder reads these two itself.
            known = parameters(MosaicParallelAwareDataloader.__init__) | {"name", "dataset"}
            assert option in known
        elif place == DATASET:
            # The builder checks these two.
            assert option in parameters(StreamingTextDataset.__init__) | {
                "max_seq_len",
                "partition_algo",
            }
        return
    file = tmp_path / "job.toml"
    head = f"[{DATASET}]\n" if place != DATASET else ""
    file.write_text(f'{head}[{place}]\n{option} = "1"\n')
    for arguments in ([], [f"--{place}.{option}", "1"]):
        if arguments:
            file.write_text(f'[{DATASET}]\nremote = "data"\n')
        with pytest.raises(ConfigError) as caught:
            MosaicConfigManager().parse_args(["--config-path", str(file), *arguments])
        message = str(caught.value)
        assert option in message
        assert re.search(r"remove it|use \w+|set \w+|write|belongs in|did you mean", message)


def test_values_that_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "job.toml"
    for line, words in [
        ('partition_algo = "orig"', '"relaxed"'),
        ('shuffle_algo = "py1b"', "py1br"),
    ]:
        file.write_text(f'[{DATASET}]\nremote = "data"\n{line}\n')
        with pytest.raises(ConfigError, match=words):
            MosaicConfigManager().parse_args(["--config-path", str(file)])
