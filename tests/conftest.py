"""Set-up for every test: one OpenMP thread per worker, because spinning threads collapse on few cores."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
