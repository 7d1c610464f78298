"""Stop strings: text passes until one of them appears, wherever the pieces of text are cut."""

from collections.abc import Sequence


class StopMatcher:
    """Holds back only an end that could still become a stop string; the match itself is never passed on."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = [stop for stop in stops if stop]
        self._held = ""
        self.matched = False

    def feed(self, text: str) -> str:
        """The text that may go out now. After a match, nothing does."""
        if self.matched or not self._stops:
            return "" if self.matched else text
        text = self._held + text
        found = min((place for stop in self._stops if (place := text.find(stop)) >= 0), default=-1)
        if found >= 0:
            self.matched, self._held = True, ""
            return text[:found]
        keep = max(self._beginning(text, stop) for stop in self._stops)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def flush(self) -> str:
        """What was held back, when nothing can follow it."""
        text, self._held = self._held, ""
        return text

    @staticmethod
    def _beginning(text: str, stop: str) -> int:
        """Length of the longest end of the text with which the stop string could begin."""
        return next((size for size in range(min(len(stop) - 1, len(text)), 0, -1) if stop.startswith(text[-size:])), 0)
