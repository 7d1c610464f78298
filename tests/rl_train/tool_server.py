"""A tool server in a process of its own, as an instance that rollouts lease."""

import asyncio
import contextlib
import sys

ECHO = "import sys\nfor line in sys.stdin: print(line.strip(), flush=True)"


class ToolServer:
    """It answers each line with the same line."""

    @classmethod
    async def start(cls):
        server, pipe = cls(), asyncio.subprocess.PIPE
        server.process = await asyncio.create_subprocess_exec(sys.executable, "-c", ECHO, stdin=pipe, stdout=pipe)
        return server

    async def ask(self, text):
        line = b""
        with contextlib.suppress(ConnectionError):
            self.process.stdin.write(f"{text}\n".encode())
            await self.process.stdin.drain()
            line = await self.process.stdout.readline()
        if not line:
            raise ConnectionError("the tool server is gone")
        return line.decode().strip()

    async def reset(self):
        if await self.ask("reset") != "reset":
            raise ConnectionError("the tool server still speaks of the last rollout")

    async def close(self):
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()
