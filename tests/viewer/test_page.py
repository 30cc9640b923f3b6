"""The pages in a real browser: the system's Chromium, driven by playwright."""

import threading

import pytest

from diptych.serve.run import listen, serve
from diptych.viewer.app import Site
from diptych.viewer.checked import of_source
from diptych.viewer.file import page as one_file


@pytest.fixture(scope="module")
def address(table):
    site = Site(of_source(str(table[0]), val=str(table[1])))
    listening = listen("127.0.0.1", 0)
    started = threading.Event()
    stops = []
    settings = {"make_app": site.app, "started": started.set, "stops": stops.append}
    thread = threading.Thread(
        target=serve, args=(site.service, listening, "127.0.0.1"), kwargs=settings
    )
    thread.start()
    assert started.wait(30)
    with site.reading():
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
    stops[0]()
    thread.join(20)
    assert not thread.is_alive()


@pytest.fixture
def page(browser):
    context = browser.new_context(viewport={"width": 1280, "height": 860})
    context.set_default_timeout(30_000)
    opened = context.new_page()
    opened.problems = []
    opened.on("pageerror", lambda error: opened.problems.append(str(error)))
    opened.on(
        "console",
        lambda said: (
            None
            if "404" in said.text or said.type != "error"
            else opened.problems.append(said.text)
        ),
    )
    yield opened
    assert opened.problems == []
    context.close()


def fits(page):
    return page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_findings_lead_to_samples_and_classes_are_chosen(page, address):
    from playwright.sync_api import expect

    page.goto(address)
    page.wait_for_selector("#leakage")
    page.locator("#leakage .mini").first.click()
    page.wait_for_url("**/sample/1/*")
    expect(page.locator(".alone img")).to_have_js_property("naturalWidth", 1280)  # 40, enlarged
    page.goto(address)
    page.locator("#damaged .mini").first.focus()
    page.keyboard.press("Enter")
    page.wait_for_url("**/sample/0/*")
    page.get_by_role("link", name="Previous").click()
    page.get_by_role("link", name="Samples").click()
    page.select_option("#of", label="dog")
    page.get_by_role("button", name="Show").click()
    page.wait_for_url("**/samples?of=*")
    assert page.locator("article.sample").count() == 13


@pytest.mark.parametrize("width", [1280, 768, 390])
def test_pages_fit_their_width(page, address, table, tmp_path, width):
    page.set_viewport_size({"width": width, "height": 800})
    page.goto(address)
    page.wait_for_selector("#leakage")
    assert fits(page)
    page.goto(f"{address}sample/0/3")
    assert fits(page)
    out = tmp_path / "page.html"
    out.write_text(one_file(of_source(str(table[0]), quick=True), count=9), "utf-8")
    page.goto(out.as_uri())
    assert fits(page)
    assert page.locator("article").count() == 9


def test_boxes_are_over_the_picture_and_can_be_hidden(page, tmp_path):
    out = tmp_path / "page.html"
    source = "scenes:count=2:number=2"
    out.write_text(one_file(of_source(source, quick=True)), "utf-8")
    page.goto(out.as_uri())
    picture = page.locator(".stack img").first.bounding_box()
    boxes = page.locator("svg.boxes").first.bounding_box()
    assert boxes == pytest.approx(picture, abs=1)
    page.uncheck(".show-boxes")
    assert not page.locator("svg.boxes").first.is_visible()
