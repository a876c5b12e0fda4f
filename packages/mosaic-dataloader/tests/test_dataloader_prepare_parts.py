"""Parts of the preparation: which files, and how rows are cut."""

import hashlib
from itertools import pairwise
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mosaic_dataloader.prepare.rows import cut_rows, join_documents
from mosaic_dataloader.prepare.sources import fingerprint, list_sources, read_text


@given(
    documents=st.lists(st.lists(st.integers(1, 999), min_size=1, max_size=40), max_size=12),
    seq_len=st.integers(1, 17),
)
def test_rows_overlap_by_one_token_and_lose_nothing(
    documents: list[list[int]], seq_len: int
) -> None:
    arrays = [np.array(document, dtype=np.uint16) for document in documents]
    rows = list(cut_rows(join_documents(arrays, eos_id=0), seq_len))
    joined: list[int] = []
    for number, document in enumerate(documents):
        joined += [0, *document] if number else document
    assert [token for row in rows for token in row[1:].tolist()] == joined[1:]
    assert all(len(row) == seq_len + 1 for row in rows[:-1])
    assert all(2 <= len(row) <= seq_len + 1 for row in rows)
    assert all(a[-1] == b[0] for a, b in pairwise(rows))
    assert all(row.dtype == np.uint16 for row in rows)
    if len(joined) > 1:
        assert rows[0][0] == joined[0]


def test_standard_library_selection() -> None:
    sources = list_sources("python-stdlib")
    names = [source.name for source in sources]
    assert names == sorted(names)
    assert len(names) == len(set(names)) > 300
    assert {"abc.py", "asyncio/base_events.py", "json/decoder.py"} <= set(names)
    parts = {part for name in names for part in Path(name).parts[:-1]}
    assert not parts & {"test", "tests", "idle_test", "site-packages", "__pycache__"}
    assert sources == list_sources("python-stdlib")
    assert 5e6 < sum(source.size for source in sources) < 50e6


def test_a_glob_is_sorted_and_goes_down(tmp_path: Path) -> None:
    for name in ["b.txt", "a/z.txt", "a/b/c.txt", "a/skip.md"]:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x\r\n")
    (tmp_path / "directory.txt").mkdir()
    sources = list_sources(str(tmp_path / "**" / "*.txt"))
    relative = [Path(source.name).relative_to(tmp_path).as_posix() for source in sources]
    assert relative == ["a/b/c.txt", "a/z.txt", "b.txt"]
    assert read_text(sources[0]) == "x\r\n", "line ends stay as they are"
    before = fingerprint(sources)
    (tmp_path / "b.txt").write_bytes(b"longer")
    after = fingerprint(list_sources(str(tmp_path / "**" / "*.txt")))
    assert before != after
    assert len(before) == hashlib.sha256().digest_size * 2
