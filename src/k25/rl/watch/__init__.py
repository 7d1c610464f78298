"""Watching a run of reinforcement learning: in the terminal, on a page, and its curves for the report.

`RLRun` reads the folder of a run that may be under way, `screen` shows it in the terminal, `serving_page` in the
browser; `ALL_CURVES` is what all of them draw.
"""

from k25.rl.watch.charts import ALL_CURVES, charts
from k25.rl.watch.page import serving_page
from k25.rl.watch.run import RLRun
from k25.rl.watch.terminal import screen

__all__ = ["ALL_CURVES", "RLRun", "charts", "screen", "serving_page"]
