"""The page of a run as a user meets it, in headless Chromium; the agents' part is played by script."""

import asyncio
import subprocess
import sys
import urllib.request

import pytest
import swarm_page_world
from playwright.sync_api import expect
from swarm_page_world import CELSIUS, complete, finished_run, gated_run, largest_run

from k25.swarm import RunFolder, RunState

PLACE = """async ([id, number]) => {
    const { run, timeline } = await import("/page/app.js");
    const agent = run.agents.get(id);
    const { left, top, width, height } = timeline.rectangle(agent, agent.placed[number]);
    const box = timeline.canvas.getBoundingClientRect();
    return [box.left + left + width / 2, box.top + top + height / 2];
}"""
PIXEL = """([x, y]) => {
    const canvas = document.getElementById("canvas"), box = canvas.getBoundingClientRect();
    const ratio = canvas.width / box.width;
    const data = canvas.getContext("2d").getImageData((x - box.left) * ratio, (y - box.top) * ratio, 1, 1).data;
    return [...data.slice(0, 3)];
}"""
COLOUR = """kind => getComputedStyle(document.querySelector(`#legend [data-kind=${kind}] i`)).color"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    assert finished_run(folder).reason == "answered"
    return folder


@pytest.fixture
def state(folder):
    with RunFolder(folder).reader() as reader:
        return RunState.read(reader)


@pytest.fixture
def page(open_page, folder):
    opened = open_page(folder)
    expect(opened.locator("#state")).to_have_text("answered")
    return opened


def row(page, name):
    return page.get_by_role("treeitem").filter(has_text=name)


def named(state, name):
    return next(agent for agent in state.agents.values() if agent.name == name)


def counter(page, name):
    return page.locator("#counters div").filter(has=page.get_by_text(name, exact=True)).locator("dd")


def colours_at(page, agent, number):
    """The colour of a call on the canvas, and those of the legend."""
    place = page.evaluate(PLACE, [agent.id, number])
    found = page.evaluate(PIXEL, place)
    kinds = ("model", "web", "code", "files", "other")
    return f"rgb({', '.join(map(str, found))})", {page.evaluate(COLOUR, kind): kind for kind in kinds}


# The timeline


def test_every_agent_has_a_row_below_the_one_that_started_it(page, state):
    expected, levels = [], []

    def visit(agent, level):
        expected.append(agent.name)
        levels.append(str(level))
        for child in agent.children:
            visit(state.agents[child], level + 1)

    visit(state.main, 1)
    rows = page.get_by_role("treeitem")
    assert rows.locator(".name").all_text_contents() == expected
    assert [each.get_attribute("aria-level") for each in rows.all()] == levels
    assert "3" in levels


def test_calls_are_drawn_in_the_colours_of_their_kinds(page, state):
    agent = named(state, "Zinc reader")
    kinds = []
    for number in range(7):
        found, legend = colours_at(page, agent, number)
        kinds.append(legend.get(found))
    assert kinds == ["model", "web", "model", "web", "web", "model", "code"]


def test_pointing_at_a_call_names_it(page, state):
    page.mouse.move(*page.evaluate(PLACE, [named(state, "Zinc reader").id, 1]))
    expect(page.locator("#tip")).to_contain_text("Zinc reader: search")
    expect(page.locator("#tip")).to_contain_text("melting point of zinc")


def test_the_critical_path_is_marked(page, state):
    marked = page.locator("#rows li[data-critical]")
    path = set(state.critical_path())
    assert {each.get_attribute("data-agent") for each in marked.all()} == path
    assert 1 < len(path) < len(state.agents)
    for each in marked.all():
        assert each.get_attribute("aria-label").endswith("on the critical path")


def test_counters_are_those_of_the_run(page, state):
    expect(counter(page, "agents live")).to_have_text(f"0 / {len(state.agents)}")
    expect(counter(page, "tool calls")).to_have_text(str(state.tool_calls))
    expect(counter(page, "cost")).to_have_text(f"{state.cost:.4f}")
    steps = sum(agent.steps for agent in state.agents.values())
    expect(counter(page, "critical steps")).to_have_text(f"{state.critical_steps} / {steps}")


def test_zoom_and_pan_show_a_part_and_fit_shows_all_again(page):
    ask = "async () => { const { timeline } = await import('/page/app.js'); return timeline.range(); }"
    whole = page.evaluate(ask)
    page.keyboard.press("+")
    page.get_by_role("button", name="Zoom in").click()
    part = page.evaluate(ask)
    assert part["to"] - part["from"] == pytest.approx((whole["to"] - whole["from"]) / 1.6**2)
    page.get_by_role("treeitem").first.focus()
    page.keyboard.press("ArrowRight")
    moved = page.evaluate(ask)
    assert moved["from"] > part["from"]
    assert moved["to"] - moved["from"] == pytest.approx(part["to"] - part["from"])
    page.get_by_role("button", name="Fit").click()
    assert page.evaluate(ask) == pytest.approx(whole)


# Details


def test_the_answer_is_shown_with_its_table(page):
    expect(page.locator("#question")).to_have_text(swarm_page_world.QUESTION)
    expect(page.locator("#answer strong").first).to_have_text("6")
    expect(page.locator("#answer tbody tr")).to_have_count(len(CELSIUS))


def test_choosing_an_agent_opens_its_whole_conversation(page):
    row(page, "Gold reader").click()
    conversation = page.locator("#conversation")
    expect(conversation.get_by_text("Find Gold. Give its melting point in °C.")).to_be_visible()
    expect(conversation.get_by_text("You find one number")).to_be_hidden()
    conversation.get_by_text("System prompt").click()
    expect(conversation.get_by_text("You find one number")).to_be_visible()
    expect(conversation.locator(".thoughts").first).to_be_hidden()
    conversation.get_by_text("Thinking", exact=True).first.click()
    expect(conversation.locator(".thoughts").first).to_contain_text("what is still missing")
    expect(conversation.get_by_label("Tool call fetch").first).to_contain_text("https://a/Gold/a")
    expect(conversation.get_by_label("Tool call fetch").first).to_contain_text("Gold melts at 1064 °C.")
    expect(conversation.get_by_text("The agent ended: answered")).to_be_visible()


def test_images_of_results_are_shown(page):
    row(page, "Gold reader").click()
    image = page.locator("#conversation img").first
    image.scroll_into_view_if_needed()
    page.wait_for_function("image => image.complete && image.naturalWidth === 240", arg=image.element_handle())


def test_a_failed_call_says_why(page):
    row(page, "Tin reader").click()
    card = page.locator("#conversation .card.wrong")
    expect(card).to_contain_text("failed: timeout")
    expect(card).to_contain_text("The server did not answer within 20 s.")


def test_choosing_a_call_on_the_timeline_goes_to_it(page, state):
    page.mouse.click(*page.evaluate(PLACE, [named(state, "Vanadium reader").id, 6]))
    expect(page.get_by_label("Tool call python")).to_be_in_viewport()


def test_a_task_leads_to_the_agent_that_did_it(page):
    row(page, "main").click()
    card = page.locator("#conversation .card").filter(has_text="Find Zinc.")
    card.get_by_role("button", name="Open the agent's conversation").click()
    expect(page.locator("#agent-head h2")).to_have_text("Zinc reader")


def test_everything_is_reached_by_keyboard(page):
    page.get_by_role("treeitem").first.focus()
    for _ in range(3):
        page.keyboard.press("ArrowDown")
    chosen = page.locator(":focus").get_attribute("data-agent")
    page.keyboard.press("Enter")
    expect(page.locator(f"[data-agent='{chosen}']")).to_have_attribute("aria-selected", "true")
    expect(page.locator("#conversation .turn").first).to_be_visible()
    page.get_by_role("tab", name="Conversation").focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator("#view-artifacts")).to_be_visible()


def test_a_reload_finds_the_open_agent_again(page):
    row(page, "Lead reader").click()
    page.reload()
    expect(page.locator("#agent-head h2")).to_have_text("Lead reader")


def test_faults_are_listed_with_their_agents(page, state):
    assert any(fault.what.startswith("model call retried") for fault in state.faults)
    page.get_by_role("tab", name="Faults").click()
    expect(page.locator("#faults li")).to_have_count(len(state.faults))
    expect(page.locator("#faults")).to_contain_text("Tin reader: tool call: timeout")


def test_artifacts_are_downloads(page):
    page.get_by_role("tab", name="Artifacts").click()
    expect(page.locator("#artifacts li")).to_have_count(len(CELSIUS))
    with page.expect_download() as download:
        page.get_by_role("link", name="zinc.csv").click()
    assert download.value.suggested_filename == "zinc.csv"
    assert download.value.path().read_text() == "Zinc,420\n"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_contrast_in_light_and_dark(open_page, folder, scheme):
    page = open_page(folder, color_scheme=scheme)
    expect(page.locator("#state")).to_have_text("answered")
    for selector in ("#question", "#legend li", "#rows .count", ".axis-label", "#counters dt"):
        assert page.locator(selector).first.evaluate(CONTRAST) >= 4.5, selector


CONTRAST = """node => {
    const light = (colour) => {
        const parts = colour.match(/[\\d.]+/g).slice(0, 3).map((part) => part / 255);
        const [r, g, b] = parts.map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    let ground = node;
    while (getComputedStyle(ground).backgroundColor === "rgba(0, 0, 0, 0)") ground = ground.parentElement;
    const pair = [light(getComputedStyle(node).color), light(getComputedStyle(ground).backgroundColor)];
    return (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
}"""


# Runs under way


@pytest.fixture
def elsewhere(tmp_path):
    """A run in another process, which waits for the file `gate`."""
    folder, gate = tmp_path / "run", tmp_path / "gate"
    process = subprocess.Popen([sys.executable, swarm_page_world.__file__, folder, gate])
    yield folder, gate, process
    process.kill()
    process.wait()


@pytest.mark.slow
def test_a_run_in_another_process_is_followed_to_its_end(open_page, elsewhere):
    folder, gate, _ = elsewhere
    page = open_page(folder)
    expect(page.locator("#state")).to_have_text("running")
    expect(row(page, "Gold reader").locator(".count")).to_contain_text("fetch")
    expect(counter(page, "agents live")).to_have_text("3 / 3")
    row(page, "Gold reader").click()
    expect(page.locator("#conversation .card")).to_contain_text("under way")
    gate.touch()
    expect(page.locator("#state")).to_have_text("answered")
    expect(page.locator("#conversation .card")).to_contain_text("https://a/Gold/a")
    expect(page.locator("#conversation")).to_contain_text("done")
    page.get_by_role("tab", name="Answer").click()
    expect(page.locator("#answer")).to_contain_text("of 2 metals melt below 200 °C")


def test_the_page_may_be_opened_before_the_run_begins(open_page, tmp_path):
    page = open_page(tmp_path)
    expect(page.locator("#state")).to_have_text("not begun")
    finished_run(tmp_path, metals=("Gold",))
    expect(page.locator("#state")).to_have_text("answered")


def test_a_run_that_was_killed_is_shown_as_interrupted(open_page, elsewhere):
    folder, _, process = elsewhere
    page = open_page(folder)
    expect(row(page, "Gold reader").locator(".count")).to_contain_text("fetch")
    row(page, "Gold reader").click()
    expect(page.locator("#conversation .card")).to_contain_text("under way")
    process.kill()
    expect(page.locator("#state")).to_have_text("interrupted")
    expect(page.locator("#conversation .card")).to_contain_text("cut off")
    expect(counter(page, "agents live")).to_have_text("0 / 3")


@pytest.mark.slow
def test_a_run_taken_up_again_leaves_out_the_time_between(open_page, elsewhere):
    folder, gate, process = elsewhere
    page = open_page(folder)
    expect(row(page, "Lead reader").locator(".count")).to_contain_text("fetch")
    process.kill()
    expect(page.locator("#state")).to_have_text("interrupted")
    gate.touch()
    subprocess.run([sys.executable, swarm_page_world.__file__, folder, gate], check=True, timeout=240)
    expect(page.locator("#state")).to_have_text("answered")
    ask = "async () => { const { run } = await import('/page/app.js'); return [run.update.resumed, run.now()]; }"
    (resumed,), end = page.evaluate(ask)
    with RunFolder(folder).reader() as reader:
        times = [entry.time for entry in reader.entries()]
    assert 0 < resumed < end < times[-1] - times[0]


def test_a_cancelled_agent_ends_where_it_was_cancelled(open_page, tmp_path):
    gate = tmp_path / "gate"

    async def cancel_one():
        swarm = gated_run(tmp_path / "run", gate)
        going = asyncio.create_task(swarm.run("q"))
        while len(swarm.running()) < 3:
            await asyncio.sleep(0.01)
        assert swarm.cancel(next(name for name in swarm.running() if name.startswith("gold")))
        await asyncio.sleep(0.3)
        gate.touch()
        return await going

    assert complete(cancel_one()).reason == "answered"
    page = open_page(tmp_path / "run")
    row(page, "Gold reader").click()
    expect(page.locator("#conversation")).to_contain_text("The agent ended: cancelled")
    ends = """async () => {
        const { run, timeline } = await import("/page/app.js");
        const agent = run.rows.find((each) => each.name === "Gold reader");
        const { left, width } = timeline.rectangle(agent, agent.placed.at(-1));
        const range = timeline.range();
        return [(left + width) / timeline.width * (range.to - range.from), agent.ended, run.now()];
    }"""
    drawn, ended, now = page.evaluate(ends)
    assert drawn == pytest.approx(ended, abs=0.02)
    assert ended < now - 0.25


def test_readers_that_leave_do_not_disturb_those_that_stay(open_page, elsewhere):
    folder, gate, _ = elsewhere
    page = open_page(folder)
    expect(counter(page, "agents live")).to_have_text("3 / 3")
    for _ in range(20):
        urllib.request.urlopen(f"{page.url}updates", timeout=120).close()
    gate.touch()
    expect(page.locator("#state")).to_have_text("answered")
    expect(counter(page, "tool calls")).to_have_text("6")


# Size


@pytest.mark.slow
def test_a_hundred_agents_with_fifteen_calls_each_need_few_elements(open_page, tmp_path):
    largest_run(tmp_path)
    page = open_page(tmp_path)
    expect(page.locator("#state")).to_have_text("answered")
    expect(page.get_by_role("treeitem")).to_have_count(101)
    assert page.evaluate("document.querySelectorAll('*').length") < 1_000
    count = "async () => (await import('/page/app.js')).run.rows.reduce((sum, agent) => sum + agent.spans.length, 0)"
    assert page.evaluate(count) == 100 * 31 + 200 + 3
