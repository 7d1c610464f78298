"""`k25 chat`: talk to a model, on any OpenAI-compatible server or from a checkpoint of this machine.

Exit codes: 0 the answer is complete or the user left, 1 the server failed, was not reached or broke off, 2 wrong input
(including a key, model or parameter that the server refuses), 130 interrupted.
"""

import asyncio
import io
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, NoReturn

from cyclopts import Parameter

from k25.cli.chat_client import Endpoint, Json, ServerError, endpoint_base, key_from_environment
from k25.cli.chat_conversation import Conversation, Mode, Settings
from k25.cli.chat_display import Display
from k25.cli.chat_local import local_server
from k25.cli.chat_session import Session, answer
from k25.errors import InputError


def main(
    source: str = "http://127.0.0.1:8000",
    /,
    *,
    prompt: str | None = None,
    image: list[Path] | None = None,
    video: list[Path] | None = None,
    model: str | None = None,
    api_key: Annotated[str | None, Parameter(show_default=False)] = None,
    mode: Mode | None = None,
    system: str = "",
    temperature: float | None = None,
    max_tokens: int | None = None,
    tools: Path | None = None,
) -> None:
    """Talk to a model. With --prompt or a pipe as input: one question, and only the answer on standard output.

    Keys that are not given come from the environment: MOONSHOT_API_KEY for api.moonshot.ai and api.moonshot.cn,
    OPENAI_API_KEY for other servers over https or on this machine.

    Args:
        source: URL of an OpenAI-compatible server, or a checkpoint folder or preset to serve while the chat lasts.
        prompt: Ask this and leave.
        image: Image file for the question of --prompt; may be repeated.
        video: Video file for the question of --prompt; may be repeated.
        model: Name of the model [the only one that the server offers].
        api_key: Key for the server. Other users of this machine can see it here, but not in the environment.
        mode: instant or thinking [the server's choice].
        system: System prompt.
        temperature: Sampling temperature [the server's choice].
        max_tokens: Most tokens of an answer, thinking included [the server's choice].
        tools: JSON file with a list of tool definitions; their results are asked from you.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # not every terminal knows every character
    if prompt is None and not sys.stdin.isatty():
        prompt = _read_stdin()
    if prompt is None and (image or video):
        raise InputError("--image and --video belong to --prompt; in a chat attach files with /image and /video")
    if prompt is not None and not (prompt.strip() or image or video):
        raise InputError("the prompt is empty; give a question with --prompt or on standard input")
    settings = Settings("", mode, temperature, max_tokens, _read_tools(tools))
    conversation = Conversation(settings, system)
    for path in image or []:
        conversation.attach("image", path)
    for path in video or []:
        conversation.attach("video", path)
    try:
        with _endpoint(source, api_key) as endpoint:
            settings.model = model or asyncio.run(endpoint.only_model())
            if prompt is None:
                Session(endpoint, conversation).run()
            else:
                _one_shot(endpoint, conversation, prompt.strip())
    except ServerError as error:
        _fail(error)
    except BrokenPipeError:  # the reader of our output has left; Python would complain about it once more at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def _read_stdin() -> str:
    try:
        return sys.stdin.read()
    except UnicodeDecodeError:
        raise InputError("standard input is no text; attach files with --image or --video") from None


def _one_shot(endpoint: Endpoint, conversation: Conversation, prompt: str) -> None:
    conversation.ask(prompt)
    _, failure = answer(endpoint, conversation.body(endpoint), Display(answer_only=True))
    if failure is not None:
        raise failure


def _fail(error: ServerError) -> NoReturn:
    if error.caller_at_fault:
        raise InputError(_with_remedy(error)) from None
    Display(answer_only=True).error(str(error))
    sys.exit(1)


def _with_remedy(error: ServerError) -> str:
    if error.status == 401:
        return f"{error}; give a key with --api-key, OPENAI_API_KEY or MOONSHOT_API_KEY"
    return str(error)


@contextmanager
def _endpoint(source: str, api_key: str | None) -> Iterator[Endpoint]:
    """The server to talk to; one of our own for a checkpoint or preset."""
    if "://" in source:
        base = endpoint_base(source)
        yield Endpoint(base, api_key if api_key is not None else key_from_environment(base))
        return
    _check_local(source)
    Display(answer_only=True).note(f"starting `k25 serve {source}`")
    with local_server(source) as url:
        yield Endpoint(endpoint_base(url))


def _check_local(source: str) -> None:
    if Path(source).is_dir():
        return
    try:
        from k25.model import PRESETS
    except ImportError:
        raise InputError(f"{source!r} is no URL, and serving needs more libraries: pip install 'k25[model]'") from None
    if source not in PRESETS:
        raise InputError(f"{source!r} is no URL (http://...), checkpoint folder or preset ({', '.join(PRESETS)})")


def _read_tools(path: Path | None) -> list[Json]:
    if path is None:
        return []
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON ({error})") from None
    if not (isinstance(data, list) and data and all(isinstance(tool, dict) for tool in data)):
        raise InputError(f"{path}: expected a list of tool definitions")
    return data
