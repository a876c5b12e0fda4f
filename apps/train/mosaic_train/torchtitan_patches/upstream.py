"""Is the installed TorchTitan the one that the patches are written for?"""

import importlib.metadata
import importlib.util
from dataclasses import dataclass
from pathlib import Path

from mosaic_train.errors import TrainError

VERSION = "0.2.2"


@dataclass(frozen=True)
class Answers:
    """A line of TorchTitan that a patch answers.

    Attributes:
        path: Its file, relative to the package's folder.
        line: Its number, from 1.
        text: What it says, without the space around it.
    """

    path: str
    line: int
    text: str


def check_upstream(answers: tuple[Answers, ...]) -> None:
    """Compare the installed TorchTitan with what the patches answer.

    A patch of code that has changed would be wrong in silence: a gradient that upstream has
    corrected by then would be corrected twice.

    Args:
        answers: The lines that all patches answer.

    Raises:
        TrainError: It is another version, or its code differs.
    """
    installed = importlib.metadata.version("torchtitan")
    # A local build ("0.2.2+cu130") has the same code.
    if installed.partition("+")[0] != VERSION:
        raise TrainError(
            f"torchtitan {installed} is installed, but this app corrects the code of {VERSION}: "
            f"install torchtitan {VERSION}"
        )
    spec = importlib.util.find_spec("torchtitan")
    assert spec is not None and spec.submodule_search_locations
    root = Path(spec.submodule_search_locations[0])
    for answer in answers:
        try:
            lines = (root / answer.path).read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            lines = []
        found = lines[answer.line - 1].strip() if len(lines) >= answer.line else ""
        if found != answer.text:
            raise TrainError(
                f"the installed torchtitan is not {VERSION} as released, whose code this app "
                f"corrects: line {answer.line} of torchtitan/{answer.path} is {found!r} and not "
                f"{answer.text!r}: install torchtitan {VERSION} anew"
            )
