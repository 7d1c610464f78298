"""Draw the documentation's screenshot: `python tests/swarm_page/take_swarm_screenshot.py docs/images/swarm-page.png`.

`--measure` in place of the file prints how long Chromium takes for 100 agents with 15 tool calls each.
"""

import sys
import tempfile
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "serve_page"))

from browser import running_browser
from swarm_page_world import finished_run, largest_run, running_page

MEASURE = """async () => {
    const { run, timeline } = await import("/page/app.js");
    const middle = (work) => {
        const times = [];
        for (let round = 0; round < 21; round += 1) {
            const began = performance.now();
            work();
            times.push(performance.now() - began);
        }
        return times.sort((a, b) => a - b)[10];
    };
    const update = await new Promise((resolve) => {
        const source = new EventSource("/updates");
        source.onmessage = (event) => { source.close(); resolve(event.data); };
    });
    const draw = () => { timeline.draw(); timeline.pen.getImageData(0, 0, 1, 1); };
    const whole = () => { timeline.list(run.apply(JSON.parse(update)), []); draw(); };
    return { draw: middle(draw), whole: middle(whole), bytes: update.length };
}"""


def measure():
    with tempfile.TemporaryDirectory() as folder, running_browser() as browser:
        largest_run(Path(folder))
        with running_page(Path(folder)) as url:
            page = browser.new_page(viewport={"width": 1500, "height": 900})
            page.goto(url)
            page.get_by_text("all done").wait_for()
            for name, height in (("33 rows in view", 900), ("all 101 rows in view", 2750)):
                page.set_viewport_size({"width": 1500, "height": height})
                page.wait_for_timeout(300)
                took = page.evaluate(MEASURE)
                drawing = f"drawing {took['draw']:.1f} ms"
                whole = f"taking in all of it ({took['bytes']:,} bytes) and drawing {took['whole']:.1f} ms"
                sys.stdout.write(f"{name}: {drawing}, {whole}; medians of 21\n")


def take(out):
    with tempfile.TemporaryDirectory() as folder, running_browser() as browser:
        finished_run(Path(folder), seconds=0.4)
        with running_page(Path(folder)) as url:
            page = browser.new_page(viewport={"width": 1500, "height": 905}, color_scheme="light")
            page.goto(url)
            page.get_by_role("treeitem").filter(has_text="Tin reader").click()
            page.locator("#conversation .card.wrong").wait_for()
            page.locator("#view-agent").evaluate("view => { view.scrollTop = 330; }")
            page.mouse.move(700, 5)
            page.wait_for_timeout(1_500)
            page.screenshot(path=out)


if __name__ == "__main__":
    measure() if sys.argv[1] == "--measure" else take(sys.argv[1])
