"""Small environments whose answers are known in closed form, on which what reinforcement learning does can be measured.

| file | what |
|---|---|
| `lamp` | the colour of a lamp, seen rightly or through fog: more looks cost tokens and pay in fog |
| `lamp_demonstrations` | conversations from which a policy starts there |
| `mixed_demonstrations` | demonstrations of any task, most of them wrong |
| `random_reward` | any environment with rewards that say nothing, as a control |
"""

from k25.rl.experiments.lamp import Lamp
from k25.rl.experiments.lamp_demonstrations import write_demonstrations
from k25.rl.experiments.mixed_demonstrations import write_mixed_demonstrations
from k25.rl.experiments.random_reward import RandomReward

__all__ = ["Lamp", "RandomReward", "write_demonstrations", "write_mixed_demonstrations"]
