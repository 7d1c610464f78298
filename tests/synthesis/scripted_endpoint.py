"""A model server on loopback whose answers a test scripts, and what the tests of the synthesis share."""

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from k25.synthesis import Outcome, parse_plan, synthesize

Body = dict[str, Any]
# A message, with "finish_reason" beside its fields if it is not "stop"; an HTTP status and an error's text; or
# None: the server hangs up and listens no more.
Reply = dict[str, Any] | tuple[int, str] | None


class ScriptedEndpoint:
    """Answers with `script(body, times)`, where `times` counts how often the very same messages came before."""

    def __init__(self, script: Callable[[Body, int], Reply]) -> None:
        self.script = script
        self.bodies: list[Body] = []
        self.url = ""
        self._seen: dict[str, int] = {}
        self._lock = threading.Lock()

    @contextmanager
    def running(self) -> Iterator["ScriptedEndpoint"]:
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                reply = endpoint._answer(body)
                if reply is None:
                    server.socket.close()
                    self.close_connection = True
                    return
                status, answer = reply
                data = json.dumps(answer).encode()
                try:
                    self.send_response(status)
                    self.send_header("Content-Type", "application/json")
                    self.send_header("Content-Length", str(len(data)))
                    self.end_headers()
                    self.wfile.write(data)
                except ConnectionError:
                    self.close_connection = True

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        self.url = f"http://127.0.0.1:{server.server_port}/v1"
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()

    def _answer(self, body: Body) -> tuple[int, Body] | None:
        key = json.dumps(body["messages"])
        with self._lock:
            times = self._seen[key] = self._seen.get(key, -1) + 1
            self.bodies.append(body)
        reply = self.script(body, times)
        if reply is None:
            return None
        if isinstance(reply, tuple):
            return reply[0], {"error": {"message": reply[1]}}
        message = {"role": "assistant", **reply}
        finish = message.pop("finish_reason", "stop")
        usage = {"prompt_tokens": 20, "completion_tokens": 10}
        return 200, {"choices": [{"index": 0, "message": message, "finish_reason": finish}], "usage": usage}


def plan_for(url: str, prompts: Body, *, candidates: int = 1, **tables: Any) -> Body:
    """The table of a plan with one endpoint and one prompt set."""
    endpoint = {"url": url, "model": "teacher", "candidates": candidates, "attempts": 1, "concurrency": 4}
    return {"endpoints": {"one": endpoint}, "prompts": {"set": prompts}} | tables


def tasks(*names: str, count: int = 4, **fields: Any) -> Body:
    return {"kind": "tasks", "tasks": list(names), "count": count, "difficulty": 1} | fields


def conversations(path: Path, *records: Body) -> Body:
    """A prompt set of a file that is written here."""
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return {"kind": "conversations", "path": str(path)}


def asks(text: str, **fields: Any) -> Body:
    return {"messages": [{"role": "user", "content": text}]} | fields


def run(table: Body, folder: Path) -> Outcome:
    return asyncio.run(asyncio.wait_for(synthesize(parse_plan(table), folder), 60))


def lines(path: Path) -> list[Body]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def calls(*named: tuple[str, Body | str], **fields: Any) -> Body:
    """A message that calls tools, with ids as other servers write them."""
    made = [
        {
            "id": f"call_{number}{abs(hash(name)) % 1000}",
            "type": "function",
            "function": {"name": name, "arguments": given if isinstance(given, str) else json.dumps(given)},
        }
        for number, (name, given) in enumerate(named)
    ]
    return {"content": None, "tool_calls": made, "finish_reason": "tool_calls"} | fields
