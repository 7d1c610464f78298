"""The page of a run in a browser: it grows with the run, and conversations can be read; hostile text stays text."""

import http.client
import urllib.parse

import pytest

pytest.importorskip("playwright.sync_api", reason="needs Playwright")

from playwright.sync_api import expect
from rl_run_files import append, begin, rollout, run_of

from k25.rl.metrics import ROLLOUTS
from k25.train.metrics import FILE_NAME, JsonLines

HOSTILE = (
    "<img src=x onerror='window.hacked = 1'><script>window.hacked = 1</script> [a](javascript:window.hacked=1) "
    "</pre></div><svg onload=window.hacked=1> ![x](https://evil.example/pixel.png)"
)


def call_of(number, name, arguments):
    return {"id": f"functions.{name}:{number}", "type": "function", "function": {"name": name, "arguments": arguments}}


CONVERSATION = [
    {"role": "system", "content": "You fill tables."},
    {"role": "user", "content": [{"type": "text", "text": "Fill it."}, {"type": "image_url", "image_url": {}}]},
    {
        "role": "assistant",
        "content": "I share the work.",
        "reasoning_content": "Two rows, two agents.",
        "tool_calls": [
            call_of(0, "assign_task", '{"agent": "left", "prompt": "row 1"}'),
            call_of(1, "table_lookup", "not JSON"),
        ],
    },
    {"role": "tool", "tool_call_id": "functions.assign_task:0", "content": "Row 1 is 42."},
    {"role": "tool", "tool_call_id": "functions.table_lookup:1", "content": "error: no JSON"},
    {"role": "assistant", "content": "**42**"},
]


def test_curves_grow_with_the_run(open_page, tmp_path):
    page = open_page(begin(tmp_path, steps=5))
    expect(page.locator("#no-curves")).to_be_visible()
    append(tmp_path, 1)
    append(tmp_path, 2)
    reward = page.get_by_role("figure").filter(has_text="Reward by part")
    expect(reward.locator("li", has_text="perf").locator("b")).to_have_text("0.2")
    expect(page.locator("#no-curves")).to_be_hidden()
    expect(page.locator("#state")).to_contain_text("step 2 of 5")
    for step in (3, 4, 5):
        append(tmp_path, step)
    expect(reward.locator("li", has_text="perf").locator("b")).to_have_text("0.5")
    expect(reward.locator("path")).to_have_count(2)
    expect(page.locator("#state")).to_have_text("finished")
    for title in (
        "Accuracy by domain",
        "Shares",
        "width (mean",
        "critical_steps (mean",
        "Rollouts dropped",
        "Toggle's",
    ):
        expect(page.get_by_role("figure").filter(has_text=title)).to_have_count(1)


def test_the_cursor_reads_an_earlier_step(open_page, tmp_path):
    page = open_page(run_of(tmp_path, 5))
    reward = page.get_by_role("figure").filter(has_text="Reward by part")
    value = reward.locator("li", has_text="perf").locator("b")
    expect(value).to_have_text("0.5")
    box = reward.locator("svg.plot").bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.55, box["y"] + box["height"] / 2)
    expect(value).to_have_text("0.3")
    page.mouse.move(5, 5)
    expect(value).to_have_text("0.5")


def test_a_rollout_reads_as_a_conversation(open_page, tmp_path):
    begin(tmp_path)
    append(tmp_path, 1)
    append(tmp_path, 2, (rollout(2, 0), rollout(2, 1, CONVERSATION)))
    page = open_page(tmp_path)
    expect(page.locator("#step-shown")).to_have_text("2")
    page.get_by_role("button", name="table/2 · 1").click()
    talk = page.locator("#conversation")
    expect(page.locator("#rollout-head")).to_contain_text("swarm: reward 0.7")
    expect(page.locator("#rollout-head td", has_text="critical_steps")).to_be_visible()
    expect(talk.locator(".told").nth(1)).to_have_text("Fill it.[image_url]")
    agent = talk.get_by_label("Call of assign_task")
    expect(agent).to_contain_text("answer of a sub-agent")
    expect(agent.locator("dd").first).to_have_text("left")
    expect(agent.locator(".result")).to_have_text("Row 1 is 42.")
    expect(talk.get_by_label("Call of table_lookup").locator(".arguments")).to_have_text("not JSON")
    expect(talk.locator("strong", has_text="42")).to_have_count(1)
    talk.get_by_text("Thinking").click()
    expect(talk.locator(".thoughts")).to_have_text("Two rows, two agents.")


def test_the_slider_goes_through_the_steps_and_stays_there(open_page, tmp_path):
    page = open_page(run_of(tmp_path, 3))
    expect(page.locator("#step-shown")).to_have_text("3")
    page.locator("#step").fill("0")
    expect(page.locator("#step-shown")).to_have_text("1")
    append(tmp_path, 4)
    expect(page.locator("#state")).to_contain_text("step 4")
    expect(page.locator("#step-shown")).to_have_text("1")
    page.get_by_label("newest").check()
    expect(page.locator("#step-shown")).to_have_text("4")


def test_a_resumed_run_is_drawn_anew(open_page, tmp_path):
    page = open_page(run_of(tmp_path, 4))
    expect(page.locator("#state")).to_contain_text("step 4 of 10")
    for name in (FILE_NAME, ROLLOUTS):
        JsonLines(tmp_path, 1, name).close()
    append(tmp_path, 2)
    expect(page.locator("#state")).to_contain_text("step 2 of 10")
    expect(page.locator("#step-shown")).to_have_text("2")


def test_hostile_text_stays_text(open_page, tmp_path):
    begin(tmp_path)
    messages = [
        {"role": HOSTILE, "content": HOSTILE},
        {"role": "system", "content": HOSTILE},
        {
            "role": "assistant",
            "content": HOSTILE,
            "reasoning_content": HOSTILE,
            "tool_calls": [call_of(0, HOSTILE, HOSTILE), {"id": None, "function": None}],
        },
        {"role": "tool", "tool_call_id": f"functions.{HOSTILE}:0", "content": HOSTILE},
        {"role": "tool", "content": [{"type": HOSTILE}, {"type": "text", "text": HOSTILE}]},
    ]
    group = (rollout(1, 0, messages, HOSTILE, key=HOSTILE, rewards={HOSTILE: 1.0}, metrics={HOSTILE: 1.0}),)
    shown = (*group, rollout(1, 1, environment=HOSTILE, domain=HOSTILE, rewards={HOSTILE: 1.0}, metrics={HOSTILE: 2.0}))
    append(tmp_path, 1, shown)
    page = open_page(tmp_path)
    page.locator("#rollouts button").first.click()
    expect(page.locator("#conversation .told").first).to_have_text(HOSTILE)
    expect(page.locator("#rollout-head")).to_contain_text("not trained on: <img src=x")
    for each in page.locator("#conversation summary").all():
        each.click()
    expect(page.locator("#conversation .thoughts")).to_have_text(HOSTILE)
    expect(page.locator(".legend .name", has_text="<script>").first).to_be_visible()
    assert page.evaluate("window.hacked") is None
    assert page.locator("main img, main script, main a[href^=javascript]").count() == 0


def asked(url, path, host=None):
    where = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(where.hostname, where.port, timeout=20)
    connection.putrequest("GET", path, skip_host=True)
    connection.putheader("Host", host or where.netloc)
    connection.endheaders()
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer, body


def test_other_names_and_wrong_addresses_are_refused(serve, tmp_path):
    url = serve(run_of(tmp_path, 1))
    assert asked(url, "/", host="evil.example")[0].status == 421
    for path in ("/rollouts/99", "/rollouts/x", "/config.toml", "/page/../server.py"):
        answer, _ = asked(url, path)
        assert answer.status == 404
        assert answer.headers["x-content-type-options"] == "nosniff"
    answer, body = asked(url, "/rollouts/0")
    assert answer.headers["content-type"].startswith("application/json")
    assert b"Question of step 1" in body
