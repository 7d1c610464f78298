"""The chat page as a user meets it, in headless Chromium; the model's part is played by script."""

import base64
import json

import pytest
from openai_stand_in import Break, Finish, Hold, Pause, Refuse, call, say, think
from PIL import Image
from playwright.sync_api import expect

TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "red.png"
    Image.new("RGB", (28, 28), "red").save(path)
    return path


def ask(page, text):
    page.fill("#question", text)
    page.press("#question", "Enter")


def answers(page):
    return page.locator(".answer .text")


def ask_and_wait(page, text):
    ask(page, text)
    expect(page.locator(".answer").last).to_have_attribute("aria-busy", "false")


# Answers


def test_an_answer_streams_onto_the_page(page, server):
    rest = Hold()
    server.answer(say("Blue"), rest, say(" sky."), Finish())
    ask(page, "Which sky?")
    expect(answers(page)).to_have_text("Blue")
    rest.release()
    expect(answers(page)).to_have_text("Blue sky.")
    assert server.bodies[-1]["messages"] == [{"role": "user", "content": "Which sky?"}]
    assert server.bodies[-1]["thinking"] == {"type": "enabled"}


def test_thinking_is_open_while_it_lasts_and_folds_when_the_answer_begins(page, server):
    answer = Hold()
    server.answer(think("Let me ", "see."), answer, say("Done."), Finish())
    ask(page, "q")
    expect(page.locator(".thoughts")).to_be_visible()
    expect(page.locator(".thoughts")).to_have_text("Let me see.")
    answer.release()
    expect(answers(page)).to_have_text("Done.")
    expect(page.locator(".thoughts")).to_be_hidden()
    page.get_by_text("Thought for").click()
    expect(page.locator(".thoughts")).to_be_visible()


def test_a_panel_that_the_user_opened_stays_open(page, server):
    rest = Hold()
    server.answer(think("hm"), say("one "), rest, say("two"), Finish())
    ask(page, "q")
    expect(answers(page)).to_have_text("one")
    page.get_by_text("Thought for").click()
    rest.release()
    expect(answers(page)).to_have_text("one two")
    expect(page.locator(".thoughts")).to_be_visible()


@pytest.mark.parametrize("in_choice", [False, True])
def test_counts_come_from_usage(page, server, in_choice):
    server.answer(say("a"), Pause(0.1), say("b"), Finish(usage_in_choice=in_choice))
    ask_and_wait(page, "q")
    expect(page.locator(".counts")).to_contain_text("34 tokens")
    expect(page.locator(".counts")).to_contain_text("tokens/s")
    expect(page.locator(".counts")).to_contain_text("prompt 21 (16 cached)")


def test_the_next_question_carries_the_history_without_thinking(page, server):
    server.answer(think("hm"), say("one"), Finish())
    server.answer(say("two"), Finish())
    ask_and_wait(page, "1?")
    ask_and_wait(page, "2?")
    assert server.bodies[-1]["messages"] == [
        {"role": "user", "content": "1?"},
        {"role": "assistant", "content": "one"},
        {"role": "user", "content": "2?"},
    ]


@pytest.mark.parametrize("way", ["button", "escape"])
def test_stopping_ends_the_request_and_keeps_what_came(page, server, way):
    server.answer(say("endless"), Pause(60), Finish())
    ask(page, "q")
    expect(answers(page)).to_have_text("endless")
    if way == "button":
        page.get_by_role("button", name="Stop").click()
    else:
        page.keyboard.press("Escape")
    expect(page.locator(".counts")).to_contain_text("stopped")
    expect(answers(page)).to_have_text("endless")
    assert server.aborted.wait(10)
    expect(page.get_by_role("button", name="Send", exact=True)).to_be_visible()


def test_regenerating_asks_the_same_again(page, server):
    server.answer(say("first"), Finish())
    server.answer(say("second"), Finish())
    ask_and_wait(page, "q")
    page.get_by_role("button", name="Regenerate").click()
    expect(answers(page)).to_have_text("second")
    assert server.bodies[0]["messages"] == server.bodies[1]["messages"]


def test_copying_takes_the_text_as_the_model_wrote_it(page, server):
    server.answer(say("**bold** and `code`"), Finish())
    ask_and_wait(page, "q")
    page.get_by_role("button", name="Copy").click()
    expect(page.get_by_role("status")).to_have_text("Copied")
    assert page.evaluate("navigator.clipboard.readText()") == "**bold** and `code`"


def test_a_new_chat_forgets_the_old_one_and_ends_its_answer(page, server):
    server.answer(say("old"), Pause(60), Finish())
    server.answer(say("new"), Finish())
    ask(page, "1?")
    expect(answers(page)).to_have_text("old")
    page.get_by_role("button", name="New chat").click()
    expect(answers(page)).to_have_count(0)
    assert server.aborted.wait(10)
    ask_and_wait(page, "2?")
    assert [message["content"] for message in server.bodies[-1]["messages"]] == ["2?"]


# Tools


def test_tool_calls_are_cards_whose_results_go_back_to_the_model(page, server):
    server.answer(think("need it"), call(0, "get_weather", '{"city":', ' "Oslo"}'), Finish("tool_calls"))
    server.answer(say("It rains."), Finish())
    page.locator("#tools").evaluate("(field, text) => { field.value = text }", json.dumps([TOOL]))
    ask_and_wait(page, "weather?")
    card = page.get_by_label("Tool call get_weather")
    expect(card.locator("dt")).to_have_text("city")
    expect(card.locator("dd")).to_have_text("Oslo")
    expect(card).to_contain_text("waits for a result")
    page.get_by_label("Result of get_weather").fill("rain")
    page.get_by_role("button", name="Send result").click()
    expect(answers(page).last).to_have_text("It rains.")
    expect(card).to_contain_text("answered")
    _, asked, result = server.bodies[-1]["messages"]
    assert server.bodies[0]["tools"] == [TOOL]
    assert asked["reasoning_content"] == "need it"
    assert asked["tool_calls"][0]["function"] == {"name": "get_weather", "arguments": '{"city": "Oslo"}'}
    assert result == {"role": "tool", "tool_call_id": "functions.get_weather:0", "content": "rain"}


def test_several_calls_are_answered_together(page, server):
    server.answer(call(0, "a", "{}"), call(1, "b", "{}"), Finish("tool_calls"))
    server.answer(say("both"), Finish())
    ask_and_wait(page, "q")
    page.get_by_label("Result of a").fill("1")
    page.get_by_label("Result of b").fill("2")
    page.get_by_role("button", name="Send results").click()
    expect(answers(page).last).to_have_text("both")
    assert [message["content"] for message in server.bodies[-1]["messages"][2:]] == ["1", "2"]


def test_calls_nobody_answered_are_left_out_of_the_next_request(page, server):
    server.answer(say("Let me look."), call(0, "get_weather", "{}"), Finish("tool_calls"))
    server.answer(say("fine"), Finish())
    ask_and_wait(page, "weather?")
    ask_and_wait(page, "never mind")
    assert server.bodies[-1]["messages"][1] == {"role": "assistant", "content": "Let me look."}


# Media


@pytest.mark.parametrize("way", ["chosen", "pasted", "dropped"])
def test_a_picture_is_previewed_and_sent(page, server, picture, way):
    server.answer(say("red"), Finish())
    data = base64.b64encode(picture.read_bytes()).decode()
    transfer = """data => { const bytes = Uint8Array.from(atob(data), c => c.charCodeAt(0));
        const transfer = new DataTransfer();
        transfer.items.add(new File([bytes], "red.png", {type: "image/png"})); return transfer; }"""
    if way == "chosen":
        page.set_input_files("#files", picture)
    elif way == "pasted":
        clipboard = {"clipboardData": page.evaluate_handle(transfer, data)}
        page.evaluate(
            """({clipboardData}) => document.getElementById("question").dispatchEvent(
                new ClipboardEvent("paste", {clipboardData, bubbles: true, cancelable: true}))""",
            clipboard,
        )
    else:
        dropped = {"dataTransfer": page.evaluate_handle(transfer, data)}
        page.dispatch_event("main", "dragenter", dropped)
        expect(page.get_by_text("Drop images or videos")).to_be_visible()
        page.dispatch_event("main", "drop", dropped)
        expect(page.get_by_text("Drop images or videos")).to_be_hidden()
    expect(page.locator("#attachments img")).to_be_visible()
    ask_and_wait(page, "Colour?")
    assert page.locator(".question img").evaluate("image => image.naturalWidth") == 28
    assert server.bodies[-1]["messages"][0]["content"] == [
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}},
        {"type": "text", "text": "Colour?"},
    ]


def test_a_video_that_the_browser_cannot_show_is_named_and_sent(page, server):
    server.answer(say("ok"), Finish())
    page.set_input_files("#files", {"name": "clip.avi", "mimeType": "video/avi", "buffer": b"RIFF0000AVI "})
    expect(page.locator("#attachments .file")).to_contain_text("clip.avi")
    ask_and_wait(page, "What happens?")
    part = server.bodies[-1]["messages"][0]["content"][0]
    assert part["video_url"]["url"].startswith("data:video/avi;base64,")


def test_an_attachment_can_be_removed(page, server, picture):
    server.answer(say("ok"), Finish())
    page.set_input_files("#files", picture)
    page.get_by_role("button", name="Remove red.png").click()
    ask_and_wait(page, "q")
    assert server.bodies[-1]["messages"][0]["content"] == "q"


@pytest.mark.parametrize(
    ("name", "size", "reason"),
    [
        ("a.pdf", 9, "attach png, jpeg, webp or gif images"),
        ("a.png", 0, "a.png is empty"),
        ("a.png", 20_000_001, "images may have 20.0 MB"),
        ("a.mp4", 1_000_000, "has room for 750 kB more"),
    ],
)
def test_a_file_that_cannot_be_sent_is_refused_at_once(page, tmp_path, name, size, reason):
    (tmp_path / name).write_bytes(bytes(size))
    page.set_input_files("#files", tmp_path / name)
    expect(page.locator("#notice")).to_contain_text(reason)
    expect(page.locator("#attachments li")).to_have_count(0)


# Settings


def test_settings_reach_the_server_and_outlive_a_reload(page, server):
    server.answer(say("ok"), Finish())
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("System prompt").fill("Be brief.")
    page.get_by_label("Temperature").fill("0.6")
    page.get_by_label("Max tokens").fill("9")
    page.keyboard.press("Escape")
    page.get_by_text("Instant", exact=True).click()
    page.reload()
    ask_and_wait(page, "q")
    body = server.bodies[-1]
    assert body["thinking"] == {"type": "disabled"}
    assert (body["temperature"], body["max_completion_tokens"]) == (0.6, 9)
    assert body["messages"][0] == {"role": "system", "content": "Be brief."}


def test_unset_settings_are_left_to_the_server(page, server):
    server.answer(say("ok"), Finish())
    ask_and_wait(page, "q")
    assert server.bodies[-1].keys() == {"model", "messages", "stream", "stream_options", "thinking"}


def test_the_key_is_asked_for_used_and_kept_in_this_tab_only(page, server):
    server.key = "right"
    server.answer(say("ok"), Finish())
    page.reload()
    key = page.get_by_label("API key")
    expect(key).to_be_focused()
    key.fill("right")
    key.press("Enter")
    expect(page.locator("#model-name")).to_have_text("kimi-k2.5")
    ask_and_wait(page, "q")
    assert server.headers[-1]["authorization"] == "Bearer right"
    assert page.evaluate("JSON.parse(sessionStorage.k25).key") == "right"
    assert page.evaluate("localStorage.length + document.cookie.length") == 0


def test_tools_that_are_no_json_are_named_before_anything_is_sent(page, server):
    page.locator("#tools").evaluate("(field) => { field.value = '[{]' }")
    ask(page, "q")
    expect(page.locator("#notice")).to_contain_text("tools:")
    assert not server.bodies


def test_a_question_that_is_faster_than_the_list_of_models_waits_for_it(page, server):
    server.answer(say("ok"), Finish())
    asked = []
    page.route("**/v1/models", lambda route: asked.append(route))
    page.reload()
    ask(page, "q")
    expect(page.locator(".answer")).to_have_attribute("aria-busy", "true")
    assert not server.bodies
    asked[0].continue_()
    expect(answers(page)).to_have_text("ok")
    assert server.bodies[-1]["model"] == "kimi-k2.5"


def test_a_question_that_waits_for_the_list_of_models_can_be_stopped(page, server):
    page.route("**/v1/models", lambda _: None)
    page.reload()
    ask(page, "q")
    page.get_by_role("button", name="Stop").click()
    expect(page.locator(".counts")).to_contain_text("stopped")
    assert not server.bodies


def test_a_list_of_models_that_failed_is_asked_for_again_with_the_next_question(page, server):
    server.answer(say("ok"), Finish())
    page.route("**/v1/models", lambda route: route.abort(), times=1)
    page.reload()
    expect(page.locator("#notice")).to_contain_text("The server cannot be reached.")
    ask(page, "q")
    expect(answers(page)).to_have_text("ok")
    assert server.bodies[-1]["model"] == "kimi-k2.5"


def test_one_of_several_models_can_be_chosen(page, server):
    server.models = ["a", "b"]
    server.answer(say("ok"), Finish())
    page.reload()
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("Model", exact=True).select_option("b")
    page.keyboard.press("Escape")
    ask_and_wait(page, "q")
    assert server.bodies[-1]["model"] == "b"


# Errors


@pytest.mark.parametrize(
    ("script", "shown"),
    [
        ([Refuse(400, "invalid temperature")], "invalid temperature (400)"),
        ([Refuse(429, "overloaded", headers={"Retry-After": "7"})], "overloaded (429) The server asks to wait 7 s."),
        ([say("half"), Pause(0.3), Break()], "The connection broke before the answer ended."),
        ([say("half")], "The stream ended before the answer did."),
    ],
)
def test_errors_are_shown_as_the_server_says_them_and_can_be_tried_again(page, server, script, shown):
    server.answer(*script)
    server.answer(say("fine"), Finish())
    ask(page, "q")
    expect(page.locator(".answer .error")).to_have_text(shown)
    if script[0] == say("half"):
        expect(answers(page)).to_have_text("half")
    page.get_by_role("button", name="Regenerate").click()
    expect(answers(page)).to_have_text("fine")
    expect(page.locator(".answer .error")).to_be_hidden()


# Hands and eyes


def test_everything_can_be_done_from_the_keyboard(page, server):
    server.answer(say("ok"), Finish())
    expect(page.get_by_label("Message")).to_be_focused()
    page.keyboard.type("one")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("two")
    page.keyboard.press("Enter")
    expect(answers(page)).to_have_text("ok")
    assert server.bodies[-1]["messages"][0]["content"] == "one\ntwo"
    reached = set()
    for _ in range(20):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.ariaLabel ?? document.activeElement.id"))
    assert {"Settings", "New chat", "Copy", "Regenerate", "Attach images or videos", "Message", "Send"} <= reached


def test_every_control_has_a_name(page):
    unnamed = page.evaluate(
        """[...document.querySelectorAll("button, input:not([hidden]), select, textarea")].filter(control =>
            !control.ariaLabel && !control.labels?.length && !control.textContent.trim()).map(control => control.id)"""
    )
    assert unnamed == []


def test_dark_and_light_follow_the_system(page):
    ground = "getComputedStyle(document.body).backgroundColor"
    page.emulate_media(color_scheme="dark")
    dark = page.evaluate(ground)
    page.emulate_media(color_scheme="light")
    assert page.evaluate(ground) != dark


def test_a_narrow_screen_needs_no_sideways_scrolling(page, server):
    server.answer(say("x" * 300 + "\n\n```\n" + "y" * 300 + "\n```"), Finish())
    page.set_viewport_size({"width": 320, "height": 640})
    ask_and_wait(page, "z" * 200)
    assert page.evaluate("document.documentElement.scrollWidth") <= 320
    assert page.locator("#scroll").evaluate("area => area.scrollWidth <= area.clientWidth")
