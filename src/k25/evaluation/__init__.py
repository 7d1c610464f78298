"""Evaluation: tasks through the one agent loop, on a model in this process or behind a URL.

`EngineClient` asks an engine as agents ask a server, and keeps every token: rollouts of reinforcement learning use it
too. `exercises` and `named_tasks` say what is asked, `attempt_all` asks, `task_results` and `differences` count.
"""

from k25.evaluation.attempts import Attempt, attempt_all, task_toolset
from k25.evaluation.checkpoints import Checkpoint, CheckpointReader, load_checkpoint, open_checkpoint
from k25.evaluation.engine_client import EngineClient, Form, Policy, TokenEngine, TokenEvents
from k25.evaluation.exercises import EVALUATION_SEED, SUITES, exercises, named_tasks
from k25.evaluation.policies import PolicyClients
from k25.evaluation.results import Difference, TaskResult, differences, task_results
from k25.evaluation.server_clients import ServerClients
from k25.evaluation.statistics import Estimate, mean_difference, mean_score
from k25.evaluation.transcript import transcript

__all__ = [
    "EVALUATION_SEED",
    "SUITES",
    "Attempt",
    "Checkpoint",
    "CheckpointReader",
    "Difference",
    "EngineClient",
    "Estimate",
    "Form",
    "Policy",
    "PolicyClients",
    "ServerClients",
    "TaskResult",
    "TokenEngine",
    "TokenEvents",
    "attempt_all",
    "differences",
    "exercises",
    "load_checkpoint",
    "mean_difference",
    "mean_score",
    "named_tasks",
    "open_checkpoint",
    "task_results",
    "task_toolset",
    "transcript",
]
