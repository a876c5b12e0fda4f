"""What a trainer calls the options that messages name."""

from dataclasses import dataclass


@dataclass(frozen=True)
class OptionNames:
    """Names of options in messages; by default those of the Python API.

    Attributes:
        dataset: What comes before the names of the data set's options, its dot included.
        seq_len: The option for the length of a row.
        batch_size: The option for the rows of one micro-batch on a rank.
    """

    dataset: str = ""
    seq_len: str = "seq_len"
    batch_size: str = "batch_size"


PYTHON = OptionNames()
