"""Set-up for every test: one OpenMP thread per worker, because spinning threads collapse on few cores."""

import os
import signal

os.environ.setdefault("OMP_NUM_THREADS", "1")

# Shells start background jobs deaf to Ctrl-C, and children inherit it; tests that interrupt programs need hearing ones.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
