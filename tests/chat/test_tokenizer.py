"""The tokenizer against published ids, plain tiktoken, and byte-pair merging written out in Python."""

import base64
import random
from itertools import pairwise

import pytest
import regex
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st

from k25.chat import StreamingDecoder, Tokenizer
from k25.chat.special_tokens import OFFSETS
from k25.chat.tokenizer import LONGEST_RUN, LONGEST_TEXT, SPLIT_PATTERN, cut_long_text
from k25.errors import InputError

TOOL_CALL_IDS = (
    "163595 163597 41937 1150 21055 2800 25 15 163598 8264 5791 1289 414 45 30654 16934 163599 163596 163586"
)
PUBLISHED = [
    ("Hello, world!", [19180, 11, 2695, 0]),
    ("你好\uff0c世界", [33845, 378, 2243]),
    ("Kimi K2.5是一个模型 1234567", [42, 30223, 1040, 17, 13, 20, 4279, 15662, 220, 6694, 12972, 22]),
    ("  indented\n\n\tcode()", [220, 155238, 382, 81897, 539]),
    ("don't DON'T It's", [88709, 92629, 64833, 8629]),
    ("<|im_user|>user<|im_middle|>hi<|im_end|>", [163587, 2482, 163601, 9663, 163586]),
    ("<think></think>", [163606, 163607]),
    ("functions.get_weather:0", [41937, 1150, 21055, 2800, 25, 15]),
    ("日本語テスト한국어", [4546, 63011, 25875, 33360, 17079, 54078, 28763]),
    ("a\r\n\r\nb", [64, 2298, 65]),
    ("🙂🙂", [5885, 46813, 5885, 46813]),
    ("## Return of functions.get_weather:0\n", [798, 6014, 318, 8271, 1150, 21055, 2800, 25, 15, 198]),
    ("tool_declare", [20960, 35556, 677]),
    ("00:00:02.100", [465, 25, 465, 25, 4312, 13, 1570]),
    ("image", [4017]),
    ("video", [22782]),
    ("user", [2482]),
    ("system", [14062]),
    ("assistant", [69702]),
    ("tool", [20960]),
    ("\n", [198]),
    (
        "<|tool_calls_section_begin|><|tool_call_begin|>functions.get_weather:0<|tool_call_argument_begin|>"
        '{"location": "NYC"}<|tool_call_end|><|tool_calls_section_end|><|im_end|>',
        [int(token_id) for token_id in TOOL_CALL_IDS.split()],
    ),
    (
        "<|media_begin|>image<|media_content|><|media_pad|><|media_end|>\nDescribe.",
        [163602, 4017, 163603, 163605, 163604, 198, 48848, 13],
    ),
]
ALPHABET = "abzABZ019 .,'!?_-\n\r\t\u3000éßñşЖяאبไ你好世界日本語テスト한국어🙂\u0301\u200dⅣ½"


@pytest.mark.parametrize(("text", "ids"), PUBLISHED)
def test_published_ids_are_reproduced(kimi_tokenizer, text, ids):
    assert kimi_tokenizer.encode(text, control_tokens=True) == ids
    assert kimi_tokenizer.decode(ids) == text


def test_control_token_texts_are_plain_text_by_default(kimi_tokenizer):
    assert kimi_tokenizer.encode("<|im_user|>") == [27, 91, 348, 8948, 91, 29]
    everything = "".join(kimi_tokenizer.control_tokens)
    assert max(kimi_tokenizer.encode(everything)) < kimi_tokenizer.base_tokens
    assert len(kimi_tokenizer.encode(everything, control_tokens=True)) == 256


def merge_pairs(piece: bytes, ranks: dict[bytes, int]) -> list[int]:
    if piece in ranks:
        return [ranks[piece]]
    parts = [bytes([value]) for value in piece]
    while True:
        pairs = [ranks.get(left + right, len(ranks)) for left, right in pairwise(parts)]
        if not pairs or min(pairs) == len(ranks):
            return [ranks[part] for part in parts]
        at = pairs.index(min(pairs))
        parts[at : at + 2] = [parts[at] + parts[at + 1]]


def random_text(rng):
    return "".join(rng.choices(ALPHABET, k=rng.randrange(60)))


@pytest.mark.parametrize("fixture", ["kimi_tokenizer", "small_tokenizer"])
def test_encoding_equals_pair_merging_in_pure_python(request, fixture):
    tokenizer = request.getfixturevalue(fixture)
    ranks = {tokenizer.token_bytes(rank): rank for rank in range(tokenizer.base_tokens)}
    pattern = regex.compile(SPLIT_PATTERN, flags=regex.V1)
    rng = random.Random(3)
    for _ in range(1_000):
        text = random_text(rng)
        expected = [token for piece in pattern.findall(text) for token in merge_pairs(piece.encode(), ranks)]
        assert tokenizer.encode(text) == expected, repr(text)


def plain_tiktoken(tokenizer):
    ranks = {tokenizer.token_bytes(rank): rank for rank in range(tokenizer.base_tokens)}
    return tiktoken.Encoding(
        "plain", pat_str=SPLIT_PATTERN, mergeable_ranks=ranks, special_tokens=tokenizer.control_tokens
    )


def test_encoding_equals_plain_tiktoken(small_tokenizer):
    plain = plain_tiktoken(small_tokenizer)
    rng = random.Random(4)
    names = list(small_tokenizer.control_tokens)
    for _ in range(500):
        text = random_text(rng) + rng.choice(names) + random_text(rng)
        assert small_tokenizer.encode(text, control_tokens=True) == plain.encode(text, allowed_special="all")
        assert small_tokenizer.encode(text) == plain.encode(text, disallowed_special=())


def cut_one_by_one(text):
    """The released cutting rules, one character at a time."""
    for start in range(0, len(text), LONGEST_TEXT):
        window = text[start : start + LONGEST_TEXT]
        piece, run = "", 0
        for index, character in enumerate(window):
            same = index > 0 and character.isspace() == window[index - 1].isspace()
            run = run + 1 if same else 1
            if run > LONGEST_RUN:
                yield piece
                piece, run = "", 1
            piece += character
        yield piece


def test_long_text_is_cut_as_released():
    rng = random.Random(5)
    lengths = [1, 2, 7, LONGEST_RUN - 1, LONGEST_RUN, LONGEST_RUN + 1, 2 * LONGEST_RUN, 2 * LONGEST_RUN + 1, 60_000]
    for _ in range(12):
        runs = [character * rng.choice(lengths) for character in rng.choices("a \u3000é\n", k=12)]
        text = "".join(runs)
        assert list(cut_long_text(text)) == list(cut_one_by_one(text))


def test_text_is_cut_every_400_000_characters(small_tokenizer):
    text = "abandon ship " * 32_000
    plain = plain_tiktoken(small_tokenizer)
    cut = plain.encode_ordinary(text[:400_000]) + plain.encode_ordinary(text[400_000:])
    assert small_tokenizer.encode(text) == cut != plain.encode_ordinary(text)


@given(st.text())
def test_decoding_restores_any_text(text):
    tokenizer = ANY_BYTES
    assert tokenizer.decode(tokenizer.encode(text)) == text


ANY_BYTES = Tokenizer({bytes([value]): value for value in range(256)})


def test_lone_surrogates_become_replacement_characters():
    assert ANY_BYTES.decode(ANY_BYTES.encode("a\ud83d")) == "a\ufffd"


@settings(max_examples=300)
@given(st.lists(st.integers(0, ANY_BYTES.vocabulary_size - 1)), st.data())
def test_streaming_in_any_chunks_equals_decoding_at_once(token_ids, data):
    decoder = StreamingDecoder(ANY_BYTES)
    text, done = "", 0
    while done < len(token_ids):
        size = data.draw(st.integers(1, len(token_ids) - done))
        text += decoder.push(token_ids[done : done + size])
        done += size
    assert text + decoder.finish() == ANY_BYTES.decode(token_ids)


def test_streaming_holds_back_half_a_character():
    first, *rest = "🙂".encode()
    decoder = StreamingDecoder(ANY_BYTES)
    assert decoder.push([first]) == ""
    assert decoder.push(rest) == "🙂"


def test_skipping_keeps_think_and_tool_markers(small_tokenizer):
    ids = small_tokenizer.encode("".join(OFFSETS), control_tokens=True)
    markers = "<|tool_calls_section_begin|><|tool_calls_section_end|><|tool_call_begin|>"
    markers += "<|tool_call_argument_begin|><|tool_call_end|><think></think>"
    assert small_tokenizer.decode(ids, skip_special=True) == markers


def test_an_id_outside_the_vocabulary_is_an_input_error():
    for token_id in (-1, 512):
        with pytest.raises(InputError, match="outside the vocabulary"):
            ANY_BYTES.decode([token_id])


def test_looking_up_an_unknown_token_gives_unk():
    assert ANY_BYTES.token_id("<|im_end|>") == 258
    assert ANY_BYTES.token_id("a") == ord("a")
    assert ANY_BYTES.token_id("no such token") == ANY_BYTES.token_id("[UNK]") == 256 + 254


def test_saving_and_reading_gives_the_same_tokenizer(small_tokenizer, tmp_path):
    small_tokenizer.save(tmp_path)
    for path in (tmp_path, tmp_path / "tiktoken.model"):
        again = Tokenizer.from_file(path)
        assert again.control_tokens == small_tokenizer.control_tokens
        assert again.encode("def encode(text): 你好") == small_tokenizer.encode("def encode(text): 你好")


def test_a_configuration_may_name_reserved_tokens(small_tokenizer, tmp_path):
    small_tokenizer.save(tmp_path)
    config = tmp_path / "tokenizer_config.json"
    reserved = small_tokenizer.base_tokens + 5
    config.write_text(config.read_text().replace('"added_tokens_decoder": {', NEW_TOKEN % reserved))
    assert Tokenizer.from_file(tmp_path).token_id("<|new|>") == reserved


NEW_TOKEN = '"added_tokens_decoder": {"%d": {"content": "<|new|>"},'


def lines(ranks):
    return b"".join(base64.b64encode(token) + b" %d\n" % rank for token, rank in ranks)


BYTES = [(bytes([value]), value) for value in range(256)]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"not base64!\n", "line 1: expected base64"),
        (lines(BYTES) + b"YWI=\n", "line 257: expected base64"),
        (lines([*BYTES, (b"ab", 300)]), "without gaps"),
        (lines([*BYTES, (b"a", 256)]), "without gaps"),
        (lines([(b"ab", 0), (b"cd", 1)]), "all 256 single bytes"),
        (b"", "all 256 single bytes"),
        (b"\xff\xfe\x00", "line 1: expected base64"),
    ],
)
def test_a_broken_vocabulary_file_is_an_input_error(tmp_path, content, reason):
    file = tmp_path / "tiktoken.model"
    file.write_bytes(content)
    with pytest.raises(InputError, match=reason):
        Tokenizer.from_file(file)


@pytest.mark.parametrize("content", ["{", "[]", '{"added_tokens_decoder": {"x": 1}}'])
def test_a_broken_configuration_is_an_input_error(small_tokenizer, tmp_path, content):
    small_tokenizer.save(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(content)
    with pytest.raises(InputError, match="not a tokenizer configuration"):
        Tokenizer.from_file(tmp_path)


def test_a_configuration_that_renames_a_control_token_is_an_input_error(small_tokenizer, tmp_path):
    small_tokenizer.save(tmp_path)
    config = tmp_path / "tokenizer_config.json"
    config.write_text(config.read_text().replace("<|im_end|>", "<|stop|>"))
    with pytest.raises(InputError, match=r"is named <\|stop\|>, where <\|im_end\|> belongs"):
        Tokenizer.from_file(tmp_path)


def test_a_missing_tokenizer_names_the_remedy(tmp_path):
    with pytest.raises(InputError, match=r"no tokenizer here; give a tiktoken\.model"):
        Tokenizer.from_file(tmp_path)
