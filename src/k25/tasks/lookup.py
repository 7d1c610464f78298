"""Looking up what the prompt says: values of keys, chains of two and more keys."""

from itertools import pairwise
from random import Random
from string import ascii_lowercase

from k25.tasks.exercise import Exercise, phrased, text_task, with_thinking
from k25.tasks.names import made_up_names
from k25.tasks.scoring import same_words


@text_task("lookup", hardest=10)
def lookup(numbers: Random, difficulty: int) -> Exercise:
    """2 + difficulty pairs; from 4 on the keys are words and the values have up to three digits.

    Keys stand behind a space wherever they stand, so that a tokenizer gives each key one form.
    """
    count = 2 + difficulty
    if difficulty < 4:
        keys, limit = numbers.sample(ascii_lowercase, count), 10
    else:
        keys, limit = made_up_names(numbers, count), 1000
    values = {key: numbers.randrange(limit) for key in keys}
    text = " ".join(f"{key}={value}" for key, value in values.items())
    key = numbers.choice(keys)
    prompt = phrased(numbers, difficulty, f"given {text} ? {key}", f"We know {text} and want {key}. Its value?")
    return Exercise(prompt, str(values[key]))


@text_task("lookup-all", hardest=8, check=same_words)
def lookup_all(numbers: Random, difficulty: int) -> Exercise:
    """The values of all 2 + difficulty keys in another order: a dense answer, from which looking up is learnt first."""
    values = {key: numbers.randrange(10) for key in numbers.sample(ascii_lowercase, 2 + difficulty)}
    asked = numbers.sample(list(values), len(values))
    prompt = f"given {' '.join(f'{key}={value}' for key, value in values.items())} ? {' '.join(asked)}"
    return Exercise(prompt, " ".join(str(values[key]) for key in asked))


@text_task("two-hop", hardest=8)
def two_hop(numbers: Random, difficulty: int) -> Exercise:
    """Follow links between letters: two of them, from difficulty 5 on three and four."""
    hops = max(2, (difficulty + 1) // 2)
    nodes = numbers.sample(ascii_lowercase, min(20, 3 + 2 * difficulty))
    links = dict(pairwise(nodes))
    start = numbers.randrange(len(nodes) - hops)
    path = nodes[start : start + hops + 1]
    shown = list(links)
    numbers.shuffle(shown)
    text = ", ".join(f"{key} > {links[key]}" for key in shown)
    prompt = phrased(
        numbers,
        difficulty,
        f"given {text} ?{' >' * hops} {path[0]}",
        f"The links are {text} and we take {hops} steps from {path[0]}. Where do we arrive?",
    )
    return Exercise(prompt, path[-1], reasoning=" > ".join(path))


TASKS = [lookup, lookup_all, two_hop, with_thinking(two_hop)]
