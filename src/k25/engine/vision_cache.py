"""Vision features by content, so that an image seen in many turns is encoded once."""

from collections import OrderedDict

from torch import Tensor


class VisionCache:
    """Features (O, hidden) by key, up to `limit` bytes; the least recently used go first."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self._features: OrderedDict[bytes, Tensor] = OrderedDict()

    def get(self, key: bytes) -> Tensor | None:
        """The features, if they are still here."""
        features = self._features.get(key)
        if features is not None:
            self._features.move_to_end(key)
        return features

    def put(self, key: bytes, features: Tensor) -> None:
        """Keep features, unless they alone exceed the limit."""
        if features.nbytes > self.limit or key in self._features:
            return
        self._features[key] = features
        self.used += features.nbytes
        while self.used > self.limit:
            _, oldest = self._features.popitem(last=False)
            self.used -= oldest.nbytes

    def clear(self) -> None:
        """Drop everything: the weights changed."""
        self._features.clear()
        self.used = 0
