"""A chat completions server on loopback that answers with scripts, for programs that are tested from outside."""

import asyncio
import inspect
import json
import threading
from contextlib import contextmanager

from aiohttp import web


def held(script):
    """A script that answers only once the event is set that comes with it."""
    released = threading.Event()

    async def waiting(messages):
        while not released.is_set():
            await asyncio.sleep(0.01)
        return script(messages)

    return waiting, released


@contextmanager
def scripted_server(scripts, latency=0.0):
    """Serves each model name with its script, which may be a coroutine; yields the URL and a list of all requests.

    A request is (headers, body).
    """
    received = []

    async def answer(request):
        body = await request.json()
        received.append((dict(request.headers), body))
        await asyncio.sleep(latency)
        if body["model"] not in scripts:
            return web.json_response({"error": {"message": f"no model {body['model']}"}}, status=404)
        turn = scripts[body["model"]](body["messages"])
        turn = await turn if inspect.isawaitable(turn) else turn
        message = {"role": "assistant", "content": turn.content, "reasoning_content": turn.reasoning}
        if turn.tool_calls:
            message["tool_calls"] = [
                {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
                for call in turn.tool_calls
            ]
        choice = {"index": 0, "message": message, "finish_reason": turn.finish_reason}
        usage = {"prompt_tokens": len(json.dumps(body["messages"])) // 4, "completion_tokens": 5}
        return web.json_response({"id": "x", "object": "chat.completion", "choices": [choice], "usage": usage})

    async def models(_):
        return web.json_response({"object": "list", "data": [{"id": name} for name in scripts]})

    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def start():
        app = web.Application()
        app.router.add_post("/v1/chat/completions", answer)
        app.router.add_get("/v1/models", models)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return runner

    runner = asyncio.run_coroutine_threadsafe(start(), loop).result(60)
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}", received
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(120)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(60)
        assert not thread.is_alive()
        loop.close()
