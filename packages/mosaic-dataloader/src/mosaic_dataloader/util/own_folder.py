"""A user's own folder in the temporary directory, which everybody may write to."""

import os
import stat
import tempfile
from contextlib import suppress

from mosaic_dataloader.errors import MosaicDataError


def own_temporary_folder(prefix: str, option: str) -> str:
    """The path of this user's own folder, made if it is missing.

    Its name can be guessed, so that another user may have made it first, or a link of that name: a
    file that is written there would then be theirs, or whichever one the link leads to.

    Args:
        prefix: What its name begins with; the user's number follows.
        option: What to set to use another place, for messages.

    Returns:
        Its path. Only this user may enter it. Where it cannot be made, nothing is there.

    Raises:
        MosaicDataError: What is there is another user's, a link, not a folder, or others may write
            to it.
    """
    try:
        path = os.path.join(tempfile.gettempdir(), f"{prefix}-{os.getuid()}")
    except FileNotFoundError as error:
        raise MosaicDataError(f"there is no temporary directory; set {option}") from error
    # Where it cannot be made, the code that needs it reports that it cannot be written to.
    with suppress(OSError):
        # Fails for whatever has that name already, a link that leads nowhere included.
        os.mkdir(path, 0o700)
    try:
        opened = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return path
    except OSError as error:
        raise _refusal(path, f"cannot be used ({error.strerror})", option) from error
    try:
        info = os.fstat(opened)
        if info.st_uid != os.getuid():
            raise _refusal(path, "belongs to another user", option)
        if info.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise _refusal(path, "could be written to by others", option)
        # One that was made before this was looked at lets others read.
        os.fchmod(opened, 0o700)
    finally:
        os.close(opened)
    return path


def _refusal(path: str, reason: str, option: str) -> MosaicDataError:
    return MosaicDataError(
        f"{path} {reason}; remove it, or set {option} to a directory of your own"
    )
