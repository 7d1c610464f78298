"""Token ids, loss masks and media of single documents."""

import random

import pytest
from packed_streams import PICTURES, processor, streams, tokenizer

from k25.chat import parse_messages, parse_tools, special_tokens
from k25.chat.training_targets import training_samples
from k25.tasks import get_task, task_names
from k25.tasks.plain_text import plain_text
from k25.train.data.drafts import Drafter

PAD = tokenizer().control_tokens[special_tokens.MEDIA_PAD]
TEXT = [name for name in task_names() if get_task(name).modality == "text"]
PICTURE = [name for name in task_names() if get_task(name).modality == "image"]
CLIP = [name for name in task_names() if get_task(name).modality == "video"]


def drafter():
    return Drafter("source", tokenizer(), processor())


@pytest.mark.parametrize("name", TEXT)
def test_answers_of_chats_are_the_targets_of_the_chat_package(name):
    sample = get_task(name).sample(0, 3)
    drafts = drafter().task_chat(sample, answers_only=True)
    expected = training_samples(parse_messages(list(sample.messages)), tokenizer(), parse_tools(list(sample.tools)))
    assert [(one.token_ids, one.is_target) for one in drafts] == [(one.token_ids, one.is_target) for one in expected]


@pytest.mark.parametrize("name", TEXT)
def test_answers_of_plain_text_are_learnt_with_their_end(name):
    sample = get_task(name).sample(0, 3)
    draft = drafter().task_plain(sample, answers_only=True)
    learnt = [token_id for token_id, target in zip(draft.token_ids, draft.is_target, strict=True) if target]
    assert tokenizer().decode(learnt) == plain_text(sample).parts[-1] + "[EOS]"
    assert tokenizer().decode(draft.token_ids) == f"[BOS]{''.join(map(str, plain_text(sample).parts))}[EOS]"


@pytest.mark.parametrize("name", PICTURE + CLIP)
@pytest.mark.parametrize("form", ["plain", "chat"])
def test_placeholders_are_as_many_as_the_features(name, form):
    sample = get_task(name).sample(0, 5)
    drafts = (
        drafter().task_chat(sample, answers_only=False)
        if form == "chat"
        else [drafter().task_plain(sample, answers_only=False)]
    )
    for draft in drafts:
        document = draft.document(processor())
        features = sum(rows * columns // 4 for _, rows, columns in document.grids)
        assert features > 0
        assert document.token_ids.count(PAD) == features
        assert len(document.patches) == draft.patches == sum(t * rows * columns for t, rows, columns in document.grids)
        assert not any(
            target for token_id, target in zip(document.token_ids, document.is_target, strict=True) if token_id == PAD
        )


def test_pixels_of_a_stream_belong_to_its_placeholders():
    batch = streams({"pictures": PICTURES}, sequence_tokens=1024).batch(2)
    assert (batch.tokens_T == PAD).sum() == sum(rows * columns // 4 for _, rows, columns in batch.grids)
    assert len(batch.patches) == sum(frames * rows * columns for frames, rows, columns in batch.grids)


def test_a_turn_before_a_picture_does_not_carry_it():
    from PIL import Image

    from k25.media import ImageInput

    picture = {"type": "image_url", "image_url": {"url": "media:0"}}
    conversation = [
        {"role": "user", "content": "Think."},
        {"role": "assistant", "content": "Done.", "reasoning_content": "Hm."},
        {"role": "user", "content": [picture, {"type": "text", "text": "What is it?"}]},
        {"role": "assistant", "content": "A square."},
    ]
    media = [ImageInput(Image.new("RGB", (56, 56)))]
    first, second = drafter().conversation(parse_messages(conversation), media=media)
    assert (len(first.media), first.patches) == (0, 0)
    assert (len(second.media), second.patches) == (1, 16)


def test_short_text_stands_between_its_marks():
    draft = drafter().text("Some words.", 100, random.Random(0))
    assert tokenizer().decode(draft.token_ids) == "[BOS]Some words.[EOS]"
    assert draft.is_target == [False] + [True] * (len(draft) - 1)


@pytest.mark.parametrize("words", [60, 5000])
def test_long_text_gives_a_piece_of_the_wanted_length_from_different_places(words):
    text = " ".join(f"word{number}" for number in range(words))
    pieces = [drafter().text(text, 40, random.Random(seed)) for seed in range(8)]
    assert {len(piece) for piece in pieces} == {40}
    assert all(piece.was_cut and not piece.is_target[0] for piece in pieces)
    shown = {tokenizer().decode(piece.token_ids, skip_special=True) for piece in pieces}
    assert len(shown) > 4
    assert all(piece in text for piece in shown)
