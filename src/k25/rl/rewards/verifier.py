"""The reward of visual puzzles: whether an answer means the same as the known one, by the verdict of a model.

Kimi K2.5 report, arXiv 2602.02276, section 4.4.2. The model compares two answers to a question; it does not solve the
puzzle. What rules already find equal is not asked. The precautions are those of `k25.rl.judge_question`.
"""

import secrets

from k25.rl.judge_question import Ask, decide, question
from k25.rl.rewards.outcome import outcome

_TASK = (
    "Decide whether `answer` gives the same solution as `reference`, the known solution of `question`. Wording, units "
    "and detail may differ; the solution itself may not. An answer that names several solutions is not the same. Do "
    "not solve the question yourself: the reference is right."
)


class Verifier:
    """Compares answers with known ones.

    Args:
        attempts: how often a question is put before the verifier has failed.
        longest: characters of an answer beyond which it is wrong unseen; a solution is short.
        key: makes fences and codes unpredictable.
    """

    def __init__(self, *, attempts: int = 2, longest: int = 4_000, key: bytes | None = None) -> None:
        self._attempts, self._longest = attempts, longest
        self._key = secrets.token_bytes(32) if key is None else key

    async def __call__(self, asked: str, prediction: str, truth: str, ask: Ask) -> float:
        """1 if the answer to the question `asked` is the true one, else 0. Raises JudgeError without a verdict."""
        if outcome(prediction, truth):
            return 1.0
        if not prediction.strip() or len(prediction) > self._longest:
            return 0.0
        material = {"question": asked, "reference": truth, "answer": prediction}
        verdict, _ = await decide(question(material, _TASK, {"same": (True, False)}, self._key), ask, self._attempts)
        return float(verdict["same"])
