"""Draw the screenshot of the documentation: `python tests/serve_page/take_screenshot.py docs/images/chat-page.png`."""

import sys
import tempfile
from pathlib import Path

from browser import running_browser
from fastapi import FastAPI
from openai_stand_in import Finish, StandIn, call, running_stand_in, say, think
from PIL import Image, ImageDraw, ImageFont

from k25.serve.page import page_routes

TOOL = """[{"type": "function", "function": {"name": "get_weather", "description": "Weather now",
"parameters": {"type": "object", "properties": {"city": {"type": "string"}, "unit": {"enum": ["celsius"]}}}}}]"""
RAIN = {"Jan": 99, "Mar": 54, "May": 46, "Jul": 5, "Sep": 33, "Nov": 128}


def chart(path: Path) -> None:
    scale = 2
    image = Image.new("RGB", (360 * scale, 210 * scale), "white")
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(12 * scale)
    draw.text((16 * scale, 10 * scale), "Lisbon, rain per month (mm)", "#333", ImageFont.load_default(14 * scale))
    for at, (month, millimetres) in enumerate(RAIN.items()):
        left, top = (28 + at * 54) * scale, (180 - millimetres) * scale
        draw.rectangle((left, top, left + 32 * scale, 180 * scale), "#4b7bd8")
        draw.text((left + 16 * scale, top - 3 * scale), str(millimetres), "#333", font, anchor="mb")
        draw.text((left + 16 * scale, 185 * scale), month, "#333", font, anchor="mt")
    image.save(path)


def script(stand_in: StandIn) -> None:
    stand_in.seconds_per_delta = 0.04
    first = "The bars read 99, 54, 46, 5, 33 and 128, so November is the tallest. The second question is about now: "
    first += "the chart cannot tell, I need the weather."
    stand_in.answer(
        think(*[word + " " for word in first.split()]),
        call(0, "get_weather", '{"city": "Lisbon",', ' "unit": "celsius"}'),
        Finish("tool_calls", {"prompt_tokens": 246, "completion_tokens": 58, "cached_tokens": 192}),
    )
    text = (
        "**November** is the wettest month shown, with 128 mm, about 25 times as much as July (5 mm).\n\n"
        "Right now it is dry:\n\n- 19 °C and clear, a light north-west wind\n- no rain before tomorrow evening\n\n"
        "So a walk without an umbrella is fine today."
    )
    thoughts = "The result says clear, 19 degrees, no rain until tomorrow evening. I can answer both questions now."
    stand_in.answer(
        think(*[word + " " for word in thoughts.split()]),
        say(*[word + " " for word in text.split(" ")]),
        Finish("stop", {"prompt_tokens": 371, "completion_tokens": 89, "cached_tokens": 304}),
    )


def main(out: str) -> None:
    app = FastAPI()
    app.include_router(page_routes(100_000_000))
    with tempfile.TemporaryDirectory() as folder, running_stand_in(app) as stand_in, running_browser() as browser:
        picture = Path(folder) / "rain.png"
        chart(picture)
        script(stand_in)
        page = browser.new_page(viewport={"width": 980, "height": 1190}, color_scheme="light")
        page.goto(stand_in.url)
        page.locator("#tools").evaluate("(field, text) => { field.value = text; }", TOOL)
        page.set_input_files("#files", picture)
        page.locator("#attachments img").wait_for()
        page.fill("#question", "Which month is the wettest in this chart? And do I need an umbrella in Lisbon now?")
        page.keyboard.press("Enter")
        page.get_by_label("Result of get_weather").fill(
            '{"sky": "clear", "celsius": 19, "wind": "north-west, light", "rain": "tomorrow 19:00"}'
        )
        page.get_by_role("button", name="Send result").click()
        page.get_by_text("umbrella is fine").wait_for()
        page.get_by_text("Thought for").first.click()
        page.locator("#scroll").evaluate("(area) => { area.scrollTop = 0; }")
        page.mouse.move(5, 400)
        page.wait_for_timeout(500)
        page.screenshot(path=out)


if __name__ == "__main__":
    main(sys.argv[1])
