"""When two cells say the same: case, accents, markup, separators, units and spellings of dates do not count."""

import datetime
import math
import re
import unicodedata

from k25.swarm.bench.types import Column

# What a model writes can be long and odd: no pattern here may look ahead over what another match starts with.
_MARKUP = re.compile(r"\[\^[^\[\]]*\]|[*`]|</?[a-zA-Z][^<>]*>")
_LINK = re.compile(r"\[([^\[\]]*)\]\([^()\s]*\)")
_NUMBER = re.compile(
    r"[-+\N{MINUS SIGN}]?"
    r"(?:\d{1,3}(?:[,'\N{NO-BREAK SPACE}\N{NARROW NO-BREAK SPACE}\N{THIN SPACE} ]\d{3})+(?!\d)|\d+)"
    r"(?:\.\d+)?(?:[eE][-+]?\d+)?"
)
_SEPARATORS = re.compile(r"[^\d.eE+-]")
_UNIT = re.compile(r"\s*([^\W\d_]+[²³]?)")
_NOTHING = {"", "-", "\N{EN DASH}", "\N{EM DASH}", "n/a", "na", "none", "null", "nil", "not stated", "unknown"}
_DATES = ("%Y-%m-%d", "%d %B %Y", "%d %b %Y", "%B %d, %Y", "%b %d, %Y", "%B %d %Y", "%Y/%m/%d", "%d.%m.%Y")

# Factor to the first unit of each quantity.
_UNITS = {
    "ft": ("ft", 1.0),
    "feet": ("ft", 1.0),
    "foot": ("ft", 1.0),
    "m": ("ft", 1 / 0.3048),
    "metres": ("ft", 1 / 0.3048),
    "meters": ("ft", 1 / 0.3048),
    "km²": ("km²", 1.0),
    "km2": ("km²", 1.0),
    "mi²": ("km²", 2.589988110336),
}
# What an answer loses when it converts a rounded number to another unit.
_CONVERTED_TOLERANCE = 0.005


def normal_text(text: str) -> str:
    """Text without markup, accents, case, and surrounding or repeated space."""
    text = _LINK.sub(r"\1", text)
    text = _MARKUP.sub("", text)
    decomposed = unicodedata.normalize("NFKD", text)
    folded = "".join(char for char in decomposed if not unicodedata.combining(char)).casefold()
    return " ".join(folded.replace("\N{RIGHT SINGLE QUOTATION MARK}", "'").split()).strip(" .;,\"'")


def normal_date(text: str) -> str:
    """A date in any of the usual spellings as YYYY-MM-DD; other text as `normal_text`."""
    cleaned = " ".join(_MARKUP.sub("", text).split())
    for form in _DATES:
        try:
            return datetime.datetime.strptime(cleaned, form).date().isoformat()
        except ValueError:
            continue
    return normal_text(text)


def normal_number(text: str) -> tuple[float, str] | None:
    """The first number of a cell and the unit that follows it (empty if there is none that is known)."""
    cleaned = _MARKUP.sub("", _LINK.sub(r"\1", text))
    found = _NUMBER.search(cleaned)
    if found is None:
        return None
    digits = _SEPARATORS.sub("", found[0].replace("\N{MINUS SIGN}", "-"))
    unit = _UNIT.match(cleaned, found.end())
    return float(digits), unit[1].lower() if unit and unit[1].lower() in _UNITS else ""


def same_cell(answer: str, gold: str, column: Column) -> bool:
    """Whether a cell of an answer says what the gold cell says."""
    if column.kind == "date":
        return normal_date(answer) == normal_date(gold)
    if column.kind == "number":
        wanted = normal_number(gold)
        if wanted is not None:
            given = normal_number(answer)
            return given is not None and _same_number(given, wanted[0], column.unit)
    wanted_text, given_text = normal_text(gold), normal_text(answer)
    # Only where nothing is the right answer: NA and NIL are codes too.
    return given_text in _NOTHING if wanted_text == "none" else given_text == wanted_text


def normal_cell(text: str, column: Column) -> str:
    """The form in which two cells of a key column are compared."""
    if column.kind == "date":
        return normal_date(text)
    number = normal_number(text) if column.kind == "number" else None
    return normal_text(text) if number is None else repr(number[0])


def _same_number(given: tuple[float, str], wanted: float, unit: str) -> bool:
    value, given_unit = given
    if not given_unit or given_unit == unit or not unit:
        return math.isclose(value, wanted, rel_tol=1e-9)
    (quantity, factor), (wanted_quantity, wanted_factor) = _UNITS[given_unit], _UNITS[unit]
    if quantity != wanted_quantity:
        return False
    tolerance = 1e-9 if factor == wanted_factor else _CONVERTED_TOLERANCE
    # Half a unit as written: an elevation of 3 m is what 10 ft rounds to.
    written = factor / wanted_factor / 2 if factor != wanted_factor else 0.0
    return math.isclose(value * factor / wanted_factor, wanted, rel_tol=tolerance, abs_tol=written)
