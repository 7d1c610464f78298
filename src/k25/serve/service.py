"""What all endpoints share: the engine with its tokenizer, and what turns requests into work for it."""

import secrets

from k25.chat import Tokenizer
from k25.engine import Engine
from k25.media import MediaProcessor
from k25.serve.errors import NOT_FOUND, ApiError
from k25.serve.files import FileStore
from k25.serve.generation import Runner
from k25.serve.guides import GuideMaker
from k25.serve.monitoring import Monitor
from k25.serve.prompts import PromptBuilder
from k25.serve.settings import ServerSettings


class Service:
    """One served model. `media` is None for a model without a vision tower. Raises InputError for unusable settings."""

    def __init__(
        self,
        engine: Engine,
        tokenizer: Tokenizer,
        media: MediaProcessor | None,
        settings: ServerSettings,
        monitor: Monitor,
    ) -> None:
        self.engine, self.tokenizer, self.settings = engine, tokenizer, settings
        self.longest = engine.longest
        self.files = FileStore(settings)
        self.prompts = PromptBuilder(
            tokenizer, media, self.files, longest=engine.longest, remote=settings.allow_remote_media
        )
        self.guides = GuideMaker(tokenizer)
        self.runner = Runner(engine, monitor, deadline=settings.deadline_seconds)

    @property
    def model_name(self) -> str:
        """The name that answers carry."""
        return self.settings.model_names[0]

    def check_model(self, name: str) -> None:
        """Raise ApiError for a model that is not served here."""
        if name not in self.settings.model_names:
            raise ApiError(404, NOT_FOUND, f"Not found the model {name} or Permission denied")

    @staticmethod
    def new_id() -> str:
        """A fresh name for an answer."""
        return secrets.token_hex(12)
