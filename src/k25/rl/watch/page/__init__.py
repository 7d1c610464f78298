"""The page of a run: curves that grow, and sampled rollouts to read."""

from k25.rl.watch.page.server import serving_page

__all__ = ["serving_page"]
