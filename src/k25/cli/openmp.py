"""How torch's threads wait for their next piece of work: read as torch is loaded, so called before it is imported.

Networks of a laptop's size give a thread some ten microseconds of work at a time. Waking one that sleeps takes as long,
so on a machine that has nothing else to do threads had better spin for a moment: a training step of nano took 0.28 s
instead of 0.48 s on two cores. Beside another busy process the same spinning costs several times the step, as the
thread that is waited for has no core to run on. Commands that mostly generate let them sleep: the engine's kernels have
threads of their own, which want the cores.
"""

import os
import time
from pathlib import Path

# Some 0.15 ms, which bridges the gaps between neighbouring operators; the unit is one pause of the processor.
_SPIN_COUNT = "8000"
_SAMPLE_SECONDS = 0.1
_MOSTLY_IDLE = 0.8
# One that was started just before may still be busy with its end.
_LOOKS = 4
_PROCESSOR_TIMES = Path("/proc/stat")


def waiting_threads() -> dict[str, str]:
    """Settings for the environment: spin briefly where the machine is idle now, sleep at once elsewhere.

    Nothing where the user has chosen.
    """
    if "OMP_WAIT_POLICY" in os.environ or "GOMP_SPINCOUNT" in os.environ:
        return {}
    if os.environ.get("OMP_NUM_THREADS") != "1" and any(idle_share() >= _MOSTLY_IDLE for _ in range(_LOOKS)):
        return {"GOMP_SPINCOUNT": _SPIN_COUNT}
    return {"OMP_WAIT_POLICY": "PASSIVE"}


def idle_share(times: Path = _PROCESSOR_TIMES) -> float:
    """Share of all processors' time that nobody uses, over a tenth of a second; 0 where the system does not tell."""
    try:
        before = _idle_and_total(times)
        time.sleep(_SAMPLE_SECONDS)
        after = _idle_and_total(times)
    except (OSError, ValueError, IndexError):
        return 0.0
    total = after[1] - before[1]
    return (after[0] - before[0]) / total if total > 0 else 0.0


def _idle_and_total(times: Path) -> tuple[int, int]:
    """Idle and all ticks of all processors since the machine was started (proc(5))."""
    ticks = [int(word) for word in times.read_text().splitlines()[0].split()[1:9]]
    return ticks[3] + ticks[4], sum(ticks)
