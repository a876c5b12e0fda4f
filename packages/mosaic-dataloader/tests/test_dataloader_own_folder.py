"""The default cache lies where everybody may write; only its user's own folder is taken."""

import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from dataloader_helpers import loader, take, write_rows

from mosaic_dataloader import MosaicDataError
from mosaic_dataloader.util.own_folder import default_cache_dir

OTHERS: dict[str, tuple[Callable[[Path, Path], None], str]] = {
    "a link": (lambda place, other: os.symlink(other, place), "cannot be used"),
    "a dangling link": (lambda place, other: os.symlink(other / "no", place), "cannot be used"),
    "a file": (lambda place, _: place.write_text("x"), "cannot be used"),
    "a folder for all": (lambda place, _: (place.mkdir(), place.chmod(0o777))[0], "by others"),
    "a folder for a group": (lambda place, _: (place.mkdir(), place.chmod(0o770))[0], "by others"),
}


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = tmp_path / "tmp"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    return place


@pytest.mark.parametrize("other", OTHERS)
def test_what_another_user_may_have_put_there_is_refused(
    other: str, temporary: Path, tmp_path: Path
) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    data = write_rows(tmp_path / "data", range(40))
    put, message = OTHERS[other]
    put(temporary / f"mosaic-dataloader-{os.getuid()}", victim)
    with pytest.raises(MosaicDataError, match=f"{message}.*remove it, or set cache_dir") as caught:
        loader({"web": {"remote": data}})
    assert "\n" not in str(caught.value)
    assert not list(victim.iterdir())
    # A place of one's own is as good as ever.
    loader({"web": {"remote": data}}, cache_dir=str(tmp_path / "own")).dataset.close()


def test_a_folder_of_another_owner_is_refused(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uid = os.getuid()
    default_cache_dir()
    # Who may give files away is root alone.
    monkeypatch.setattr(os, "getuid", lambda: uid + 1)
    os.rename(temporary / f"mosaic-dataloader-{uid}", temporary / f"mosaic-dataloader-{uid + 1}")
    with pytest.raises(MosaicDataError, match="belongs to another user"):
        default_cache_dir()


def test_the_folder_is_made_for_its_user_alone(temporary: Path, tmp_path: Path) -> None:
    data = write_rows(tmp_path / "data", range(40))
    mask = os.umask(0)
    try:
        one = loader({"web": {"remote": data}})
    finally:
        os.umask(mask)
    take(iter(one), 2)
    own = temporary / f"mosaic-dataloader-{os.getuid()}"
    assert stat.S_IMODE(own.stat().st_mode) == 0o700
    assert list(own.rglob("*.mds"))
    one.close()
    one.dataset.close()
    # As an earlier version made it.
    own.chmod(0o755)
    assert default_cache_dir() == str(own)
    assert stat.S_IMODE(own.stat().st_mode) == 0o700


def test_a_stream_without_local_goes_to_the_same_place(temporary: Path, tmp_path: Path) -> None:
    """mosaicml-streaming's own default is a name in the temporary directory, too."""
    from streaming import Stream

    data = write_rows(tmp_path / "data", range(40))
    one = loader(None, streams=[Stream(remote=data)])
    take(iter(one), 2)
    assert Path(one.dataset.streams[0].directory).is_relative_to(Path(default_cache_dir()))
    one.close()
    one.dataset.close()


def test_no_temporary_directory_stops_only_those_who_need_it(
    temporary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_rows(tmp_path / "data", range(40))
    # Nobody may write there; root may everywhere.
    monkeypatch.setattr(tempfile, "tempdir", str(temporary / "missing"))
    one = loader(data)
    take(iter(one), 2)
    one.close()
