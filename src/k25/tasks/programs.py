"""Short Python programs: what does one print; write an expression with a given value."""

from random import Random
from typing import Any

from k25.tasks.exercise import Exercise, phrased, text_task
from k25.tasks.safe_arithmetic import ToolError, calculate, literals
from k25.tasks.scoring import final_answer, same_number


@text_task("program-output", hardest=8, domain="coding", check=same_number)
def program_output(numbers: Random, difficulty: int) -> Exercise:
    """`difficulty` statements: assignments first, then a second variable, loops from 4 on, conditions from 5 on."""
    values = {"a": numbers.randint(1, 9)}
    lines = [f"a = {values['a']}"]
    if difficulty >= 2:
        values["b"] = numbers.randint(1, 9)
        lines.append(f"b = {values['b']}")
    kinds = (
        [_add, _subtract]
        + [_combine] * (difficulty >= 2)
        + [_loop] * (difficulty >= 4)
        + [_condition] * (difficulty >= 5)
    )
    for _ in range(difficulty):
        lines += numbers.choice(kinds)(numbers, values)
    shown = numbers.choice(list(values))
    program = "\n".join((*lines, f"print({shown})"))
    prompt = phrased(numbers, difficulty, program, f"What does this program print?\n{program}")
    return Exercise(prompt, str(values[shown]))


def _add(numbers: Random, values: dict[str, int]) -> list[str]:
    name, amount = numbers.choice(list(values)), numbers.randint(1, 9)
    values[name] += amount
    return [f"{name} += {amount}"]


def _subtract(numbers: Random, values: dict[str, int]) -> list[str]:
    name, amount = numbers.choice(list(values)), numbers.randint(1, 9)
    values[name] -= amount
    return [f"{name} -= {amount}"]


def _combine(numbers: Random, values: dict[str, int]) -> list[str]:
    target, factor = numbers.choice(list(values)), numbers.randint(2, 3)
    values[target] = values["a"] * factor + values["b"]
    return [f"{target} = a * {factor} + b"]


def _loop(numbers: Random, values: dict[str, int]) -> list[str]:
    name, count = numbers.choice(list(values)), numbers.randint(2, 5)
    values[name] += sum(range(count))
    return [f"for i in range({count}):", f"    {name} += i"]


def _condition(numbers: Random, values: dict[str, int]) -> list[str]:
    amount = numbers.randint(1, 9)
    larger = "a" if values["a"] > values["b"] else "b"
    values[larger] -= amount
    return ["if a > b:", f"    a -= {amount}", "else:", f"    b -= {amount}"]


def _reaches_target(gold: dict[str, Any], answer: str) -> float:
    """1 for an expression with the value and with exactly the given numbers."""
    expression = final_answer(answer)
    try:
        fits = sorted(literals(expression)) == gold["numbers"] and calculate(expression) == gold["target"]
    except ToolError:
        return 0.0
    return float(fits)


@text_task("write-expression", hardest=8, domain="coding", check=_reaches_target)
def write_expression(numbers: Random, difficulty: int) -> Exercise:
    """2 + difficulty // 2 numbers, each to be used once; only sums at difficulty 1."""
    given = [numbers.randint(1, 9 if difficulty < 4 else 25) for _ in range(2 + difficulty // 2)]
    expression = str(given[0])
    for number in given[1:]:
        operator = numbers.choice("+" if difficulty == 1 else "+-*")
        if operator == "*" and not expression.isdecimal():
            expression = f"({expression})"
        expression += f"{operator}{number}"
    target = int(calculate(expression))
    listed = ", ".join(map(str, numbers.sample(given, len(given))))
    prompt = phrased(
        numbers,
        difficulty,
        f"make {target} from {listed}",
        f"Write an arithmetic expression with the value {target}. Use each of these numbers once: {listed}.",
    )
    return Exercise(prompt, expression, {"target": target, "numbers": sorted(given)})


TASKS = [program_output, write_expression]
