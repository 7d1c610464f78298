"""The server: an OpenAI-compatible API around the engine, and commands for other engines.

`create_app` makes the application, `ServerSettings` says how it is run, `external_command` how vLLM or SGLang is.
"""

from k25.serve.app import create_app
from k25.serve.external import external_command
from k25.serve.settings import ServerSettings

__all__ = ["ServerSettings", "create_app", "external_command"]
