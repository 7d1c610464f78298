"""Tools in TypeScript style: the published worked example, and the rules one by one."""

import pytest

from k25.chat.tool_declaration import declaration_text, sort_keys, typescript_declaration
from k25.errors import InputError

SEARCH = {
    "name": "search",
    "description": "Search the web.\nReturns hits.",
    "parameters": {
        "type": "object",
        "properties": {
            "query": {"type": "string", "description": "Query", "minLength": 1},
            "limit": {"type": "integer", "minimum": 1, "maximum": 50, "default": 10},
            "tags": {"type": "array", "items": {"type": "string", "description": "one tag"}},
            "site": {"type": ["string", "null"]},
            "opts": {
                "type": "object",
                "properties": {"safe": {"type": "boolean", "default": True}},
                "additionalProperties": False,
            },
            "mode": {"type": "string", "enum": ["fast", "deep"], "default": "fast"},
            "pt": {"$ref": "#/$defs/Point"},
        },
        "required": ["query"],
        "$defs": {
            "Point": {
                "type": "object",
                "description": "A point",
                "properties": {"x": {"type": "number"}, "y": {"type": "number"}},
                "required": ["x", "y"],
            }
        },
    },
}
TREE = {
    "name": "tree",
    "parameters": {
        "type": "object",
        "properties": {"z": {"type": "string"}, "kids": {"type": "array", "items": {"$ref": "#"}}},
        "required": ["z"],
    },
}
EXAMPLE = """\
# Tools

## functions
namespace functions {
// A point
interface Point {
  x: number,
  y: number
}
// Search the web.
// Returns hits.
type search = (_: {
  // Query
  // minLength: 1
  query: string,
  // maximum: 50, minimum: 1
  // Default: 10
  limit?: number,
  // Default: "fast"
  mode?: "fast" | "deep",
  opts?: {
    // Default: True
    safe?: boolean,
    [k: string]: never
  },
  pt?: Point,
  site?: string | null,
  tags?: Array<
    // one tag
    string
  >
}) => any;
type noop = (_: {}) => any;
interface parameters {
  z: string,
  kids?: Array<parameters>
}
type tree = (_: parameters) => any;
}
"""


def function(definition):
    return {"type": "function", "function": definition}


def parameter(schema, definitions=None):
    """The TypeScript text of one optional property `p`, between the braces of its function."""
    parameters = {"type": "object", "properties": {"p": schema}, **({"$defs": definitions} if definitions else {})}
    text = typescript_declaration([function({"name": "f", "parameters": parameters})])
    return text.partition("type f = (_: {\n")[2].partition("\n}) => any;")[0]


def test_the_worked_example_is_reproduced_byte_for_byte():
    tools = [function(SEARCH), function({"name": "noop", "parameters": {}}), function(TREE)]
    assert typescript_declaration(tools) == EXAMPLE


def test_sorted_keys_put_kids_before_z():
    declared = declaration_text([function(TREE)])
    assert declared.index("kids?: Array<parameters>") < declared.index("z: string")


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        (True, "  p?: any"),
        (False, "  p?: null"),
        ({}, "  p?: any"),
        ({"type": "integer"}, "  p?: number"),
        ({"type": "file"}, "  p?: file"),
        ({"anyOf": [{"type": "string"}, {"type": "object"}]}, "  p?: string | {}"),
        ({"enum": ['a"b', True, None, 1.5]}, '  p?: "a"b" | True | None | 1.5'),
        ({"enum": []}, "  p?: "),
        ({"type": ["integer", "object", "array"]}, "  p?: number | {} | Array<any>"),
        ({"type": "array"}, "  p?: Array<any>"),
        ({"type": "array", "items": {"type": "array", "items": {"type": "null"}}}, "  p?: Array<Array<null>>"),
        (
            {"type": "string", "pattern": "^\\d$", "default": "é"},
            '  // pattern: ^\\d$\n  // Default: "é"\n  p?: string',
        ),
        ({"type": "number", "default": 1e-07}, "  // Default: 1e-07\n  p?: number"),
        ({"type": "boolean", "default": None}, "  p?: boolean"),
        ({"type": "string", "maximum": 3, "title": "t"}, "  p?: string"),
        ({"enum": ["a"], "minLength": 1}, '  p?: "a"'),
        ({"type": "string", "description": "a\n\nb"}, "  // a\n\n  // b\n  p?: string"),
        (
            {"type": "object", "additionalProperties": {"type": "object", "properties": {"q": True}}},
            "  p?: {\n    [k: string]: {\n      q?: any\n    }\n  }",
        ),
        ({"type": ["string", "null"], "enum": ["a", None]}, '  p?: "a" | None'),
    ],
)
def test_a_schema_becomes_its_typescript_type(schema, expected):
    assert parameter(schema) == expected


@pytest.mark.parametrize(
    "schema",
    [
        {"oneOf": [{"type": "string"}]},
        {"const": 1},
        {"description": "only"},
        {"$ref": "#/definitions/A"},
        {"$ref": "#/$defs/Missing"},
        {"type": "array", "items": [{"type": "string"}]},
        {"type": ["string", "unknown"]},
        {"type": "string", "enum": [1]},
        {"type": ["string", "integer"], "enum": ["a"]},
        {"type": "string", "description": 5},
        {"type": "object", "properties": None},
        {"type": "object", "properties": {}, "required": True},
        None,
        "string",
    ],
)
def test_a_schema_outside_the_style_turns_the_whole_list_into_json(schema):
    tools = [function(TREE), function({"name": "f", "parameters": {"properties": {"p": schema}}})]
    assert typescript_declaration(tools) == ""
    assert declaration_text(tools).startswith('[{"function":{"name":"tree",')


def test_definitions_print_even_if_unused_and_need_not_be_objects():
    text = typescript_declaration(
        [function({"name": "f", "parameters": {"$defs": {"A": {"enum": ["p", "q"], "description": "d"}}}})]
    )
    assert '// d\ninterface A "p" | "q"\ntype f = (_: {}) => any;' in text


def test_other_tool_types_and_empty_functions_are_skipped():
    tools = [{"type": "builtin_function", "function": {"name": "x"}}, function({}), function({"name": "f"})]
    assert (
        typescript_declaration(tools) == "# Tools\n\n## functions\nnamespace functions {\ntype f = (_: {}) => any;\n}\n"
    )


def test_json_keeps_non_ascii_and_html_characters():
    assert declaration_text([{"type": "plugin", "name": "é<&'>"}]) == '[{"name":"é<&\'>","type":"plugin"}]'


def test_sorting_keeps_the_order_of_lists():
    assert list(sort_keys({"b": [{"d": 1, "c": 2}, 0], "a": 3}).items()) == [("a", 3), ("b", [{"c": 2, "d": 1}, 0])]


def test_endless_nesting_is_an_input_error():
    schema = {"type": "string"}
    for _ in range(5_000):
        schema = {"type": "array", "items": schema}
    with pytest.raises(InputError, match="nested too deeply"):
        declaration_text([function({"name": "f", "parameters": {"properties": {"p": schema}}})])
