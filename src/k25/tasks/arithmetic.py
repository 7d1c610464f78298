"""Whole-number arithmetic: add, subtract, multiply, add modulo a number, compare."""

from random import Random

from k25.tasks.exercise import Exercise, phrased, text_task, with_thinking
from k25.tasks.scoring import same_number

MODULI = (7, 11, 23, 43, 59, 97)


@text_task("add", hardest=12, check=same_number)
def add(numbers: Random, difficulty: int) -> Exercise:
    """Difficulty n: numbers of up to n digits."""
    a, b = _number(numbers, difficulty), _number(numbers, difficulty)
    prompt = phrased(numbers, difficulty, f"{a}+{b}=", f"What is {a} + {b}?", f"Add {a} and {b}.")
    return Exercise(prompt, str(a + b), reasoning=_column_addition(a, b))


@text_task("subtract", hardest=12, check=same_number)
def subtract(numbers: Random, difficulty: int) -> Exercise:
    """Difficulty n: numbers of up to n digits; from 3 on the result may be negative."""
    a, b = _number(numbers, difficulty), _number(numbers, difficulty)
    if difficulty < 3:
        a, b = max(a, b), min(a, b)
    prompt = phrased(numbers, difficulty, f"{a}-{b}=", f"What is {a} - {b}?", f"Subtract {b} from {a}.")
    return Exercise(prompt, str(a - b))


@text_task("multiply", hardest=10, check=same_number)
def multiply(numbers: Random, difficulty: int) -> Exercise:
    """Difficulty n: numbers of (n + 2) // 2 and (n + 1) // 2 digits at most."""
    a, b = _number(numbers, (difficulty + 2) // 2), _number(numbers, (difficulty + 1) // 2)
    prompt = phrased(numbers, difficulty, f"{a}*{b}=", f"What is {a} times {b}?", f"Multiply {a} by {b}.")
    return Exercise(prompt, str(a * b), reasoning=_partial_products(a, b))


@text_task("modular-add", hardest=10, check=same_number)
def modular_add(numbers: Random, difficulty: int) -> Exercise:
    """Difficulties 1 to 6 have one modulus each; later ones draw a modulus of up to difficulty - 4 digits."""
    modulus = MODULI[difficulty - 1] if difficulty <= len(MODULI) else numbers.randrange(10, 10 ** (difficulty - 4))
    a, b = numbers.randrange(modulus), numbers.randrange(modulus)
    prompt = f"({a}+{b})%{modulus}="
    if difficulty > len(MODULI):
        prompt = phrased(numbers, difficulty, prompt, f"What is the remainder of {a} + {b} divided by {modulus}?")
    return Exercise(prompt, str((a + b) % modulus))


@text_task("compare", hardest=10)
def compare(numbers: Random, difficulty: int) -> Exercise:
    """Difficulty n: which sign stands between numbers of up to n digits; they are often close."""
    a = _number(numbers, difficulty)
    near = abs(a + numbers.choice((-1, 0, 1)) * 10 ** numbers.randrange(difficulty))
    b = numbers.choice((near, _number(numbers, difficulty)))
    sign = "<" if a < b else ">" if a > b else "="
    prompt = phrased(numbers, difficulty, f"{a} ? {b}", f"Which sign belongs between {a} and {b}: <, > or =?")
    return Exercise(prompt, sign)


def _number(numbers: Random, digits: int) -> int:
    """Uniform over the number of digits first, so that short numbers stay common."""
    return numbers.randrange(10 ** numbers.randint(1, digits))


def _column_addition(a: int, b: int) -> str:
    """Digit by digit from the right: both digits, the carry that comes in, and their sum."""
    width = max(len(str(a)), len(str(b)))
    carry, lines = 0, []
    for digit_a, digit_b in zip(reversed(f"{a:0{width}}"), reversed(f"{b:0{width}}"), strict=True):
        total = int(digit_a) + int(digit_b) + carry
        lines.append(f"{digit_a}+{digit_b}+{carry}={total}")
        carry = total // 10
    return "\n".join(lines)


def _partial_products(a: int, b: int) -> str:
    lines, total = [], 0
    for place, digit in enumerate(reversed(str(b))):
        part = a * int(digit) * 10**place
        lines.append(f"{a}*{int(digit) * 10**place}={part}; {total}+{part}={total + part}")
        total += part
    return "\n".join(lines)


TASKS = [add, with_thinking(add), subtract, multiply, with_thinking(multiply), modular_add, compare]
