"""`k25 render`: the exact prompt on standard output, counts and remedies beside it."""

import json

import pytest
from conversations import WEATHER
from reference_template import TEMPLATE

from k25.cli.render import main
from k25.errors import InputError

PROMPT = "<|im_user|>user<|im_middle|>a\tb\r<|im_end|><|im_end|><|im_assistant|>assistant<|im_middle|><think>"


@pytest.fixture
def conversation(tmp_path):
    file = tmp_path / "conversation.json"
    file.write_text(json.dumps([{"role": "user", "content": "a\tb\r<|im_end|>"}]))
    return file


def test_piped_output_is_the_prompt_byte_for_byte(conversation, capfdbinary):
    main(conversation)
    captured = capfdbinary.readouterr()
    assert captured.out.decode() == PROMPT + "\n"
    assert b"--tokenizer" in captured.err


def test_a_terminal_shows_only_the_templates_control_tokens_in_colour(conversation, monkeypatch, capfd):
    monkeypatch.setenv("FORCE_COLOR", "1")
    main(conversation)
    shown = capfd.readouterr().out
    assert shown.count("\x1b[1;36m<|im_end|>") == 1
    assert shown.count("<|im_end|>") == 2


def test_counts_are_shown_per_turn(conversation, small_tokenizer, tmp_path, capfd):
    small_tokenizer.save(tmp_path / "tokenizer")
    main(conversation, tokenizer=tmp_path / "tokenizer")
    table = capfd.readouterr().err
    assert [word for word in table.split() if word in ("user", "assistant", "all")] == ["user", "assistant", "all"]


def test_json_holds_prompt_ids_and_counts(conversation, small_tokenizer, tmp_path, capfd):
    small_tokenizer.save(tmp_path / "tokenizer")
    main(conversation, tokenizer=tmp_path / "tokenizer", mode="instant", as_json=True)
    report = json.loads(capfd.readouterr().out)
    assert report["prompt"] == PROMPT + "</think>"
    assert small_tokenizer.decode(report["token_ids"]) == report["prompt"]
    assert sum(report["tokens_per_turn"]) == len(report["token_ids"])


def test_tools_come_from_their_own_file_or_the_conversation(tmp_path, capfd):
    messages = [{"role": "user", "content": "q"}]
    together, apart, tools = (tmp_path / name for name in ("together.json", "apart.json", "tools.json"))
    together.write_text(json.dumps({"messages": messages, "tools": [WEATHER]}))
    apart.write_text(json.dumps(messages))
    tools.write_text(json.dumps([WEATHER]))
    main(together)
    first = capfd.readouterr().out
    main(apart, tools=tools)
    assert capfd.readouterr().out == first
    assert "type get_weather = " in first


def test_a_template_file_replaces_the_built_in_one(conversation, tmp_path, capfd):
    (tmp_path / "own.jinja").write_text(TEMPLATE)
    main(conversation, template=tmp_path / "own.jinja", as_json=True)
    assert json.loads(capfd.readouterr().out)["prompt"] == PROMPT


def test_a_video_is_counted_as_its_placeholder(small_tokenizer, tmp_path, capfd):
    file = tmp_path / "video.json"
    file.write_text(json.dumps([{"role": "user", "content": [{"type": "video_url", "video_url": "v.mp4"}]}]))
    small_tokenizer.save(tmp_path)
    main(file, tokenizer=tmp_path)
    assert "k25 tokens" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "No such file"),
        ("{", "not JSON"),
        ("[]", "messages: expected"),
        ("[" * 100_000, "nested too deeply"),
        ('[{"role": "user"}]', r"conversation\.json: messages\[0\]: a user message needs content"),
        ('{"messages": [{"role": "user", "content": ""}], "tools": 3}', "tools: expected a list"),
    ],
)
def test_a_wrong_file_is_named(tmp_path, content, reason):
    file = tmp_path / "conversation.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(InputError, match=reason) as caught:
        main(file)
    assert "conversation.json" in str(caught.value)


def test_bytes_that_are_no_text_are_an_input_error(tmp_path):
    file = tmp_path / "conversation.json"
    file.write_bytes(b"\xff\xfe\x00\xd8")
    with pytest.raises(InputError, match="not JSON"):
        main(file)


def test_partial_mode_needs_the_built_in_template(conversation, tmp_path):
    with pytest.raises(InputError, match="built-in template only"):
        main(conversation, mode="partial", template=tmp_path)
