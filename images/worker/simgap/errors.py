"""Errors that a user can act on."""


class SimgapError(Exception):
    """One clear line that names what is wrong and what to do; shown without a traceback."""


class Missing(SimgapError):
    """An object that is not in the store."""


class Changed(SimgapError):
    """An object that is not, or no longer, the version that was to be read."""


class StoreFailed(SimgapError):
    """The store did not do what was asked, this time: a later try may succeed."""
