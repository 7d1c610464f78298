"""A multi-turn environment in the API of verifiers: a user who asks again, and a second seat that listens."""

import verifiers.v1 as vf


class TalkTask(vf.Task[vf.TaskData]):
    pass


class TalkConfig(vf.EnvConfig):
    talker: vf.AgentConfig = vf.AgentConfig()
    listener: vf.AgentConfig = vf.AgentConfig()
    turns: int = 3
    listens: bool = False
    frozen: bool = False


class TalkEnv(vf.Env[TalkConfig]):
    async def setup(self, agents):
        agents.listener.trainable = not self.config.frozen

    async def run(self, task, agents):
        async with agents.talker.interaction(task) as talk:
            segment = await talk.turn()
            for number in range(1, self.config.turns):
                if not segment.terminated:
                    segment = await talk.turn(f"Once more, number {number}.")
        talk.trace.record_reward("turns", talk.trace.num_turns / self.config.turns)
        if self.config.listens:
            heard = await agents.listener.run(task)
            heard.record_reward("heard", 0.25)


class TalkTaskset(vf.Taskset[TalkTask, vf.TasksetConfig]):
    def load(self):
        return [TalkTask(vf.TaskData(prompt="Say anything."))]


__all__ = ["TalkEnv", "TalkTaskset"]
