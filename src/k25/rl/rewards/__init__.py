"""Rewards by rule, each (prediction, truth) -> from 0 to 1, and the verifier of puzzles that no rule can check.

`exercise` and `outcome` are for verifiable tasks, `budget_control` for token efficiency; `grounding`, `pointing`,
`segmentation`, `transcription` and `counting` for pictures. Judges that grade by rubrics are in `k25.rl.judge`.
"""

from k25.rl.rewards.outcome import budget_control, exercise, outcome
from k25.rl.rewards.verifier import Verifier
from k25.rl.rewards.visual import counting, grounding, pointing, segmentation, transcription

__all__ = [
    "Verifier",
    "budget_control",
    "counting",
    "exercise",
    "grounding",
    "outcome",
    "pointing",
    "segmentation",
    "transcription",
]
