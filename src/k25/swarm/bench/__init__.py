"""Swarm Bench: an offline world of real data, questions whose answers are known exactly, and their scores.

`World` is the built world, `build_world` builds it, `serve_world` serves it on loopback with injected latency and
faults, `QuestionMaker` makes questions, `score` scores an answer.
"""

from k25.swarm.bench.questions import KINDS, QuestionMaker
from k25.swarm.bench.scoring import Score, score
from k25.swarm.bench.server import Statistics, Weather, serve_world
from k25.swarm.bench.types import Question
from k25.swarm.bench.world import World, build_world

__all__ = [
    "KINDS",
    "Question",
    "QuestionMaker",
    "Score",
    "Statistics",
    "Weather",
    "World",
    "build_world",
    "score",
    "serve_world",
]
