"""The one error that this package raises for something a user can put right."""


class TrainSpecError(ValueError):
    """A TrainSpec or a configuration cannot be used as it is.

    Args:
        problems: A line for each mistake, which says what to change; usually one.
    """

    def __init__(self, *problems: str) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems
