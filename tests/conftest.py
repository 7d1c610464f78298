"""Set-up for every test. One OpenMP thread per worker, because spinning threads collapse on few cores."""

import io
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Mapping

import pytest
from hypothesis import settings

os.environ.setdefault("OMP_NUM_THREADS", "1")

# Machines that are busy take their time: no test is timed.
settings.register_profile("k25", deadline=None)
settings.load_profile("k25")

# Shells start background jobs deaf to Ctrl-C, and children inherit it; tests that interrupt programs need hearing ones.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def k25_here(monkeypatch, capfd):
    """The program `k25` from its entry point on, in this process: starting Python anew costs a second each time.

    Takes what `subprocess.run` would, and gives back what it would. A variable that is None is not set.
    """

    def k25(*arguments, stdin: str = "", cwd=None, env: Mapping[str, str | None] | None = None):
        from k25.cli.main import run

        status: str | int | None = 0
        with monkeypatch.context() as patch, warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Cyclopts application invoked")
            for name, value in (env or {}).items():
                patch.delenv(name, raising=False) if value is None else patch.setenv(name, value)
            if cwd is not None:
                patch.chdir(cwd)
            patch.setattr(sys, "stdin", io.StringIO(stdin))
            patch.setattr(sys, "argv", ["k25", *map(str, arguments)])
            try:
                run()
            except SystemExit as end:
                status = end.code or 0
        return subprocess.CompletedProcess(sys.argv, status, *capfd.readouterr())

    return k25
