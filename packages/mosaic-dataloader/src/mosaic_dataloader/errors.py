"""The error that a user can fix."""


class MosaicDataError(ValueError):
    """Data, options or a saved state cannot be used; one line that says what to change."""
