"""Corpora in every form that `mosaic-prepare` reads, and what must come of them."""

import bz2
import csv
import gzip
import itertools
import json
import lzma
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from streaming import LocalDataset

from mosaic_prepare import PrepareOptions

SEQ_LEN = 31
SEPARATOR = "\n<!-- next -->\n"
WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "lazy", "dogs", "naïve", "北京", "🙂"]
_PACKERS: list[tuple[str, Callable[[bytes], bytes]]] = [
    ("", bytes),
    (".gz", gzip.compress),
    (".bz2", bz2.compress),
    (".xz", lzma.compress),
]


def documents(count: int = 60, seed: int = 0) -> list[str]:
    """Texts of very different lengths: empty ones, one character, specials, line ends, doubles."""
    chance = random.Random(seed)
    found = [
        "",
        "a",
        "not an end: <|end_of_text|> nor a <|begin_of_text|>",
        "one\r\ntwo\n\nthree\t",
    ]
    while len(found) < count:
        found.append(" ".join(chance.choices(WORDS, k=chance.choice([1, 5, 60, 400]))))
    found[count // 2] = ""
    found[-1] = found[1]
    return found


def write_text(folder: Path, texts: Sequence[str]) -> dict[str, Any]:
    """A file for each document, compressed in one way or another."""
    for number, text in enumerate(texts):
        path = folder / f"{number // 10}" / f"{number:04}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        suffix, pack = _PACKERS[number % len(_PACKERS)]
        path.with_name(path.name + suffix).write_bytes(pack(text.encode()))
    return {"input": str(folder / "**" / "*.txt*")}


def write_separated(folder: Path, texts: Sequence[str]) -> dict[str, Any]:
    """All documents in one file."""
    (folder / "all.txt").write_bytes(SEPARATOR.join(texts).encode())
    return {"input": str(folder / "all.txt"), "document_separator": SEPARATOR}


def write_jsonl(folder: Path, texts: Sequence[str]) -> dict[str, Any]:
    """Documents in two columns of three files, one of them plain, by fsspec URL."""
    third = -(-len(texts) // 3)
    plain, packed, small = (_lines(texts[i : i + third]) for i in range(0, 3 * third, third))
    (folder / "a.jsonl").write_bytes(plain)
    (folder / "b.jsonl.gz").write_bytes(gzip.compress(packed))
    with pa.CompressedOutputStream(str(folder / "c.jsonl.zst"), "zstd") as file:
        file.write(small)
    # `local` is a file system of fsspec, which `file://` is not here.
    names = [str(folder / "a.*"), f"local://{folder}/b.*", f"file://{folder}/c.*"]
    return {"input": names, "text_columns": ["head", "body"], "column_separator": "\n"}


def _lines(texts: Sequence[str]) -> bytes:
    lines = []
    for number, text in enumerate(texts):
        head, _, body = text.partition("\n")
        record = {"id": number, "head": head or None, "body": body if "\n" in text else None}
        # Escapes, other columns and a blank line must make no difference.
        lines.append(json.dumps(record, ensure_ascii=bool(number % 2)) + "\n" * (1 + number % 2))
    return "".join(lines).encode()


def write_parquet(folder: Path, texts: Sequence[str]) -> dict[str, Any]:
    """Two files of several row groups, one with a dictionary column."""
    half = len(texts) // 2
    for name, part, kind in (
        ("a", texts[:half], pa.string()),
        ("b", texts[half:], pa.dictionary(pa.int32(), pa.string())),
    ):
        # Empty documents as null.
        column = pa.array([text or None for text in part], pa.string()).cast(kind)
        table = pa.table({"number": list(range(len(part))), "content": column})
        pq.write_table(table, folder / f"{name}.parquet", row_group_size=7)
    return {"input": str(folder / "*.parquet"), "text_columns": ["content"]}


def write_arrow(folder: Path, texts: Sequence[str]) -> dict[str, Any]:
    """An Arrow file and a stream, of several record batches."""
    half = len(texts) // 2
    for name, part, new in (
        ("a.arrow", texts[:half], pa.ipc.new_file),
        ("b.arrow", texts[half:], pa.ipc.new_stream),
    ):
        table = pa.table({"number": list(range(len(part))), "text": pa.array(part, pa.string())})
        with new(str(folder / name), table.schema) as writer:
            writer.write_table(table, max_chunksize=5)
    return {"input": str(folder / "*.arrow")}


def write_delimited(folder: Path, texts: Sequence[str]) -> dict[str, Any]:
    """Values between commas, and between tabs, with line ends and quotes in them."""
    half = len(texts) // 2
    for name, part, delimiter in (("a.csv.gz", texts[:half], ","), ("b.tsv", texts[half:], "\t")):
        opens = gzip.open if name.endswith(".gz") else open
        with opens(folder / name, "wt", encoding="utf-8-sig", newline="") as file:
            writer = csv.writer(file, delimiter=delimiter, quoting=csv.QUOTE_ALL)
            writer.writerow(["number", "text"])
            writer.writerows(enumerate(part))
    return {"input": str(folder / "*sv*")}


def write_dataset(folder: Path, texts: Sequence[str]) -> dict[str, Any]:
    """A directory that `datasets.load_dataset` takes like a name on the hub."""
    half = len(texts) // 2
    for name, part in (("train-00000", texts[:half]), ("train-00001", texts[half:])):
        table = pa.table({"text": pa.array(part, pa.string())})
        pq.write_table(table, folder / f"{name}.parquet", row_group_size=8)
    pq.write_table(pa.table({"text": ["never read"]}), folder / "test-00000.parquet")
    return {"input": str(folder), "input_format": "dataset"}


def write_saved(folder: Path, texts: Sequence[str]) -> dict[str, Any]:
    """What `save_to_disk` of Hugging Face datasets writes."""
    import datasets

    datasets.disable_progress_bars()
    data = datasets.Dataset.from_dict({"text": list(texts)})
    datasets.DatasetDict({"some": data}).save_to_disk(str(folder / "saved"), num_shards={"some": 2})
    saved = str(folder / "saved")
    return {"input": saved, "input_format": "dataset", "dataset_split": "some"}


INPUTS: dict[str, Callable[[Path, Sequence[str]], dict[str, Any]]] = {
    "text": write_text,
    "separated": write_separated,
    "jsonl": write_jsonl,
    "parquet": write_parquet,
    "arrow": write_arrow,
    "delimited": write_delimited,
    "dataset": write_dataset,
    "saved": write_saved,
}


def options(tmp_path: Path, tokenizer: str, **changes: Any) -> PrepareOptions:
    """Options for small shards in `tmp_path / "data"`."""
    values: dict[str, Any] = {
        "output": tmp_path / "data",
        "tokenizer": tokenizer,
        "seq_len": SEQ_LEN,
        "shard_bytes": 8192,
        "processes": 1,
    }
    values |= changes
    if values.get("form", "rows") != "rows":
        values["seq_len"] = None
    if values.get("form") == "text" or "train_tokenizer" in changes:
        values["tokenizer"] = None
    return PrepareOptions(**values)


def encoded(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of the documents that hold a token, by `transformers`."""
    full = [text for text in texts if text]
    if not full:
        return []
    ids = tokenizer(full, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    return [list(one) for one in ids]


def check(
    folder: Path | Any, form: str, tokenizer: Any, texts: Sequence[str], seq_len: int = SEQ_LEN
) -> None:
    """A split holds exactly these documents.

    Args:
        folder: Directory of uncompressed shards, or samples.
        form: In what form.
        tokenizer: From `transformers`.
        texts: The documents, in order.
        seq_len: Targets in a row.
    """
    samples = list(LocalDataset(str(folder)) if isinstance(folder, Path) else folder)
    if form == "text":
        assert [sample["text"] for sample in samples] == [text for text in texts if text]
        return
    ids = [[*one, tokenizer.eos_token_id] for one in encoded(tokenizer, texts)]
    if form == "documents":
        assert [sample["tokens"].tolist() for sample in samples] == ids
        return
    assert isinstance(folder, Path)
    found = []
    for rows in units_of(folder, samples):
        stream = rows[0]["tokens"].tolist()
        for before, row in itertools.pairwise(rows):
            assert row["tokens"][0] == before["tokens"][-1], "rows do not overlap"
            stream += row["tokens"].tolist()[1:]
        assert {len(row["tokens"]) for row in rows[:-1]} <= {seq_len + 1}
        assert 2 <= len(rows[-1]["tokens"]) <= seq_len + 1
        # Places of the ends in the stream, of which an overlap has one twice.
        ends = sorted(
            {
                number * seq_len + int(end)
                for number, row in enumerate(rows)
                for end in row["document_ends"]
                if end >= 0
            }
        )
        assert all(row["document_ends"].dtype == np.int32 for row in rows)
        assert ends[-1] == len(stream) - 1, "the last document has no end"
        found += [stream[a + 1 : b + 1] for a, b in itertools.pairwise([-1, *ends])]
    assert found == ids


def units_of(folder: Path, samples: list[Any]) -> list[list[Any]]:
    """Samples by the unit of work that they were made in."""
    units: dict[str, list[Any]] = {}
    taken = iter(samples)
    for shard in json.loads((folder / "index.json").read_text())["shards"]:
        unit = (shard["zip_data"] or shard["raw_data"])["basename"].split("/")[0]
        units.setdefault(unit, []).extend(itertools.islice(taken, shard["samples"]))
    return list(units.values())


def contents(folder: Path) -> dict[str, bytes]:
    """All files of a directory."""
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def manifest(folder: Path) -> Any:
    return json.loads((folder / "manifest.json").read_text())


def units_in(folder: Path) -> list[str]:
    """Names of the units' folders."""
    return sorted({path.name for path in folder.rglob("unit-*") if path.is_dir()})
