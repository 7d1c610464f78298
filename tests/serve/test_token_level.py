"""The endpoint for reinforcement learning: ids in; ids, log-probabilities and versions out; weights while it runs."""

import base64
import io
import re

import pytest
import torch
from PIL import Image
from served_here import serving

from k25.checkpoint import save_model
from k25.media import ImageInput
from k25.model import K25Model, Segments, StreamKeys, initialise, preset


def generate(server, ids, **fields):
    return server.request("POST", "/v1/k25/generate", {"token_ids": ids, "max_tokens": 12, "seed": 5, **fields})


def test_log_probabilities_are_those_of_a_plain_forward_pass(server):
    prompt = [5, 600, 7, 42]
    answer = generate(server, prompt, temperature=0.7, top_k=50, ignore_eos=True).json
    tokens = torch.tensor(prompt + answer["token_ids"])
    model = server.served.model
    with torch.inference_mode():
        segments = Segments.from_lengths([len(tokens)])
        output = model(tokens, segments.positions(), StreamKeys(segments))
        logprobs = model.logits(output.hidden_TD).log_softmax(-1)
    expected = [logprobs[place - 1, tokens[place]].item() for place in range(len(prompt), len(tokens))]
    assert answer["logprobs"] == pytest.approx(expected, abs=1e-4)
    assert answer["policy_versions"] == [0] * 12


def test_a_stream_gives_the_same_tokens_one_by_one(server):
    whole = generate(server, [1, 2, 3], top_logprobs=2).json
    events = generate(server, [1, 2, 3], top_logprobs=2, stream=True).events
    assert [event["token_id"] for event in events] == whole["token_ids"]
    assert [event["top_logprobs"] for event in events] == whole["top_logprobs"]
    assert events[-1]["finish_reason"] == whole["finish_reason"]
    assert events[-1]["usage"]["completion_tokens"] == len(whole["token_ids"])


def test_a_chosen_stop_token_ends_the_answer_and_is_part_of_it(server):
    answer = generate(server, [1, 2, 3], stop_token_ids=[77], logit_bias={"77": 100}).json
    assert (answer["token_ids"], answer["finish_reason"]) == ([77], "stop")


def test_images_come_with_their_placeholders(server):
    out = io.BytesIO()
    Image.new("RGB", (56, 28), "red").save(out, "PNG")
    part = {"type": "image_url", "image_url": f"data:image/png;base64,{base64.b64encode(out.getvalue()).decode()}"}
    pad = server.served.model.config.media_placeholder_token_id
    assert generate(server, [1, pad, pad, 2], media=[part]).status == 200
    mismatch = generate(server, [1, pad, 2], media=[part])
    assert (mismatch.status, mismatch.json["error"]["type"]) == (400, "invalid_request_error")


def patches_of(server, size):
    batch = server.served.media([ImageInput(Image.effect_mandelbrot(size, (-2, -1.5, 1, 1.5), 50).convert("RGB"))])
    data = base64.b64encode(batch.pixel_values.astype("<f4").tobytes()).decode()
    return {"grid": batch.grid_thws[0].tolist(), "data": data}


def test_patches_stand_for_the_picture_that_they_come_from(server):
    out = io.BytesIO()
    Image.effect_mandelbrot((56, 28), (-2, -1.5, 1, 1.5), 50).convert("RGB").save(out, "PNG")
    part = {"type": "image_url", "image_url": f"data:image/png;base64,{base64.b64encode(out.getvalue()).decode()}"}
    pad = server.served.model.config.media_placeholder_token_id
    picture = generate(server, [1, pad, pad, 2], media=[part]).json
    patches = generate(server, [1, pad, pad, 2], patches=[patches_of(server, (56, 28))]).json
    assert patches["token_ids"] == picture["token_ids"]
    assert patches["logprobs"] == pytest.approx(picture["logprobs"], abs=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"grid": [1, 2]}, r"must be \[frames, rows, columns\]"),
        ({"grid": [1, 2, 0]}, "greater than or equal to 1"),
        ({"grid": [1, 4, 4]}, "not square"),
        ({"grid": [1, 5, 1]}, "for every patch"),
        ({"grid": [1, 1, 8]}, "multiples of"),
        ({"data": "!"}, "for every patch"),
        ({"data": base64.b64encode(b"\xff" * 18816).decode()}, "not finite"),
        ({"data": ""}, "not square"),
    ],
)
def test_patches_that_are_none_are_the_clients_error(server, changes, message):
    pad = server.served.model.config.media_placeholder_token_id
    answer = generate(server, [1, pad, pad, 2], patches=[{**patches_of(server, (56, 28)), **changes}])
    assert (answer.status, answer.json["error"]["type"]) == (400, "invalid_request_error")
    assert re.search(message, answer.json["error"]["message"])


def test_media_and_patches_exclude_each_other(server):
    pad = server.served.model.config.media_placeholder_token_id
    part = {"type": "image_url", "image_url": "data:image/png;base64,"}
    answer = generate(server, [1, pad, pad, 2], media=[part], patches=[patches_of(server, (56, 28))])
    assert (answer.status, answer.json["error"]["message"]) == (400, "give media or patches, not both")


@pytest.mark.parametrize(
    "fields", [{"token_ids": []}, {"token_ids": [1280]}, {"token_ids": [-1]}, {"token_ids": [1] * 5000}]
)
def test_wrong_ids_are_the_clients_error(server, fields):
    assert generate(server, [1], **fields).status == 400


def test_new_weights_change_the_answers_and_the_version(tmp_path):
    model = K25Model(preset("nano"))
    initialise(model, 9)
    save_model(model, tmp_path / "step-1")
    with serving(weights_root=tmp_path) as server:
        before = generate(server, [1, 2, 3], temperature=0).json
        loaded = server.request("POST", "/v1/k25/weights", {"folder": "step-1", "version": 7})
        assert (loaded.status, loaded.json) == (200, {"policy_version": 7})
        after = generate(server, [1, 2, 3], temperature=0).json
        assert set(after["policy_versions"]) == {7}
        assert after["logprobs"] != before["logprobs"]
        assert server.request("GET", "/v1/k25/weights").json == {"policy_version": 7}
        for folder in ("..", "/etc", "step-2", "step-1/../..", "\x00"):
            assert server.request("POST", "/v1/k25/weights", {"folder": folder}).status == 400


def test_weights_are_refused_unless_allowed(server):
    answer = server.request("POST", "/v1/k25/weights", {"folder": "step-1"})
    assert (answer.status, answer.json["error"]["type"]) == (403, "permission_denied_error")
