"""How a server is run: names, keys, limits."""

import math
from dataclasses import dataclass
from pathlib import Path

from k25.errors import InputError

# Default of the published API for `max_completion_tokens`.
DEFAULT_MAX_TOKENS = 32_768


@dataclass(frozen=True)
class ServerSettings:
    """Raises InputError for a limit outside its range.

    Attributes:
        model_names: names that clients may ask for; answers carry the first.
        api_keys: accepted keys; none means that no key is asked for.
        strict: hold requests to the published parameter policy and message rules of kimi-k2.5.
        max_body_bytes: of one request.
        max_concurrency: generating requests at a time; more are told to come back.
        deadline_seconds: for one answer, from its admission on.
        allowed_hosts: names in the Host header that are answered; none means any. A server on loopback needs it: else a
            web page whose name is made to point there (DNS rebinding) could use it.
        grace_seconds: for running answers, once the server is asked to stop.
        body_seconds: for the arrival of one request's body.
        allow_remote_media: fetch images and videos from public http(s) addresses.
        state: folder for uploaded files.
        max_files: uploaded files of one key.
        max_file_bytes: of all uploaded files together.
        weights_root: folder under which weights may be loaded into the running model; None forbids it.
    """

    model_names: tuple[str, ...]
    state: Path
    api_keys: tuple[str, ...] = ()
    allowed_hosts: tuple[str, ...] = ()
    strict: bool = False
    max_body_bytes: int = 100_000_000
    max_concurrency: int = 256
    deadline_seconds: float = 600.0
    grace_seconds: float = 30.0
    body_seconds: float = 60.0
    allow_remote_media: bool = False
    max_files: int = 1_000
    max_file_bytes: int = 10_000_000_000
    weights_root: Path | None = None

    def __post_init__(self) -> None:
        if not self.model_names or not all(self.model_names):
            raise InputError("served-model-name must not be empty")
        if not all(key and key.isascii() and key.isprintable() and " " not in key for key in self.api_keys):
            raise InputError("an API key must consist of printable ASCII characters without spaces")
        for name in ("max_body_bytes", "max_concurrency", "max_files", "max_file_bytes"):
            if getattr(self, name) < 1:
                raise InputError(f"{name.replace('_', '-')} is {getattr(self, name)}; it must be at least 1")
        # One that is not there yet is made by whoever trains.
        if self.weights_root is not None and self.weights_root.exists() and not self.weights_root.is_dir():
            raise InputError(f"weights-root {self.weights_root}: is no folder; name the one that checkpoints come to")
        for name in ("deadline_seconds", "body_seconds"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise InputError(f"{name.removesuffix('_seconds')} is {value}; it must be a positive number of seconds")
        if not (math.isfinite(self.grace_seconds) and self.grace_seconds >= 0):
            raise InputError(f"grace is {self.grace_seconds}; it must be 0 or more seconds")
