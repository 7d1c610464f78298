"""Conversations with a calculator and with a table that only a tool knows."""

from random import Random
from string import ascii_lowercase

from k25.tasks.exercise import Exercise, Turn, phrased, text_task, with_thinking
from k25.tasks.names import THINGS, made_up_names
from k25.tasks.scoring import same_number
from k25.tasks.tool import CALCULATOR, TABLE_LOOKUP


@text_task("tool-calculator", hardest=8, domain="agentic", check=same_number, tools=(CALCULATOR,))
def use_calculator(numbers: Random, difficulty: int) -> Exercise:
    """One calculation with difficulty + 1 numbers of up to difficulty + 1 digits."""
    operands = [numbers.randint(1, 10 ** min(5, 1 + difficulty)) for _ in range(difficulty + 1)]
    expression = str(operands[0])
    for operand in operands[1:]:
        expression += numbers.choice("+-" if difficulty == 1 else "+-*") + str(operand)
    # The operators' own arithmetic, independent of the tool: the tests compare it with the tool's result.
    value = sum(_product(term) for term in expression.replace("-", "+-").split("+"))
    prompt = phrased(
        numbers, difficulty, f"calculate {expression}", f"What is {expression}?", f"Work out {expression}."
    )
    turn = Turn((("calculator", {"expression": expression}),))
    return Exercise(prompt, str(value), turns=(turn,))


def _product(term: str) -> int:
    product = 1
    for factor in term.split("*"):
        product *= int(factor)
    return product


@text_task("tool-lookup", hardest=8, domain="agentic", check=same_number, tools=(TABLE_LOOKUP,))
def use_lookup(numbers: Random, difficulty: int) -> Exercise:
    """One entry of a table; from difficulty 3 on several entries, looked up in parallel, and the largest is wanted."""
    table = _table(numbers, difficulty)
    keys = numbers.sample(list(table), 1 if difficulty < 3 else 2 + difficulty // 3)
    values = [int(table[key]) for key in keys]
    if len(keys) == 1:
        prompt = f"table value of {keys[0]}?"
    else:
        listed = ", ".join(keys)
        prompt = phrased(
            numbers, difficulty, f"largest table value of {listed}?", f"In the table, what is the largest of {listed}?"
        )
    turn = Turn(tuple(("table_lookup", {"key": key}) for key in keys))
    return Exercise(prompt, str(max(values)), turns=(turn,), state=table)


@text_task("tool-steps", hardest=6, domain="agentic", check=same_number, tools=(CALCULATOR, TABLE_LOOKUP))
def use_in_steps(numbers: Random, difficulty: int) -> Exercise:
    """Look up 1 + difficulty entries, then add them; one after the other at difficulty 1 and 2, later in parallel."""
    table = _table(numbers, difficulty)
    keys = numbers.sample(list(table), min(6, 1 + difficulty))
    values = [int(table[key]) for key in keys]
    calls = [("table_lookup", {"key": key}) for key in keys]
    if difficulty < 3:
        lookups = [Turn((call,), f"I need {key}.") for call, key in zip(calls, keys, strict=True)]
    else:
        lookups = [Turn(tuple(calls), "I need all of them.")]
    total = Turn((("calculator", {"expression": "+".join(map(str, values))}),), f"Now add {_listed(values)}.")
    listed = ", ".join(keys)
    prompt = phrased(numbers, difficulty, f"sum of table values {listed}?", f"Add the table's values of {listed}.")
    return Exercise(prompt, str(sum(values)), turns=(*lookups, total), state=table, reasoning="That is the sum.")


@text_task("tool-not-needed", hardest=4, domain="agentic", check=same_number, tools=(CALCULATOR, TABLE_LOOKUP))
def use_no_tool(numbers: Random, difficulty: int) -> Exercise:
    """The prompt says everything: half of the exercises state a value, the others a sum of digits."""
    table = _table(numbers, difficulty)
    if numbers.random() < 0.5:
        name, value = made_up_names(numbers, 1)[0], numbers.randrange(10**difficulty)
        prompt = phrased(numbers, difficulty, f"{name} is {value}. {name}?", f"If {name} is {value}, what is {name}?")
        return Exercise(prompt, str(value), state=table, reasoning=f"The prompt says that {name} is {value}.")
    a, b = numbers.randrange(5), numbers.randrange(5)
    prompt = phrased(numbers, difficulty, f"{a}+{b}, by yourself?", f"Without tools: how much is {a} and {b}?")
    return Exercise(prompt, str(a + b), state=table, reasoning=f"{a}+{b}={a + b}")


@text_task("tool-retry", hardest=4, domain="agentic", check=same_number, tools=(TABLE_LOOKUP,))
def use_after_error(numbers: Random, difficulty: int) -> Exercise:
    """The table spells the entry otherwise than the user: the error lists the entries, a second call succeeds."""
    things = numbers.sample(THINGS, 2 + difficulty)
    table = {thing.upper(): str(numbers.randrange(100)) for thing in things}
    asked = numbers.choice(things)
    turns = (
        Turn((("table_lookup", {"key": asked}),), f"I look up {asked}."),
        Turn((("table_lookup", {"key": asked.upper()}),), f"The table has no {asked}, but it has {asked.upper()}."),
    )
    prompt = phrased(numbers, difficulty, f"table value of {asked}?", f"How many {asked} are in the table?")
    return Exercise(prompt, table[asked.upper()], turns=turns, state=table, reasoning="That is the entry.")


def _table(numbers: Random, difficulty: int) -> dict[str, str]:
    """Eight entries; their names are letters at difficulty 1, which a small model can copy, and words beyond it."""
    names = numbers.sample(ascii_lowercase, 8) if difficulty == 1 else made_up_names(numbers, 8)
    return {name: str(numbers.randrange(1000)) for name in names}


def _listed(values: list[int]) -> str:
    return ", ".join(map(str, values))


TASKS = [
    use_calculator,
    use_lookup,
    use_in_steps,
    with_thinking(use_in_steps),
    use_no_tool,
    use_after_error,
    with_thinking(use_after_error),
]
