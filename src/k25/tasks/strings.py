"""Single words: small edits, counting letters, closing brackets."""

from random import Random
from string import ascii_lowercase

from k25.tasks.exercise import Exercise, phrased, text_task, with_thinking
from k25.tasks.names import made_up_names
from k25.tasks.scoring import same_number

PAIRS = {"(": ")", "[": "]", "{": "}", "<": ">"}


@text_task("edit-word", hardest=8, domain="coding")
def edit_word(numbers: Random, difficulty: int) -> Exercise:
    """One operation on a word of up to 4 x difficulty letters; from difficulty 5 on two, one after the other."""
    syllables = numbers.randint(1, (difficulty + 1) // 2)
    word = "".join(made_up_names(numbers, syllables))
    result, steps = word, []
    for _ in range(1 if difficulty < 5 else 2):
        step, result = _edit(numbers, result, kinds=min(5, 1 + difficulty))
        steps.append(step)
    rule = ", then ".join(steps)
    return Exercise(phrased(numbers, difficulty, f"{rule}: {word}", f"Take the word {word} and {rule}."), result)


def _edit(numbers: Random, word: str, kinds: int) -> tuple[str, str]:
    """One of the first `kinds` operations: its name and its result, which is never empty."""
    letter, other = numbers.choice(word), numbers.choice(ascii_lowercase)
    edits = [
        ("double every letter", "".join(character * 2 for character in word)),
        ("write it in capitals", word.upper()),
        (f"replace {letter} by {other}", word.replace(letter, other)),
        ("write it backwards", word[::-1]),
        ("move the first letter to the end", word[1:] + word[0]),
    ]
    return numbers.choice(edits[:kinds])


@text_task("count-letters", hardest=8, check=same_number)
def count_letters(numbers: Random, difficulty: int) -> Exercise:
    """How often a letter stands in a row of up to 4 x difficulty; from 5 on the row is one word."""
    alphabet = numbers.sample(ascii_lowercase, 3)
    row = numbers.choices(alphabet, k=numbers.randint(3, 4 * difficulty))
    letter = numbers.choice(alphabet)
    text = "".join(row) if difficulty >= 5 else " ".join(row)
    prompt = phrased(numbers, difficulty, f"count {letter}: {text}", f"How many times does {letter} occur in {text}?")
    counted, marks = 0, []
    for character in row:
        counted += character == letter
        marks.append(f"{character}{counted}")
    return Exercise(prompt, str(row.count(letter)), reasoning=" ".join(marks))


@text_task("close-brackets", hardest=8)
def close_brackets(numbers: Random, difficulty: int) -> Exercise:
    """Which brackets close all that is open; 1 + 2 x difficulty brackets, more kinds as difficulty grows."""
    kinds = list(PAIRS)[: min(4, 1 + difficulty)]
    text, still_open = "", ""
    for _ in range(1 + 2 * difficulty):
        if still_open and numbers.random() < 0.4:
            text, still_open = text + PAIRS[still_open[-1]], still_open[:-1]
        else:
            opening = numbers.choice(kinds)
            text, still_open = text + opening, still_open + opening
    if not still_open:
        text, still_open = text + "(", "("
    answer = "".join(PAIRS[bracket] for bracket in reversed(still_open))
    return Exercise(
        phrased(numbers, difficulty, f"close: {text}", f"Which brackets must follow {text} to close it?"), answer
    )


TASKS = [edit_word, count_letters, with_thinking(count_letters), close_brackets]
