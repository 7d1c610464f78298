"""Small Boolean logic: is an expression true, with given letters."""

from random import Random

from k25.tasks.exercise import Exercise, phrased, text_task
from k25.tasks.scoring import same_words


@text_task("boolean", hardest=8, check=same_words)
def boolean(numbers: Random, difficulty: int) -> Exercise:
    """An expression of difficulty + 1 leaves; from difficulty 4 on the leaves are letters with values."""
    values = {letter: numbers.random() < 0.5 for letter in "pqrs"}
    leaves = {str(value).lower(): value for value in (True, False)} if difficulty < 4 else values
    text, truth = _expression(numbers, leaves, difficulty + 1)
    given = ", ".join(f"{letter} is {str(value).lower()}" for letter, value in values.items())
    if difficulty < 4:
        prompt = phrased(numbers, difficulty, f"{text} =", f"Is this true or false? {text}")
    else:
        prompt = phrased(numbers, difficulty, f"{given}. {text} =", f"Say true or false: {text}, where {given}.")
    return Exercise(prompt, str(truth).lower())


def _expression(numbers: Random, leaves: dict[str, bool], size: int) -> tuple[str, bool]:
    """A fully bracketed expression with `size` leaves, and its value."""
    if size == 1:
        text, value = numbers.choice(list(leaves.items()))
        return (f"not {text}", not value) if numbers.random() < 0.25 else (text, value)
    left_size = numbers.randint(1, size - 1)
    (left, left_value), (right, right_value) = (
        _expression(numbers, leaves, part) for part in (left_size, size - left_size)
    )
    left, right = (f"({side})" if part > 1 else side for side, part in ((left, left_size), (right, size - left_size)))
    if numbers.random() < 0.5:
        return f"{left} and {right}", left_value and right_value
    return f"{left} or {right}", left_value or right_value


TASKS = [boolean]
