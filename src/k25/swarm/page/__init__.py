"""The live page of a run: who works on what, when, for how long, and every conversation.

`serving_page` serves it beside a run or for one that has ended; `page_app` is the application alone.
"""

from k25.swarm.page.server import page_app, serving_page

__all__ = ["page_app", "serving_page"]
