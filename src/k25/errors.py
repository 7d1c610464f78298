"""The one exception that a user is meant to read."""


class InputError(ValueError):
    """Something the user gave is wrong: the message names the input and the remedy, in one line.

    Every command prints it as `error: ...` without a traceback and exits with status 2.
    """
