"""Opening streams: what waits for distant stores is done side by side."""

import threading
from pathlib import Path
from typing import Any

import pytest
from dataloader_helpers import loader, take, write_rows

from mosaic_dataloader import MosaicDataError
from mosaic_dataloader.storage import index as index_module
from mosaic_dataloader.storage import streams as streams_module
from mosaic_dataloader.storage.transfer import Transfers
from mosaic_dataloader.util.threads import map_concurrent, run_async


@pytest.fixture
def remotes(tmp_path: Path) -> dict[str, dict[str, Any]]:
    """Five streams of 20 rows each, to be fetched."""
    found = {}
    for number in range(5):
        remote = write_rows(tmp_path / f"remote-{number}", range(100 * number, 100 * number + 20))
        found[f"s{number}"] = {"remote": remote, "local": str(tmp_path / f"local-{number}")}
    return found


def test_indexes_of_streams_are_fetched_map_concurrent_and_keep_their_order(
    remotes: dict[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = index_module.fetch_index
    together = threading.Barrier(5, timeout=60)

    def meet(*given: Any) -> None:
        together.wait()
        plain(*given)

    monkeypatch.setattr(streams_module, "fetch_index", meet)
    one = loader(remotes, shuffle=False, batch_size=20)
    assert [s.name for s in one.dataset.streams] == list(remotes)
    found = take(iter(one), 5)
    assert found == [list(range(100 * n, 100 * n + 20)) for n in range(5)]
    one.close()


def test_the_manifest_is_fetched_while_the_index_is(
    remotes: dict[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = Transfers.download
    together = threading.Barrier(2, timeout=60)

    def meet(self: Transfers, file: str, *given: Any, **options: Any) -> Any:
        if file in ("index.json", "manifest.json"):
            together.wait()
        return plain(self, file, *given, **options)

    monkeypatch.setattr(Transfers, "download", meet)
    note = Path(remotes["s0"]["remote"]) / "manifest.json"
    note.write_text("{}")
    loader({"s0": remotes["s0"]}).close()
    cached = list(Path(remotes["s0"]["local"]).rglob("manifest.json"))
    assert [path.read_text() for path in cached] == ["{}"]


def test_the_first_of_several_bad_streams_is_told(remotes: dict[str, dict[str, Any]]) -> None:
    for name in ("s1", "s3"):
        remotes[name] = {**remotes[name], "remote": "/nowhere/at/all", "download_retry": 0}
    for _ in range(5):
        with pytest.raises(MosaicDataError, match='"s1"'):
            loader(remotes)


def test_two_remotes_in_one_cache_are_told_of(remotes: dict[str, dict[str, Any]]) -> None:
    for _ in range(5):
        remotes["s3"] = {**remotes["s3"], "local": remotes["s1"]["local"]}
        with pytest.raises(MosaicDataError, match='"s1" and "s3" fetch different data'):
            loader(remotes)


def test_jobs_map_concurrent() -> None:
    running = threading.Semaphore(3)

    def job(number: int) -> int:
        assert running.acquire(blocking=False), "more at a time than there are threads"
        if number == 7:
            raise KeyError(number)
        running.release()
        return number

    assert map_concurrent([lambda n=n: job(n) for n in range(7)], 3, "t") == list(range(7))
    with pytest.raises(KeyError, match="7"):
        map_concurrent([lambda n=n: job(n) for n in range(9)], 3, "t")
    assert map_concurrent([], 3, "t") == []


def test_what_runs_meanwhile_gives_its_result_or_its_error_when_asked() -> None:
    go_on = threading.Event()
    later = run_async(lambda: go_on.wait(60), "t")
    bad = run_async(lambda: 1 // 0, "t")
    go_on.set()
    assert later() is True
    with pytest.raises(ZeroDivisionError):
        bad()
