"""Images and videos by data URL and by uploaded file, the file store, raw completions, models, token counts."""

import base64
import io
import json

import openai
import pytest
from PIL import Image
from served_here import serving

from k25.chat import special_tokens


def picture(color="red", size=(56, 28)):
    out = io.BytesIO()
    Image.new("RGB", size, color).save(out, "PNG")
    return out.getvalue()


def clip():
    """An animated gif of ten frames at ten frames per second."""
    frames = [Image.new("RGB", (56, 56), (25 * number, 0, 0)) for number in range(10)]
    out = io.BytesIO()
    frames[0].save(out, "GIF", save_all=True, append_images=frames[1:], duration=100)
    return out.getvalue()


def data_url(data, media_type="image/png"):
    # The space after the comma and the wrong type are in published samples.
    return f"data:{media_type};base64, {base64.b64encode(data).decode()}"


def conversation(*parts):
    return [{"role": "user", "content": [*parts, {"type": "text", "text": "What is it?"}]}]


def image_part(url):
    return {"type": "image_url", "image_url": {"url": url}}


def video_part(url):
    return {"type": "video_url", "video_url": {"url": url}}


def ask(client, messages, **fields):
    fields = {"max_tokens": 6, "seed": 1, "temperature": 0.6, **fields}
    return client.chat.completions.create(model="nano", messages=messages, **fields)


def estimate(server, messages):
    answer = server.request("POST", "/v1/tokenizers/estimate-token-count", {"model": "nano", "messages": messages})
    assert answer.status == 200, answer.body
    return answer.json["data"]["total_tokens"]


def test_an_image_costs_its_tokens_and_the_estimate_agrees(client, server):
    with_image = conversation(image_part(data_url(picture(), "image/.png")))
    used = ask(client, with_image).usage.prompt_tokens
    # 56 x 28 pixels are 2 x 1 tokens of 28 x 28; begin, "image", content and end stand around them, a newline after.
    word = len(server.served.tokenizer.encode("image")) + len(server.served.tokenizer.encode("\n"))
    both = len(server.served.tokenizer.encode("\nWhat is it?")) - len(server.served.tokenizer.encode("What is it?"))
    assert used - ask(client, conversation()).usage.prompt_tokens == 2 + 3 + word - 1 + both
    assert estimate(server, with_image) == used


def test_a_video_costs_its_chunks_and_the_estimate_agrees(client, server):
    messages = conversation(video_part(data_url(clip(), "video/mp4")))
    assert ask(client, messages).usage.prompt_tokens == estimate(server, messages)


def test_the_picture_matters_to_the_answer(client):
    def logprobs(color):
        messages = conversation(image_part(data_url(picture(color))))
        answer = ask(client, messages, temperature=0, logprobs=True)
        return [entry.logprob for entry in answer.choices[0].logprobs.content]

    assert logprobs("red") == pytest.approx(logprobs("red"), abs=1e-4)
    assert logprobs("red")[0] != pytest.approx(logprobs("blue")[0], abs=1e-6)


def test_an_uploaded_file_says_the_same_as_its_data_url(client):
    uploaded = client.files.create(file=("red.png", picture()), purpose="image")
    by_file = ask(client, conversation(image_part(f"ms://{uploaded.id}")))
    by_url = ask(client, conversation(image_part(data_url(picture()))))
    assert by_file.choices[0].message == by_url.choices[0].message
    assert by_file.usage.prompt_tokens == by_url.usage.prompt_tokens


@pytest.mark.parametrize(
    "url",
    [
        "ms://file-000000000000000000000000",
        "ms://../../etc/passwd",
        "file:///etc/passwd",
        "http://127.0.0.1:1/x.png",
        "data:image/png;base64,AAAA",
    ],
)
def test_an_unusable_url_is_the_clients_error(client, url):
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, conversation(image_part(url)))
    assert caught.value.type == "invalid_request_error"


def test_too_many_pictures_are_refused_before_they_are_decoded(client):
    part = image_part(data_url(picture(size=(448, 448))))
    with pytest.raises(openai.BadRequestError, match="Input token length too long"):
        ask(client, conversation(*[part] * 40))


def test_files_are_stored_listed_read_and_deleted(client):
    made = client.files.create(file=("clip.gif", clip()), purpose="video")
    assert (made.filename, made.bytes, made.purpose) == ("clip.gif", len(clip()), "video")
    assert client.files.retrieve(made.id).id == made.id
    assert made.id in [file.id for file in client.files.list()]
    assert client.files.content(made.id).content == clip()
    assert client.files.delete(made.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(made.id)


@pytest.mark.parametrize(
    ("content", "purpose"),
    [
        (b"", "image"),
        (b"no picture", "image"),
        (picture(), "video"),
        (picture(), "assistants"),
        (b"\xff", "file-extract"),
    ],
)
def test_an_upload_that_is_not_what_its_purpose_says_is_refused(client, content, purpose):
    before = [file.id for file in client.files.list()]
    with pytest.raises(openai.BadRequestError):
        client.files.create(file=("file", content), purpose=purpose)
    assert [file.id for file in client.files.list()] == before


def test_files_of_one_key_are_hidden_from_another_and_survive_a_restart(tmp_path):
    with serving(api_keys=("one", "two"), state=tmp_path) as server:
        made = server.client("one").files.create(file=("red.png", picture()), purpose="image")
        (tmp_path / "files" / "file-half").write_bytes(b"cut off by a crash")
        with pytest.raises(openai.NotFoundError):
            server.client("two").files.retrieve(made.id)
        with pytest.raises(openai.BadRequestError):
            ask(server.client("two"), conversation(image_part(f"ms://{made.id}")))
    with serving(api_keys=("one", "two"), state=tmp_path) as server:
        assert server.client("one").files.retrieve(made.id) == made
        assert not (tmp_path / "files" / "file-half").exists()


def test_room_for_files_is_bounded():
    with serving(max_files=2, max_file_bytes=1000) as server, server.client() as client:
        first = client.files.create(file=("a.txt", b"x" * 400), purpose="file-extract")
        with pytest.raises(openai.BadRequestError, match="room"):
            client.files.create(file=("b.txt", b"x" * 700), purpose="file-extract")
        client.files.create(file=("c.txt", b"x"), purpose="file-extract")
        with pytest.raises(openai.BadRequestError, match="2 files"):
            client.files.create(file=("d.txt", b"x"), purpose="file-extract")
        client.files.delete(first.id)
        client.files.create(file=("e.txt", b"x" * 700), purpose="file-extract")


def complete(client, prompt, **fields):
    return client.completions.create(model="nano", prompt=prompt, **{"max_tokens": 10, "seed": 2, **fields})


def test_a_completion_continues_text_and_ids_alike(client, server):
    ids = server.served.tokenizer.encode("One, two,")
    assert complete(client, "One, two,").choices[0].text == complete(client, ids).choices[0].text
    assert complete(client, ids).usage.prompt_tokens == len(ids)


def test_control_tokens_count_in_a_raw_prompt(client):
    assert complete(client, "<|im_user|>user<|im_middle|>").usage.prompt_tokens < 7


def test_completions_of_several_prompts_come_in_order_and_stream_alike(client):
    whole = complete(client, ["One", "Two"], n=2, echo=True)
    texts = [choice.text for choice in whole.choices]
    assert [text[:3] for text in texts] == ["One", "One", "Two", "Two"]
    streamed = [""] * 4
    for chunk in complete(client, ["One", "Two"], n=2, echo=True, stream=True):
        streamed[chunk.choices[0].index] += chunk.choices[0].text
    assert streamed == texts
    assert whole.usage.completion_tokens == 40


def test_completion_logprobs_have_tokens_and_offsets(client):
    choice = complete(client, "One", logprobs=2, temperature=0).choices[0]
    assert len(choice.logprobs.tokens) == len(choice.logprobs.token_logprobs) == 10
    assert choice.logprobs.text_offset[0] == 0
    assert all(len(top) == 2 for top in choice.logprobs.top_logprobs)


def test_models_are_listed_and_described(client):
    assert [model.id for model in client.models.list()] == ["nano"]
    assert client.models.retrieve("nano").id == "nano"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt")


def test_the_estimate_counts_tools(server):
    messages = conversation()
    tool = {"type": "function", "function": {"name": "clock", "parameters": {"type": "object", "properties": {}}}}
    body = {"model": "nano", "messages": messages, "tools": [tool]}
    counted = server.request("POST", "/v1/tokenizers/estimate-token-count", body).json["data"]["total_tokens"]
    assert counted > estimate(server, messages)


def test_health_and_metrics_tell_how_it_goes(client, server):
    ask(client, conversation())
    assert server.request("GET", "/health").json == {"status": "ok"}
    text = server.request("GET", "/metrics").body.decode()
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert float(values['k25_requests_total{path="/v1/chat/completions",status="200"}']) >= 1
    assert float(values["k25_engine_generated_tokens_total"]) >= 6
    assert float(values["k25_time_to_first_token_seconds_count"]) >= 1


def test_the_presets_tokenizer_has_every_byte_and_fits_the_model(server):
    tokenizer = server.served.tokenizer
    assert tokenizer.vocabulary_size == server.served.model.config.text.vocab_size
    text = 'Grüße, 世界! {"a": [1, 2]}\n\x00'
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.control_tokens[special_tokens.MEDIA_PAD] == server.served.model.config.media_placeholder_token_id
    assert json.loads(server.request("GET", "/openapi.json").body)["info"]["title"] == "K25"
