"""The one error that this package raises for something a user can put right."""


class TrainSpecError(ValueError):
    """A TrainSpec cannot be used with Mosaic data; its message is one line: what to change."""
