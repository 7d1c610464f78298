"""A checkpoint's own chat template: same result as the built-in one, no trust in it or in the messages."""

import json
import random

import pytest
from conversations import WEATHER, random_conversation
from reference_template import TEMPLATE

from k25.chat import parse_messages, parse_tools, render
from k25.chat.jinja_template import JinjaTemplate
from k25.errors import InputError

HI = parse_messages([{"role": "user", "content": "Hi"}])


def test_random_conversations_render_as_with_the_built_in_template(small_tokenizer):
    template = JinjaTemplate(TEMPLATE)
    rng = random.Random(11)
    for _ in range(500):
        conversation, definitions = random_conversation(rng)
        messages, tools = parse_messages(conversation), parse_tools(definitions)
        options = {"thinking": rng.random() < 0.5, "preserve_thinking": rng.random() < 0.3}
        theirs, ours = template.render(messages, tools, **options), render(messages, tools, **options)
        assert theirs.text == ours.text
        media = ([5] * ours.image_count, [[]] * ours.video_count)
        assert theirs.expand_media(*media).token_ids(small_tokenizer) == ours.expand_media(*media).token_ids(
            small_tokenizer
        )


def test_rendering_equals_that_of_hugging_face():
    utilities = pytest.importorskip("transformers.utils.chat_template_utils")
    source = "{{ tools | tojson(indent=2) }}\n{% for m in messages %}\n  {% if m.x %}a{% endif %}\n{{ m.content }}"
    source += "{% break %}{% endfor %}"
    message = {"role": "user", "content": "a<&é"}
    tool = json.loads(json.dumps(WEATHER, sort_keys=True))
    [expected], _ = utilities.render_jinja_template([[message]], [tool], chat_template=source)
    assert JinjaTemplate(source).render(parse_messages([message]), parse_tools([tool])).text == expected


ATTACKS = [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ messages.__init__.__globals__ }}{{ cycler.__init__.__globals__.os }}",
    "{{ messages.append(1) }}",
    "{{ 'a' * 10000000000 }}",
    "{{ 9 ** 9 ** 9 }}",
    "{% for i in range(100000000) %}x{% endfor %}",
    "{% for i in range(90000) %}{% for j in range(90000) %}{{ 'x' * 999999 }}{% endfor %}{% endfor %}",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "{% include '/etc/passwd' %}",
    "{{ messages + 1 }}",
    "{{ 1 / 0 }}",
    "{{ messages[0] | tojson(indent='x', separators=3) }}",
    "{{ nothing.at.all }}",
]


@pytest.mark.parametrize("source", ATTACKS)
def test_a_hostile_template_is_stopped(source):
    with pytest.raises(InputError, match="chat template: "):
        JinjaTemplate(source).render(HI)


def test_a_syntax_error_names_file_and_line(tmp_path):
    file = tmp_path / "chat_template.jinja"
    file.write_text("fine\n{% if %}")
    with pytest.raises(InputError, match=r"chat_template\.jinja: line 2: "):
        JinjaTemplate.from_file(file)


def test_an_error_that_the_template_raises_is_shown():
    with pytest.raises(InputError, match="my: roles must alternate"):
        JinjaTemplate("{{ raise_exception('roles must alternate') }}", "my").render(HI)


@pytest.mark.parametrize("kind", ["file", "folder", "configuration"])
def test_a_checkpoint_folder_gives_its_template(tmp_path, kind):
    if kind == "configuration":
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": "T:{{ messages[0].content }}"}))
    else:
        (tmp_path / "chat_template.jinja").write_text("T:{{ messages[0].content }}")
    path = tmp_path / "chat_template.jinja" if kind == "file" else tmp_path
    assert JinjaTemplate.from_file(path).render(HI).text == "T:Hi"


@pytest.mark.parametrize("content", [None, "{}", "[", '{"chat_template": 3}'])
def test_a_folder_without_template_is_an_input_error(tmp_path, content):
    if content is not None:
        (tmp_path / "tokenizer_config.json").write_text(content)
    with pytest.raises(InputError, match="chat"):
        JinjaTemplate.from_file(tmp_path)
