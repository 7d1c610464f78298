"""A `python` tool for pictures: an interpreter of a small, harmless part of Python. Nothing is ever handed to `exec`.

It knows numbers, texts, lists, tuples and pictures; assignments, `for`, `if`, list comprehensions; `print` and the
functions and picture methods named below. Like a notebook it also shows the value of the last line. Bounds on length,
steps, sizes and output keep every run short.
"""

import ast
import operator
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from PIL import Image

from k25.tasks.picture_functions import FUNCTIONS, METHODS
from k25.tasks.safe_arithmetic import ToolError

MAX_CHARACTERS = 4000
MAX_STEPS = 20_000
MAX_SECONDS = 5.0
MAX_OUTPUT = 2000
MAX_MAGNITUDE = 10**30
MAX_ITEMS = 2000
# Pixels that all calls of a program read and write together.
MAX_PIXELS = 2**25

_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda a, b: a in b,
    ast.NotIn: lambda a, b: a not in b,
}
_UNARY: dict[type[ast.unaryop], Callable[[Any], Any]] = {
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
    ast.Not: operator.not_,
}


def run_program(code: str, pictures: dict[str, Image.Image]) -> str:
    """Output of a program that may open the given pictures by name.

    Raises ToolError with one line for whatever is wrong with the program.
    """
    if len(code) > MAX_CHARACTERS:
        raise ToolError(f"the program is longer than {MAX_CHARACTERS} characters")
    try:
        return _Interpreter(pictures).run(ast.parse(code))
    except SyntaxError as error:
        raise ToolError(f"SyntaxError in line {error.lineno}: {error.msg}") from None
    except (RecursionError, MemoryError):
        raise ToolError("the program is nested too deeply or too large") from None
    except ToolError:
        raise
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise ToolError(f"{type(error).__name__}: {error}") from None


class _Interpreter:
    def __init__(self, pictures: dict[str, Image.Image]) -> None:
        self.values: dict[str, Any] = {}
        self.output: list[str] = []
        self.steps = 0
        self.pixels = 0
        self.deadline = time.monotonic() + MAX_SECONDS
        self.functions = FUNCTIONS | {"open": lambda name: _opened(pictures, name), "print": self._print}

    def run(self, program: ast.Module) -> str:
        *lines, last = program.body or [ast.Pass()]
        self._execute(lines)
        if isinstance(last, ast.Expr):
            value = self.evaluate(last.value)
            if value is not None:
                self._print(_Shown(value))
        else:
            self._execute([last])
        return "\n".join(self.output)

    def _print(self, *values: Any) -> None:
        self.output.append(" ".join(_text(value) for value in values))
        if sum(map(len, self.output)) > MAX_OUTPUT:
            raise ToolError(f"the output is longer than {MAX_OUTPUT} characters")

    def _count_step(self) -> None:
        self.steps += 1
        if self.steps > MAX_STEPS or time.monotonic() > self.deadline:
            raise ToolError("the program takes too many steps")

    def _execute(self, body: Sequence[ast.stmt]) -> None:
        for statement in body:
            self._count_step()
            match statement:
                case ast.Pass():
                    pass
                case ast.Expr(value=value):
                    self.evaluate(value)
                case ast.Assign(targets=[target], value=value):
                    self._assign(target, self.evaluate(value))
                case ast.AugAssign(target=ast.Name(id=name), op=op, value=value):
                    self.values[name] = self._binary(op, self._name(name), self.evaluate(value))
                case ast.If(test=test, body=body_if, orelse=body_else):
                    self._execute(body_if if self.evaluate(test) else body_else)
                case ast.For(target=target, iter=items, body=inner, orelse=[]):
                    for item in self._items(items):
                        self._assign(target, item)
                        self._execute(inner)
                case _:
                    raise ToolError(f"{type(statement).__name__} in line {statement.lineno} is not understood here")

    def _assign(self, target: ast.expr, value: Any) -> None:
        match target:
            case ast.Name(id=name):
                self.values[name] = value
            case ast.Tuple(elts=targets) if isinstance(value, list | tuple) and len(value) == len(targets):
                for part, item in zip(targets, value, strict=True):
                    self._assign(part, item)
            case _:
                raise ToolError("only names, and as many as there are values, can be assigned to")

    def _name(self, name: str) -> Any:
        if name not in self.values:
            raise ToolError(f"NameError: {name!r} is not defined")
        return self.values[name]

    def _items(self, node: ast.expr) -> Iterator[Any]:
        items = self.evaluate(node)
        if not isinstance(items, list | tuple | range):
            raise ToolError("loops go over lists, tuples and ranges")
        return iter(items)

    def _all(self, nodes: Iterable[ast.expr]) -> list[Any]:
        return [self.evaluate(node) for node in nodes]

    def evaluate(self, node: ast.expr) -> Any:
        """The value of an expression."""
        self._count_step()
        match node:
            case ast.BinOp(left=left, op=op, right=right):
                return self._binary(op, self.evaluate(left), self.evaluate(right))
            case ast.UnaryOp(op=op, operand=operand) if type(op) in _UNARY:
                return _UNARY[type(op)](self.evaluate(operand))
            case ast.Compare(left=left, ops=ops, comparators=others):
                return self._compare(left, ops, others)
            case ast.BoolOp(op=op, values=parts):
                return self._logical(isinstance(op, ast.And), parts)
            case ast.Subscript(value=value, slice=index):
                return self._subscript(self.evaluate(value), index)
            case ast.ListComp(elt=element, generators=[part]) | ast.GeneratorExp(elt=element, generators=[part]):
                return _checked(self._comprehension(element, part))
            case ast.Call(func=function, args=arguments, keywords=[]):
                return self._call(function, arguments)
        return self._simple(node)

    def _simple(self, node: ast.expr) -> Any:
        match node:
            case ast.Constant(value=int() | float() | str() | None as value):
                return _checked(value)
            case ast.Name(id=name):
                return self._name(name)
            case ast.Tuple(elts=elements):
                return _checked(tuple(self._all(elements)))
            case ast.List(elts=elements):
                return _checked(self._all(elements))
            case ast.Attribute(value=value, attr="size" | "width" | "height" as name):
                return getattr(_picture(self.evaluate(value)), name)
        raise ToolError(f"{type(node).__name__} in line {node.lineno} is not understood here")

    def _call(self, function: ast.expr, arguments: list[ast.expr]) -> Any:
        match function:
            case ast.Name(id=name) if name in self.functions:
                called, values = self.functions[name], self._all(arguments)
            case ast.Attribute(value=ast.Name(id="Image"), attr="open"):
                called, values = self.functions["open"], self._all(arguments)
            case ast.Attribute(value=value, attr=name) if name in METHODS:
                called, values = METHODS[name], [_picture(self.evaluate(value)), *self._all(arguments)]
            case _:
                known = ", ".join((*self.functions, *(f"image.{name}" for name in METHODS)))
                raise ToolError(f"NameError in line {function.lineno}: no such function; there are {known}")
        result = _checked(called(*values))
        self.pixels += sum(value.width * value.height for value in (*values, result) if isinstance(value, Image.Image))
        if self.pixels > MAX_PIXELS:
            raise ToolError("the program handles too many pixels")
        return result

    def _binary(self, op: ast.operator, left: Any, right: Any) -> Any:
        texts_or_lists = isinstance(op, ast.Add) and type(left) is type(right) and isinstance(left, str | list | tuple)
        if type(op) not in _BINARY or not (texts_or_lists or (_is_number(left) and _is_number(right))):
            raise ToolError("TypeError: arithmetic is for numbers; + also joins two texts or two lists")
        return _checked(_BINARY[type(op)](left, right))

    def _compare(self, left: ast.expr, ops: list[ast.cmpop], others: list[ast.expr]) -> bool:
        value = self.evaluate(left)
        for op, other in zip(ops, self._all(others), strict=True):
            if type(op) not in _COMPARE:
                raise ToolError(f"the comparison {type(op).__name__} is not understood here")
            if not _COMPARE[type(op)](value, other):
                return False
            value = other
        return True

    def _logical(self, conjunction: bool, parts: list[ast.expr]) -> Any:
        value: Any = None
        for part in parts:
            value = self.evaluate(part)
            if bool(value) != conjunction:
                break
        return value

    def _subscript(self, value: Any, index: ast.expr) -> Any:
        if not isinstance(value, list | tuple | str | range):
            raise ToolError("TypeError: only lists, tuples and texts have [...]; use image.getpixel((x, y))")
        if isinstance(index, ast.Slice):
            bounds = (index.lower, index.upper, index.step)
            return value[slice(*(None if bound is None else self.evaluate(bound) for bound in bounds))]
        return value[self.evaluate(index)]

    def _comprehension(self, element: ast.expr, part: ast.comprehension) -> list[Any]:
        result = []
        for item in self._items(part.iter):
            self._assign(part.target, item)
            if all(self._all(part.ifs)):
                result.append(self.evaluate(element))
        return result


class _Shown:
    """The value of the last line, which is shown as it would be written in a program."""

    def __init__(self, value: Any) -> None:
        self.value = value


def _opened(pictures: dict[str, Image.Image], name: Any) -> Image.Image:
    if not isinstance(name, str) or name not in pictures:
        raise ToolError(f"FileNotFoundError: {name!r}; files: {', '.join(pictures)}")
    return pictures[name]


def _picture(value: Any) -> Image.Image:
    if not isinstance(value, Image.Image):
        raise ToolError(f"TypeError: {type(value).__name__} is not a picture")
    return value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float)


def _checked(value: Any) -> Any:
    if _is_number(value) and abs(value) > MAX_MAGNITUDE:
        raise ToolError("the number is too large")
    if isinstance(value, str | list | tuple) and _weight(value) > MAX_ITEMS:
        raise ToolError("the list or text is too long")
    return value


def _weight(value: Any) -> int:
    """Characters and items in all; a part that occurs twice counts twice, as printing and comparing meet it twice."""
    if isinstance(value, list | tuple):
        return 1 + sum(map(_weight, value))
    return len(value) if isinstance(value, str) else 1


def _text(value: Any) -> str:
    if isinstance(value, Image.Image):
        return f"<picture of {value.width} x {value.height} pixels>"
    if isinstance(value, _Shown):
        return _text(value.value) if isinstance(value.value, Image.Image) else repr(value.value)
    if isinstance(value, list | tuple):
        return repr(type(value)(_text(item) if isinstance(item, Image.Image) else item for item in value))
    return str(value)
