"""The error that a user can mend."""


class MosaicDataError(ValueError):
    """Data, options or a saved state do not fit; the message is one line that says what to change."""
