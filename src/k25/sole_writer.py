"""One process at a time writes a record or a run's folder; the lock ends with the process, however it ends."""

import fcntl
from pathlib import Path
from typing import IO

from k25.errors import InputError


def sole_writer(lock: Path, busy: str) -> IO[bytes]:
    """Take the lock file; closing what is returned gives it back.

    Raises InputError with the message `busy` where another has it, and OSError where the file cannot be made.
    """
    file = lock.open("wb")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise InputError(busy) from None
    return file
