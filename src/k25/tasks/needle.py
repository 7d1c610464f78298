"""Finding one fact in a long text: what long-context training is for."""

from random import Random
from string import ascii_lowercase

from k25.tasks.exercise import Exercise, text_task

_FILLER = (
    "the a one this that old new small large green quiet river field road house garden village morning evening winter "
    "summer baker child horse bird stone bridge window letter table goes comes stands lies waits sings falls turns "
    "slowly often never always there here again with without under over near far and but so then"
)
_FACTS = 4
_WORDS = 32


@text_task("needle", hardest=9)
def needle(numbers: Random, difficulty: int) -> Exercise:
    """Four facts like `k=7` among 32 * 2^difficulty words without meaning; one of them is asked for."""
    words = numbers.choices(_FILLER.split(), k=_WORDS * 2**difficulty)
    facts = {key: numbers.randrange(10) for key in numbers.sample(ascii_lowercase, _FACTS)}
    for place, (key, value) in zip(sorted(numbers.sample(range(len(words)), _FACTS)), facts.items(), strict=True):
        words[place] += f" {key}={value}"
    key = numbers.choice(list(facts))
    return Exercise(f"given {' '.join(words)} ? {key}", str(facts[key]))


TASKS = [needle]
