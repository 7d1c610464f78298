"""The demonstration's server: one streamed turn about a picture, and one tool call that has to fit its schema."""

import asyncio
import base64
import json
from pathlib import Path

from rich.console import Console

from k25.agent.schema import check_arguments
from k25.cli.chat_client import Endpoint, Json, Reply
from k25.cli.chat_local import local_server
from k25.cli.demo import checkpoint, prompt
from k25.cli.demo.course import Measured, Place, StageFailed

_ZOOM = {
    "type": "object",
    "properties": {
        "corner": {"enum": ["top left", "top right", "bottom left", "bottom right"]},
        "factor": {"type": "integer", "minimum": 2, "maximum": 8},
    },
    "required": ["corner", "factor"],
    "additionalProperties": False,
}


def show(place: Place) -> Measured:
    """Serve the random nano checkpoint and speak to it as any client of an OpenAI-compatible API would."""
    console, out = place.console, place.out
    source = out / checkpoint.FOLDER
    console.print(f"k25 serve {source}    (compiles its CPU kernels once, about half a minute)", style="dim")
    with local_server(str(source)) as url:
        console.print(f"The server answers at {url}; its chat page is at the same address while it runs.")
        asyncio.run(_talk(console, Endpoint(f"{url}/v1"), out))
    return {}


async def _talk(console: Console, endpoint: Endpoint, out: Path) -> None:
    model = await endpoint.only_model()
    picture = base64.b64encode((out / prompt.PICTURE).read_bytes()).decode()
    parts = [
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{picture}"}},
        {"type": "text", "text": "What do you see?"},
    ]
    body: Json = {"model": model, "messages": [{"role": "user", "content": parts}], "max_tokens": 24, "seed": 1}
    pieces, reply = await _stream(endpoint, body)
    said = reply.reasoning + reply.content
    console.print(f"A picture and a question; the answer came in {pieces} pieces. Random weights talk nonsense:")
    console.print(repr(said[:72]), style="dim", markup=False)
    if not said or reply.finish_reason is None:
        raise StageFailed("the streamed turn did not come to its end")
    zoom = {"name": "zoom", "description": "Enlarge a part of the picture.", "parameters": _ZOOM}
    body |= {"tools": [{"type": "function", "function": zoom}], "max_tokens": 256, "thinking": {"type": "disabled"}}
    _, reply = await _stream(endpoint, body | {"tool_choice": {"type": "function", "function": {"name": "zoom"}}})
    call = next(iter(reply.tool_calls.values()), None)
    if call is None:
        raise StageFailed("the forced tool call is missing")
    problems = check_arguments(json.loads(call.arguments), _ZOOM)
    if problems:
        raise StageFailed(f"the tool call breaks its schema: {problems[0]}")
    console.print(f"A forced tool call: {call.name}({call.arguments}) fits its JSON schema, random weights or not.")


async def _stream(endpoint: Endpoint, body: Json) -> tuple[int, Reply]:
    reply, pieces = Reply(), 0
    async for _ in endpoint.stream({**body, "stream": True}, reply, lambda _: None):
        pieces += 1
    return pieces, reply
