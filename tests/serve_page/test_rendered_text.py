"""What models write becomes text and a few known elements, never HTML of its own; headers stop the rest."""

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from k25.serve.page import page_routes

ALLOWED = {"P", "STRONG", "EM", "CODE", "PRE", "UL", "OL", "LI", "A", "BLOCKQUOTE", "HR", "H3", "H4", "H5", "H6"}
ALLOWED |= {"TABLE", "THEAD", "TBODY", "TR", "TH", "TD"}
ALLOWED |= {"DIV", "SPAN", "BUTTON"}  # frames of code blocks and tables
RENDER = """async (texts) => {
    const { renderMarkdown } = await import("/page/markdown.js");
    const box = document.createElement("div");
    for (const text of texts) renderMarkdown(box, text);
    return box;
}"""


def tags(box):
    return set(box.evaluate("box => [...box.querySelectorAll('*')].map(node => node.tagName)"))


@pytest.fixture
def render(page):
    return lambda *texts: page.evaluate_handle(RENDER, list(texts)).as_element()


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("a **b** *c* `d`", "<p>a <strong>b</strong> <em>c</em> <code>d</code></p>"),
        ("# A\n\ntext", "<h3>A</h3><p>text</p>"),
        ("- a\n- b\n  - c", "<ul><li>a</li><li>b<ul><li>c</li></ul></li></ul>"),
        ("3. a\n4. b", '<ol start="3"><li>a</li><li>b</li></ol>'),
        ("> a\n> b", "<blockquote><p>a\nb</p></blockquote>"),
        ("a\n\n---\n\nb", "<p>a</p><hr><p>b</p>"),
        ("2 * 3 * 4, a_b_c, **open", "<p>2 * 3 * 4, a_b_c, **open</p>"),
        ("`**not bold**`", "<p><code>**not bold**</code></p>"),
    ],
)
def test_the_subset_of_markdown(render, text, html):
    assert render(text).inner_html() == html


def test_code_blocks_keep_their_text_and_language(render):
    block = render("before\n```python\nif a < b:\n    pass\n```\nafter")
    assert block.query_selector("pre code").text_content() == "if a < b:\n    pass"
    assert block.query_selector(".code-head span").text_content() == "python"
    assert block.query_selector_all("p")[1].text_content() == "after"


def test_tables_are_tables(render):
    table = render("|a|b|\n|-|-|\n|1|**2**|")
    assert [cell.text_content() for cell in table.query_selector_all("th, td")] == ["a", "b", "1", "2"]


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("[docs](https://example.org/a_(b))", "https://example.org/a_(b)"),
        ("see https://example.org/x.", "https://example.org/x"),
        ("[mail](mailto:a@example.org)", "mailto:a@example.org"),
    ],
)
def test_links_of_safe_schemes_open_apart(render, text, address):
    link = render(text).query_selector("a")
    assert link.get_attribute("href") == address
    assert link.get_attribute("rel") == "noopener noreferrer nofollow"
    assert link.get_attribute("target") == "_blank"


@pytest.mark.parametrize(
    "text",
    [
        "[x](javascript:alert(1))",
        "[x](JaVaScRiPt:alert)",
        "[x](data:text/html,<script>alert(1)</script>)",
        "[x](/v1/models)",
        "[x](vbscript:x)",
        "[x](file:///etc/passwd)",
    ],
)
def test_other_links_stay_text(render, text):
    box = render(text)
    assert box.query_selector("a") is None
    assert box.text_content() == text


@pytest.mark.parametrize(
    "text",
    [
        "<script>window.hacked = 1</script>",
        "<img src=x onerror='window.hacked = 1'>",
        "**<svg onload=alert(1)>**",
        "```\n</code></pre><script>window.hacked = 1</script>\n```",
        "[<img src=x>](https://example.org)",
    ],
)
def test_html_stays_text(page, render, text):
    box = render(text)
    assert tags(box) <= ALLOWED
    assert page.evaluate("window.hacked") is None


MARKS = st.lists(
    st.sampled_from([*"`*_[]()#>|-~\n\t 1.ah<&", "```", "**", "](", "https://", "\n\n", "  - "]), max_size=60
)


@pytest.mark.slow
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pieces=MARKS)
def test_any_text_becomes_known_elements_and_growing_it_changes_nothing(render, pieces):
    text = "".join(pieces)
    whole = render(text)
    assert tags(whole) <= ALLOWED
    assert render(*[text[:end] for end in range(0, len(text), 7)], text).inner_html() == whole.inner_html()


def test_hostile_lengths_take_no_time(page):
    for text in ("*a " * 30_000, "`" * 50_001, "[" * 50_000, "**" * 30_000, "> " * 20_000, "- " * 5_000, "|-" * 30_000):
        page.evaluate(RENDER, [text])


def test_headers_keep_everything_foreign_out():
    app = FastAPI()
    app.include_router(page_routes(1_000))
    client = TestClient(app)
    parts = ["/", *(f"/page/{name}" for name in ("app.js", "style.css", "icon.svg", "markdown.js"))]
    for answer in map(client.get, parts):
        policy = answer.headers["content-security-policy"]
        assert answer.status_code == 200
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
    assert client.get("/page/app.js").headers["content-type"].startswith("text/javascript")
    assert client.get("/page/../__init__.py").status_code == 404
    assert 'content="1000"' in client.get("/").text
