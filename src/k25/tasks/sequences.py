"""Lists of letters and numbers: copy, reverse, sort, and small list operations."""

from random import Random
from string import ascii_lowercase

from k25.tasks.exercise import Exercise, phrased, text_task
from k25.tasks.scoring import same_list


@text_task("copy", hardest=10)
def copy(numbers: Random, difficulty: int) -> Exercise:
    """2 + 2 x difficulty letters at most."""
    text = " ".join(numbers.choices(ascii_lowercase, k=numbers.randint(2, 2 + 2 * difficulty)))
    return Exercise(
        phrased(numbers, difficulty, f"copy: {text}", f"Repeat exactly: {text}", f"Write again: {text}"), text
    )


@text_task("reverse", hardest=10, check=same_list)
def reverse(numbers: Random, difficulty: int) -> Exercise:
    """2 + difficulty letters at most."""
    items = numbers.choices(ascii_lowercase, k=numbers.randint(2, 2 + difficulty))
    text = " ".join(items)
    prompt = phrased(numbers, difficulty, f"reverse: {text}", f"Write backwards: {text}", f"From last to first: {text}")
    return _listed(prompt, items[::-1])


@text_task("sort", hardest=10, check=same_list)
def sort(numbers: Random, difficulty: int) -> Exercise:
    """2 + difficulty numbers at most: digits at first, from difficulty 4 on up to 999; then also largest first."""
    limit = 10 if difficulty < 4 else 1000
    items = [numbers.randrange(limit) for _ in range(numbers.randint(2, 2 + difficulty))]
    text = " ".join(map(str, items))
    falling = difficulty >= 4 and numbers.random() < 0.5
    if falling:
        prompt = phrased(numbers, difficulty, f"Sort, largest first: {text}", f"In falling order: {text}")
    else:
        prompt = phrased(
            numbers, difficulty, f"sort: {text}", f"Sort, smallest first: {text}", f"In rising order: {text}"
        )
    return _listed(prompt, sorted(items, reverse=falling))


@text_task("filter-list", hardest=8, check=same_list, domain="coding")
def filter_list(numbers: Random, difficulty: int) -> Exercise:
    """Keep the items that fulfil a condition; more conditions and items as difficulty grows."""
    items = [numbers.randrange(10 if difficulty < 4 else 100) for _ in range(2 + 2 * difficulty)]
    bound = numbers.choice(items)
    rules = {
        f"more than {bound}": [item for item in items if item > bound],
        f"less than {bound}": [item for item in items if item < bound],
        "even": [item for item in items if item % 2 == 0],
        "odd": [item for item in items if item % 2],
    }
    rule = numbers.choice(list(rules)[: 1 if difficulty == 1 else None])
    text = " ".join(map(str, items))
    prompt = phrased(numbers, difficulty, f"keep {rule}: {text}", f"Which of these are {rule}, in order? {text}")
    return _listed(prompt, rules[rule])


@text_task("unique", hardest=8, check=same_list, domain="coding")
def unique(numbers: Random, difficulty: int) -> Exercise:
    """Drop what came before; 2 + 2 x difficulty letters."""
    count = 2 + 2 * difficulty
    items = numbers.choices(ascii_lowercase[: max(3, count // 2)], k=count)
    text = " ".join(items)
    prompt = phrased(
        numbers, difficulty, f"unique: {text}", f"Remove repeated letters, keeping the first of each: {text}"
    )
    return _listed(prompt, list(dict.fromkeys(items)))


@text_task("rotate", hardest=8, check=same_list, domain="coding")
def rotate(numbers: Random, difficulty: int) -> Exercise:
    """Move items from the front to the end; one at difficulty 1, then up to difficulty."""
    items = numbers.sample(ascii_lowercase, 2 + difficulty)
    steps = numbers.randint(1, difficulty)
    text = " ".join(items)
    prompt = phrased(
        numbers,
        difficulty,
        f"rotate {steps}: {text}",
        f"Move the first {steps} to the end, one after the other: {text}",
    )
    return _listed(prompt, items[steps:] + items[:steps])


def _listed(prompt: str, items: list[str] | list[int]) -> Exercise:
    gold = [str(item) for item in items] or ["none"]
    return Exercise(prompt, " ".join(gold), gold)


TASKS = [copy, reverse, sort, filter_list, unique, rotate]
