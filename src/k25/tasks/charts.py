"""Charts to read: bars, lines and pies, drawn with Pillow alone.

A plotting library would cost a hundred times as much for each sample and draw differently from release to release.
"""

from random import Random

from PIL import ImageDraw

from k25.tasks import visual_answers as read
from k25.tasks.drawing import CELL, COLOUR_NAMES, COLOURS, canvas
from k25.tasks.visual_grids import check_counts
from k25.tasks.visual_scores import count_score
from k25.tasks.visual_task import VisualExercise, visual_task
from k25.tasks.visual_text import write

_GRID, _INK = (205, 205, 205), (40, 40, 40)
_NAMES = "ABCDEFGH"
# For each difficulty: fewest and most values, squares of the scale, what a square may stand for, values per square.
_LEVELS = (
    (3, 4, 4, (1,), 1),
    (3, 4, 4, (1, 2, 5, 10), 1),
    (3, 5, 5, (2, 10, 20, 50), 2),
    (4, 6, 6, (5, 10, 20, 50), 5),
    (5, 8, 8, (5, 20, 50, 100), 5),
)
# For each difficulty: most slices, into how many parts the pie is cut, whether it starts at any angle.
_PIE_LEVELS = ((2, 4, False), (4, 4, False), (4, 10, False), (5, 20, True), (6, 50, True))


def check_values(gold: list[int], answer: str) -> float:
    """Mean score of the numbers in the answer, in order and as many as asked for; names beside them do not matter."""
    found = read.whole_numbers(answer)
    return sum(map(count_score, found, gold)) / len(gold) if len(found) == len(gold) else 0.0


@visual_task("chart-bar", check=check_values, hardest=len(_LEVELS))
def chart_bar(numbers: Random, difficulty: int) -> VisualExercise:
    """Heights of all bars: in squares that are visual tokens first, then on a scale."""
    chart = _Chart(numbers, difficulty)
    colour = COLOURS[numbers.choice(COLOUR_NAMES)]
    margin = 0 if difficulty == 1 else numbers.randint(2, 8)
    for column, value in enumerate(chart.values):
        left = chart.left + column * CELL
        chart.picture.paste(colour, (left + margin, chart.height_of(value), left + CELL - margin, chart.base))
    prompt = "How many squares high is each bar?" if difficulty == 1 else "Read the value of each bar."
    return VisualExercise(chart.picture, prompt, chart.answer, chart.values)


@visual_task("chart-line", check=check_values, hardest=len(_LEVELS))
def chart_line(numbers: Random, difficulty: int) -> VisualExercise:
    """Heights of all points of a line; from difficulty 4 on another line crosses it."""
    chart = _Chart(numbers, difficulty)
    wanted, other = numbers.sample(("red", "blue", "green", "black", "purple"), 2)
    if difficulty > 3:
        chart.draw_line([chart.draw_value(numbers) for _ in chart.values], COLOURS[other])
    chart.draw_line(chart.values, COLOURS[wanted])
    prompt = f"Read the height of each point of the {wanted} line."
    return VisualExercise(chart.picture, prompt, chart.answer, chart.values)


@visual_task("chart-pie", check=check_counts, hardest=len(_PIE_LEVELS))
def chart_pie(numbers: Random, difficulty: int) -> VisualExercise:
    """Shares of all slices of a pie in per cent: quarters first, multiples of two per cent at last."""
    most, parts, turned = _PIE_LEVELS[difficulty - 1]
    names = numbers.sample(COLOUR_NAMES, numbers.randint(2, most))
    cuts = [0, *sorted(numbers.sample(range(1, parts), len(names) - 1)), parts]
    start = -90 + (numbers.randrange(360) if turned else 0)
    picture = canvas(4 * CELL, 4 * CELL)
    draw, box = ImageDraw.Draw(picture), (4, 4, 4 * CELL - 5, 4 * CELL - 5)
    shares = {}
    for name, first, last in zip(names, cuts[:-1], cuts[1:], strict=True):
        draw.pieslice(box, start + 360 * first / parts, start + 360 * last / parts, fill=COLOURS[name])
        shares[name] = 100 * (last - first) // parts
    gold = {name: shares[name] for name in COLOUR_NAMES if name in shares}
    answer = ", ".join(f"{name} {share}" for name, share in gold.items())
    return VisualExercise(picture, "How many per cent of the pie has each colour?", answer, gold)


class _Chart:
    """A grid of squares of CELL pixels with values drawn at random; above difficulty 1 with a scale and names.

    Attributes:
        picture: the grid, to be drawn on.
        values: one for each column.
        answer: the values as the reference answer.
        left: the first pixel of the plot.
        base: the row of pixels in which value 0 lies.
    """

    def __init__(self, numbers: Random, difficulty: int) -> None:
        fewest, most, self._squares, units, self._parts = _LEVELS[difficulty - 1]
        self._unit, columns = numbers.choice(units), numbers.randint(fewest, most)
        self.values = [self.draw_value(numbers) for _ in range(columns)]
        scaled = difficulty > 1
        self.left, self.base = (CELL, self._squares * CELL + 8) if scaled else (0, self._squares * CELL)
        self.picture = canvas(self.left + columns * CELL, self.base + (20 if scaled else 0))
        for square in range(self._squares + 1):
            row = self.height_of(square * self._unit)
            self.picture.paste(_GRID, (self.left, row, self.picture.width, row + 1))
            if scaled:
                self._label(str(square * self._unit), self.left - 3, row - 5, from_right=True)
        for column in range(columns if scaled else 0):
            self._label(_NAMES[column], self.left + column * CELL + 11, self.base + 5)
        named = [f"{_NAMES[column]} {value}" for column, value in enumerate(self.values)]
        self.answer = ", ".join(named) if scaled else " ".join(map(str, self.values))

    def draw_value(self, numbers: Random) -> int:
        """A value on the scale: whole squares below difficulty 3, then halves, then fifths of them."""
        return numbers.randint(0, self._squares * self._parts) * self._unit // self._parts

    def height_of(self, value: int) -> int:
        """The row of pixels in which a value lies."""
        return self.base - round(value * CELL / self._unit)

    def draw_line(self, values: list[int], colour: tuple[int, int, int]) -> None:
        """A line with square marks in the middle of each column."""
        marks = [(self.left + column * CELL + CELL // 2, self.height_of(value)) for column, value in enumerate(values)]
        ImageDraw.Draw(self.picture).line(marks, fill=colour, width=2)
        for x, y in marks:
            self.picture.paste(colour, (x - 4, max(0, y - 4), x + 4, y + 4))

    def _label(self, text: str, x: int, y: int, *, from_right: bool = False) -> None:
        mask = write(text)
        self.picture.paste(_INK, (x - mask.width if from_right else x, y), mask)


TASKS = [chart_bar, chart_line, chart_pie]
