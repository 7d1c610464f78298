"""Calendar arithmetic in the Gregorian calendar."""

from datetime import date, timedelta
from random import Random

from k25.tasks.exercise import Exercise, phrased, text_task
from k25.tasks.scoring import same_number, same_words

WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


@text_task("date-add", hardest=6)
def date_add(numbers: Random, difficulty: int) -> Exercise:
    """Days after a date: within its month at first, then up to 10 times as many with each difficulty."""
    start = _date(numbers, difficulty)
    if difficulty == 1:
        start = start.replace(day=numbers.randint(1, 19))
    days = numbers.randint(1, 9 if difficulty == 1 else 3 * 10 ** min(4, difficulty - 1))
    prompt = phrased(
        numbers, difficulty, f"{start} + {days} days =", f"Which date is {days} days after {start}? Write YYYY-MM-DD."
    )
    return Exercise(prompt, str(start + timedelta(days)))


@text_task("weekday", hardest=6, check=same_words)
def weekday(numbers: Random, difficulty: int) -> Exercise:
    """The day of the week after some days; from difficulty 4 on of a date."""
    if difficulty >= 4:
        day = _date(numbers, difficulty)
        prompt = phrased(numbers, difficulty, f"weekday of {day}?", f"On which day of the week falls {day}?")
        return Exercise(prompt, WEEKDAYS[day.weekday()])
    start, days = numbers.randrange(7), numbers.randint(1, (7, 30, 1000)[difficulty - 1])
    prompt = f"{WEEKDAYS[start]} + {days} days ="
    return Exercise(prompt, WEEKDAYS[(start + days) % 7])


@text_task("days-between", hardest=6, check=same_number)
def days_between(numbers: Random, difficulty: int) -> Exercise:
    """Days from one date to a later one."""
    start = _date(numbers, difficulty)
    days = numbers.randint(1, 3 * 10 ** min(4, difficulty - 1))
    end = start + timedelta(days)
    prompt = phrased(numbers, difficulty, f"days from {start} to {end} =", f"How many days is {end} after {start}?")
    return Exercise(prompt, str(days))


def _date(numbers: Random, difficulty: int) -> date:
    """A day of 2026 at first, later of 1900 to 2099."""
    first, last = (date(2026, 1, 1), date(2026, 12, 31)) if difficulty < 3 else (date(1900, 1, 1), date(2099, 12, 31))
    return first + timedelta(numbers.randint(0, (last - first).days))


TASKS = [date_add, weekday, days_between]
