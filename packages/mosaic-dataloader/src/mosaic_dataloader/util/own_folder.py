"""Where caches go by default: a user's own folder in a directory that everybody may write to."""

import os
import stat
import tempfile
from contextlib import suppress

from mosaic_dataloader.errors import MosaicDataError


def default_cache_dir() -> str:
    """This user's own folder in the temporary directory, made if it is missing.

    The temporary directory is on the machine's own disk on most clusters; the home directory is
    not. The folder's name can be guessed, so that another user may have made it first, or a link of
    that name: a file that is written there would then be theirs, or whichever one the link leads
    to. Only this user may enter the folder. Where it cannot be made, nothing is there.

    Raises:
        MosaicDataError: What is there is another user's, a link, not a folder, or others may write
            to it.
    """
    try:
        path = os.path.join(tempfile.gettempdir(), f"mosaic-dataloader-{os.getuid()}")
    except FileNotFoundError as error:
        raise MosaicDataError("there is no temporary directory; set cache_dir") from error
    # Where it cannot be made, the code that needs it reports that it cannot be written to.
    with suppress(OSError):
        # Fails for whatever has that name already, a link that leads nowhere included.
        os.mkdir(path, 0o700)
    try:
        opened = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return path
    except OSError as error:
        raise _refusal(path, f"cannot be used ({error.strerror})") from error
    try:
        info = os.fstat(opened)
        if info.st_uid != os.getuid():
            raise _refusal(path, "belongs to another user")
        if info.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise _refusal(path, "could be written to by others")
        # One that was made before this was looked at lets others read.
        os.fchmod(opened, 0o700)
    finally:
        os.close(opened)
    return path


def _refusal(path: str, reason: str) -> MosaicDataError:
    return MosaicDataError(
        f"{path} {reason}; remove it, or set cache_dir to a directory of your own"
    )
