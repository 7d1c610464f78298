"""Word problems: people give, buy and share things; the answer is a whole number."""

from random import Random

from k25.tasks.exercise import Exercise, text_task, with_thinking
from k25.tasks.names import PEOPLE, THINGS
from k25.tasks.scoring import same_number


@text_task("word-problem", hardest=8, check=same_number)
def word_problem(numbers: Random, difficulty: int) -> Exercise:
    """1 + difficulty // 2 events one after the other, with numbers up to 5 x difficulty and more kinds of events."""
    person, *others = numbers.sample(PEOPLE, 4)
    thing, distractor = numbers.sample(THINGS, 2)
    owned = numbers.randint(1, 5 * difficulty)
    sentences, steps = [f"{person} has {owned} {thing}."], []
    if difficulty >= 5:
        sentences[0] += f" {others[0]} has {numbers.randint(1, 5 * difficulty)} {distractor}."
    for _ in range(1 + difficulty // 2):
        sentence, step, owned = _event(numbers, difficulty, person, numbers.choice(others), owned)
        sentences.append(sentence)
        steps.append(step)
    question = f"How many {thing} does {person} have now?"
    return Exercise(" ".join((*sentences, question)), str(owned), reasoning="\n".join(steps))


def _event(numbers: Random, difficulty: int, person: str, other: str, owned: int) -> tuple[str, str, int]:
    """A sentence, its calculation, and what is owned afterwards; never negative, always whole."""
    amount = numbers.randint(1, 5 * difficulty)
    factor = numbers.randint(2, 3 + difficulty // 3)
    given = numbers.randint(0, owned)
    shares = [count for count in range(2, 10) if owned % count == 0]
    kinds = ["gain", "give"] if difficulty == 1 else ["gain", "find", "give", "lose"]
    if difficulty >= 4 and owned < 1000:
        kinds += ["multiply"]
    if difficulty >= 6 and owned and shares:
        kinds += ["share"]
    match numbers.choice(kinds):
        case "gain":
            return f"{other} gives {person} {amount} more.", f"{owned}+{amount}={owned + amount}", owned + amount
        case "find":
            return f"{person} buys another {amount}.", f"{owned}+{amount}={owned + amount}", owned + amount
        case "give":
            return f"{person} gives {other} {given}.", f"{owned}-{given}={owned - given}", owned - given
        case "lose":
            return f"{person} loses {given}.", f"{owned}-{given}={owned - given}", owned - given
        case "multiply":
            text = f"Then {person} collects until there are {factor} times as many."
            return text, f"{owned}*{factor}={owned * factor}", owned * factor
        case _:
            count = numbers.choice(shares)
            text = f"{person} makes {count} equal shares and keeps one."
            return text, f"{owned}/{count}={owned // count}", owned // count


TASKS = [word_problem, with_thinking(word_problem)]
