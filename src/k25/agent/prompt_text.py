"""What a model is sent, as JSON: each message is encoded once, however often its conversation is sent and grows."""

import hashlib
import json
from collections.abc import Sequence

from k25.agent.tool import JsonObject


class PromptText:
    """The tools and the messages of one agent's requests. `tools` is JSON, and so is each of `messages`."""

    def __init__(self, model: str, tools: Sequence[JsonObject]) -> None:
        self.tools = json.dumps(tools)
        self._tools = tools
        self.messages: list[str] = []
        self._sources: list[JsonObject] = []
        self._beginning = hashlib.sha256(f"[{json.dumps(model)}, {self.tools}]".encode())
        self._hash = self._beginning.copy()

    def follow(self, messages: Sequence[JsonObject]) -> str:
        """Make this the text of `messages`, and return a hash over the model, the tools and them.

        Messages that were there before, as the same objects, are not encoded again.
        """
        known = len(self._sources)
        if len(messages) < known or any(one is not other for one, other in zip(self._sources, messages, strict=False)):
            known = 0
            self._sources, self.messages, self._hash = [], [], self._beginning.copy()
        for message in messages[known:]:
            text = json.dumps(message)
            self._hash.update(text.encode())
            self._sources.append(message)
            self.messages.append(text)
        return self._hash.hexdigest()[:32]

    def is_of(self, tools: Sequence[JsonObject], messages: Sequence[JsonObject]) -> bool:
        """Whether this is the text of these very objects: a client in between may have replaced some."""
        return (
            tools is self._tools
            and len(messages) == len(self._sources)
            and all(one is other for one, other in zip(self._sources, messages, strict=True))
        )
