"""What was noted when data were prepared is compared with what training is configured with."""

import json
import logging
import shutil
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import prepare_helpers as helpers
import pytest
from streaming.base.storage.download import LocalDownloader
from tokenizers import AddedToken
from transformers import AutoTokenizer

from mosaic_dataloader import MosaicDataError, StreamingTextDataset, build_mosaic_dataloader
from mosaic_dataloader.builders import MosaicTokenizer
from mosaic_prepare import prepare


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, tokenizer_dir: str) -> Path:
    """Prepared rows, compressed and split."""
    folder = tmp_path_factory.mktemp("prepared")
    given = helpers.write_text(folder / "in", [f"{i} some text" for i in range(40)])
    more = {"seq_len": 32, "split_validation": 0.3, "compression": "zstd"}
    prepare(helpers.options(folder, tokenizer_dir, **given, **more))
    return folder / "data"


def other(folder: Path, tokenizer_dir: str) -> str:
    """A tokenizer with the same vocabulary that treats spaces otherwise."""
    shutil.copytree(tokenizer_dir, folder / "other")
    # transformers goes by this file; what tokenizer.json says of it is overruled.
    file = folder / "other" / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "add_prefix_space": True}))
    return str(folder / "other")


@pytest.mark.parametrize("place", ["local", "remote"])
def test_another_tokenizer_is_an_error_that_names_both(
    place: str, data: Path, tmp_path: Path, tokenizer_dir: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, logger="mosaic_dataloader")

    def opened(tokenizer: Any, **options: Any) -> None:
        where = {place: str(data), "split": "train", "cache_dir": str(tmp_path / "cache")}
        if place == "remote":
            where["local"] = str(tmp_path / "own")
        StreamingTextDataset(tokenizer=tokenizer, **{"seq_len": 32, **where, **options}).close()

    right = AutoTokenizer.from_pretrained(tokenizer_dir)
    for fitting in (None, right, right.backend_tokenizer, MosaicTokenizer(right)):
        opened(fitting)
    # A truncation that was set on it changes nothing that is compared.
    limited = AutoTokenizer.from_pretrained(tokenizer_dir)
    limited.backend_tokenizer.enable_truncation(3)
    opened(limited)
    # More tokens than the data were made with are no harm.
    larger = AutoTokenizer.from_pretrained(tokenizer_dir)
    larger.add_tokens([AddedToken("<|new|>", special=True)])
    opened(larger)
    assert not caplog.text
    caplog.clear()

    wrong = AutoTokenizer.from_pretrained(other(tmp_path, tokenizer_dir))
    with pytest.raises(MosaicDataError, match=r"prepared with tokenizer 'bpe'.*'other'") as caught:
        opened(wrong)
    assert "\n" not in str(caught.value)
    assert "mosaic_tokenizer.name" in str(caught.value)
    opened(None)

    ending = AutoTokenizer.from_pretrained(tokenizer_dir, eos_token="<|begin_of_text|>")
    opened(ending)
    assert "documents end with token 1 there" in caplog.text

    caplog.clear()
    opened(SimpleNamespace(pad_token_id=0))
    assert "cannot tell whether a tokenizer of type SimpleNamespace" in caplog.text


def test_ids_beyond_the_vocabulary(tmp_path: Path, tokenizer_dir: str) -> None:
    given = helpers.write_text(tmp_path / "in", ["a", "b <|new|>", "c"])
    larger = AutoTokenizer.from_pretrained(tokenizer_dir)
    larger.add_tokens([AddedToken("<|new|>", special=True)])
    larger.save_pretrained(tmp_path / "larger")
    more = {"special_tokens": "parse", "form": "documents"}
    prepare(helpers.options(tmp_path, str(tmp_path / "larger"), **given, **more))
    assert helpers.manifest(tmp_path / "data")["facts"]["largest"] == 400
    local = {"seq_len": 32, "local": str(tmp_path / "data")}
    StreamingTextDataset(tokenizer=larger, **local).close()
    with pytest.raises(MosaicDataError, match=r"token id 400, but tokenizer .* ends at 399"):
        StreamingTextDataset(tokenizer=AutoTokenizer.from_pretrained(tokenizer_dir), **local)


def test_row_lengths_are_told_and_other_manifests_do_no_harm(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # apps/train silences it, and its tests may run in this process.
    caplog.set_level(logging.WARNING, logger="mosaic_dataloader.row_length")
    caplog.set_level(logging.WARNING, logger="mosaic_dataloader")
    where = {"remote": str(data), "split": "train", "local": str(tmp_path / "cache")}
    for seq_len, told in [
        (32, None),
        (128, "75 % of each step is padding"),
        (8, "75 % of the tokens are never trained on"),
    ]:
        caplog.clear()
        config = SimpleNamespace(
            training=SimpleNamespace(seq_len=seq_len, local_batch_size=1),
            mosaic_dataloader={"dataset": {"streams": {"web": dict(where)}}},
        )
        loader = build_mosaic_dataloader(
            dp_world_size=1, dp_rank=0, tokenizer=None, job_config=config
        )
        loader.close()
        if told is None:
            assert not caplog.text
        else:
            assert told in caplog.text
            assert 'stream "web"' in caplog.text

    # None, another program's, and one that cannot be fetched.
    copy = tmp_path / "copy"
    shutil.copytree(data / "train", copy)

    def opened(name: str, **options: Any) -> None:
        local = str(tmp_path / name)
        StreamingTextDataset(seq_len=8, remote=str(copy), local=local, **options).close()

    caplog.clear()
    (copy / "manifest.json").write_text('["of another program"]')
    opened("foreign")
    (copy / "manifest.json").unlink()
    opened("none")
    assert not caplog.text

    # One that hangs is waited for as long as download_timeout says, and once.
    asked: list[str] = []
    real = LocalDownloader.download

    def hangs(self: Any, remote: str, local: str, *rest: Any) -> None:
        if remote.endswith("manifest.json"):
            asked.append(remote)
            released.wait()
        real(self, remote, local, *rest)

    released = threading.Event()
    monkeypatch.setattr(LocalDownloader, "download", hangs)
    opened("unreachable", download_timeout=0.2)
    released.set()
    assert len(asked) == 1
    assert "manifest.json from" in caplog.text
    assert "within download_timeout = 0.2 s" in caplog.text
    assert "is not checked" in caplog.text
    shutil.copy(data / "train" / "manifest.json", copy)
    (copy / "manifest.json").write_text("{")
    monkeypatch.undo()
    with pytest.raises(MosaicDataError, match=r"cannot read .*manifest\.json"):
        opened("broken")


def test_full_rows_are_not_packed_again(data: Path, tmp_path: Path) -> None:
    where = {"local": str(data), "split": "train", "cache_dir": str(tmp_path / "cache")}
    with pytest.raises(MosaicDataError, match=r"full rows.*packing = true.*--form documents"):
        StreamingTextDataset(seq_len=32, packing=True, **where)
