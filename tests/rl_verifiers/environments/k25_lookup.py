"""A tool environment in the API of verifiers: a table behind a tool server of its own, endless tasks."""

from itertools import count

import verifiers.v1 as vf


class TableToolset(vf.Toolset[vf.ToolsetConfig]):
    TOOL_PREFIX = "table"

    @vf.tool
    def lookup(self, key: int) -> str:
        """The value of a key of the table."""
        return f"value-{key}"


class LookupData(vf.TaskData):
    key: int


class LookupTask(vf.Task[LookupData]):
    @classmethod
    def toolsets(cls, config):
        return [TableToolset(vf.ToolsetConfig())]

    @vf.reward
    async def looked_up(self, trace):
        return float(any(f"value-{self.data.key}" in str(message.content) for message in trace.tool_messages))

    @vf.reward
    async def right(self, trace):
        return float(trace.last_reply == f"value-{self.data.key}")


class LookupTaskset(vf.Taskset[LookupTask, vf.TasksetConfig]):
    INFINITE = True

    def load(self):
        for key in count():
            yield LookupTask(LookupData(prompt=f"What is the value of key {key}?", key=key), self.config.task)


__all__ = ["LookupTaskset"]

if __name__ == "__main__":
    TableToolset.run()
