"""Errors that are the user's to mend; a program tells them in one line, and all others with their traceback."""


class UserError(ValueError):
    """A setting, a flag, data or a file of the user's that the library refuses; the message is one sentence."""


class PathError(UserError, OSError):
    """A file or folder that cannot be read or written: a `UserError` that is an OSError too."""
