"""Changes of examples are pure; instructions are checked, and the environment's judge does not see their form."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k25.agent import Trajectory
from k25.errors import InputError
from k25.rl import Environment, Example, TaskEnvironment, environment
from k25.rl.diversify import FRAMES, Diversify, Enhanced, Instruct, instruction

ADD = TaskEnvironment("add", [1, 4])
ALL = ("tags:answer", "begin:Well:", "end:Done.", "json:result", "words:3", "capitals")


def said(example):
    return example.messages[-1]["content"]


def score(made, example, text, reason="answered"):
    return asyncio.run(made.score(example, Trajectory("a", [], text=text, reason=reason)))


def test_the_same_key_is_always_put_the_same_way_and_other_keys_otherwise():
    examples = [ADD.example(0, index) for index in range(60)]
    first, again = ([said(Diversify()(one)) for one in examples] for _ in range(2))
    assert first == again
    used = {
        frame
        for frame in FRAMES
        for one, text in zip(examples, first, strict=True)
        if text == frame.replace("{prompt}", said(one))
    }
    assert used == set(FRAMES)
    assert [said(Diversify(seed=1)(one)) for one in examples] != first


@given(st.text(), st.text(max_size=5))
def test_the_question_stays_whole_and_nothing_else_changes(prompt, key):
    example = Example(key, ({"role": "user", "content": prompt},), gold="g")
    changed = Diversify()(example)
    assert prompt in said(changed)
    assert (changed.key, changed.gold) == (key, "g")
    assert said(example) == prompt


def test_text_goes_around_pictures():
    content = [{"type": "image_url", "image_url": {"url": "media:0"}}, {"type": "text", "text": "How many?"}]
    example = Example("k", ({"role": "user", "content": content},))
    changed = Diversify(frames=("Look. {prompt} Think.",), systems=("Be brief.",))(example)
    assert changed.messages[0] == {"role": "system", "content": "Be brief."}
    assert said(changed) == [content[0], {"type": "text", "text": "Look. How many? Think."}]
    assert content[1]["text"] == "How many?"


def test_frames_without_the_prompt_are_input_errors():
    for frame in ("no prompt", "{prompt} and {prompt}"):
        with pytest.raises(InputError):
            Diversify(frames=(frame,))


@pytest.mark.parametrize(
    ("name", "good", "bad", "inside"),
    [
        ("tags:answer", " <answer>57</answer>\n", "<answer>57", "57"),
        ("tags:answer", "<answer>57</answer>", "It is <answer>57</answer>", "57"),
        ("begin:Well:", "Well: 57", "57", "57"),
        ("end:Done.", "57 Done.", "57", "57"),
        ("json:result", '{"result": 57}', '{"result": 57, "more": 1}', "57"),
        ("json:result", '{"result": "57"}', "57", "57"),
        ("words:3", "it is 57", "I think it is 57", "it is 57"),
        ("capitals", "FIFTY 7", "Fifty 7", "FIFTY 7"),
    ],
)
def test_instructions_are_checked_and_their_form_is_taken_off(name, good, bad, inside):
    one = instruction(name)
    assert one.follows(good)
    assert not one.follows(bad)
    assert one.answer(good) == inside
    assert one.answer(bad) == bad


@given(st.text(), st.sampled_from(ALL))
def test_any_reply_can_be_checked(reply, name):
    one = instruction(name)
    assert one.follows(reply) in (True, False)
    assert isinstance(one.answer(reply), str)


@pytest.mark.parametrize("text", ["shout", "words", "words:0", "words:x", "words:-3", "begin:", "end", ""])
def test_unknown_instructions_are_input_errors(text):
    with pytest.raises(InputError, match="there is no instruction"):
        instruction(text)


def test_examples_get_at_most_one_form_and_one_style_and_those_that_fit():
    instruct = Instruct(tuple(map(instruction, ALL)))
    kinds, seen = set(), set()
    for index in range(200):
        drawn = instruct.drawn(Example(f"k{index}", ({"role": "user", "content": "?"},), gold="57"))
        kinds.add(tuple(one.kind for one in drawn))
        seen |= {one.ask for one in drawn}
    assert kinds == {("form",), ("style",), ("form", "style")}
    assert seen == {instruction(name).ask for name in ALL}
    lower = [instruct.drawn(Example(f"k{index}", (), gold="a long answer of words")) for index in range(50)]
    assert {one.kind for drawn in lower for one in drawn} == {"form"}


def test_a_share_of_the_examples_gets_instructions():
    instruct = Instruct((instruction("tags"),), share=0.25)
    asked = sum(instruct(example) != example for example in (ADD.example(0, index) for index in range(400)))
    assert 70 <= asked <= 130


def test_the_reward_holds_the_share_of_followed_instructions_beside_the_task_s_own():
    made = Enhanced(ADD, frames=(), instructions=["tags:answer", "words:1"])
    both = next(one for one in (made.draw(0, index) for index in range(50)) if said(one).count("\n") >= 2)
    right = both.gold.answer
    assert "Write your whole reply between <answer> and </answer>." in said(both)
    assert score(made, both, f"<answer>{right}</answer>") == {"correct": 1.0, "instructions": 1.0}
    assert score(made, both, right) == {"correct": 1.0, "instructions": 0.5}
    assert score(made, both, "<answer>no idea at all</answer>") == {"correct": 0.0, "instructions": 0.5}
    assert score(made, both, "", "budget") == {"correct": 0.0, "instructions": 0.0}


def test_a_recipe_can_name_an_enhanced_environment():
    options = {
        "environment": "task:add",
        "options": {"difficulty": 2},
        "instructions": ["capitals"],
        "frames": ["Q: {prompt}"],
    }
    made = environment("k25.rl.diversify:Enhanced", options)
    drawn = made.draw(0, 0)
    assert said(drawn).startswith("Q: ")
    assert said(drawn).endswith("Use capital letters only.")
    assert (made.name, made.domain, made.draw(0, 0)) == ("add", ADD.domain, drawn)


def test_environments_with_rollouts_of_their_own_are_refused():
    class Own(Environment):
        name = "own"

        async def rollout(self, example, scope):
            raise NotImplementedError

    with pytest.raises(InputError, match="runs its own rollouts"):
        Enhanced(Own(), instructions=["capitals"])
