"""Evaluates arithmetic that a model wrote: numbers, + - * / // % **, brackets; nothing else is understood.

Values are exact fractions. Bounds on length, size and exponents keep every evaluation short.
"""

import ast
import operator
from collections.abc import Callable
from fractions import Fraction

MAX_CHARACTERS = 400
MAX_BITS = 256
MAX_EXPONENT = 64


class ToolError(ValueError):
    """Why a tool has no result; the model reads the message."""


_OPERATORS: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: lambda a, b: Fraction(a // b),
    ast.Mod: operator.mod,
}


def calculate(expression: str) -> Fraction:
    """The value of an expression. Raises ToolError for anything but arithmetic within the bounds."""
    return _value(_parsed(expression))


def number_text(value: Fraction) -> str:
    """A whole number as such, others as a decimal number with at most six places, rounded."""
    if value.denominator == 1:
        return str(value.numerator)
    millionths = round(abs(value) * 10**6)
    text = f"{millionths // 10**6}.{millionths % 10**6:06}".rstrip("0").rstrip(".")
    return f"-{text}" if value < 0 else text


def literals(expression: str) -> list[float]:
    """The numbers that an expression writes out, in no order. Raises ToolError like `calculate`."""
    parts = ast.walk(_parsed(expression))
    return [part.value for part in parts if isinstance(part, ast.Constant) and isinstance(part.value, int | float)]


def _parsed(expression: str) -> ast.expr:
    if len(expression) > MAX_CHARACTERS:
        raise ToolError(f"the expression is longer than {MAX_CHARACTERS} characters")
    try:
        return ast.parse(expression.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise ToolError("this is not an arithmetic expression") from None


def _value(node: ast.expr) -> Fraction:
    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            return _bounded(_fraction(number))
        case ast.UnaryOp(op=ast.USub() | ast.UAdd() as sign, operand=operand):
            return -_value(operand) if isinstance(sign, ast.USub) else _value(operand)
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            return _bounded(_power(_value(left), _value(right)))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            try:
                return _bounded(_OPERATORS[type(op)](_value(left), _value(right)))
            except ZeroDivisionError:
                raise ToolError("division by zero") from None
    raise ToolError("only numbers, + - * / // % ** and brackets are understood")


def _fraction(number: float) -> Fraction:
    try:
        # Through its decimal form, so that 0.1 is a tenth.
        return Fraction(str(number)) if isinstance(number, float) else Fraction(number)
    except ValueError:
        raise ToolError("the number is too large") from None


def _power(base: Fraction, exponent: Fraction) -> Fraction:
    if exponent.denominator != 1 or abs(exponent) > MAX_EXPONENT:
        raise ToolError(f"exponents are whole numbers up to {MAX_EXPONENT}")
    if not base and exponent < 0:
        raise ToolError("division by zero")
    return base ** int(exponent)


def _bounded(value: Fraction) -> Fraction:
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > MAX_BITS:
        raise ToolError("the number is too large")
    return value
