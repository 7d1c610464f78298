"""A single-turn environment in the API of verifiers: sums, two weighted rewards and a metric."""

import verifiers.v1 as vf


class SumData(vf.TaskData):
    answer: int


class SumTask(vf.Task[SumData]):
    @vf.reward(weight=2.0)
    async def correct(self, trace):
        return float(trace.last_reply == str(self.data.answer))

    @vf.reward(weight=0.5)
    async def spoke(self, trace):
        return float(bool(trace.last_reply))

    @vf.metric
    async def characters(self, trace):
        return len(trace.last_reply)


class SumConfig(vf.TasksetConfig):
    tasks: int = 5


class SumTaskset(vf.Taskset[SumTask, SumConfig]):
    def load(self):
        return [
            SumTask(SumData(prompt=f"What is {n} + 20?", system_prompt="Digits only.", answer=n + 20), self.config.task)
            for n in range(self.config.tasks)
        ]


__all__ = ["SumTaskset"]
