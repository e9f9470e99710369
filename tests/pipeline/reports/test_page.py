"""The page, driven in headless Chromium: it works, asks for nothing, and what comes from outside is text."""

from __future__ import annotations

import base64
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mma.pipeline.fitting.protocols import FewShot
from mma.pipeline.reports.hardest import MOST
from mma.pipeline.reports.make_report import make_report
from mma.pipeline.reports.page import Beyond, page
from mma.pipeline.reports.sheets import lay_out

from . import runs

SCRIPT = "</script><script>alert(1)</script>"
PIXEL = base64.b64decode("R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7")  # the smallest picture there is
FLAGS = (
    "headless=new",
    "no-sandbox",
    "disable-gpu",
    "no-first-run",
    "disable-background-networking",
    "disable-component-update",
    "disable-sync",
    "window-size=1200,900",
)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of two data sets, one with names that want to be more than text."""
    folder = tmp_path_factory.mktemp("page")
    names = [SCRIPT, "\u202egnp.exe", "<img src=x onerror=alert(2)>", "{{ 7 * 7 }}"]
    said = {"fingerprint": {"classnames": names}, "cache": f"cache/{SCRIPT}.zarr"}
    for dataset in ("birds", f"{SCRIPT}\u202e"):
        runs.record(folder, runs.setting_of("zero-shot", dataset, FewShot()), [0], 0.5, **said)
        for shots, right in ((2, 0.6), (8, 0.8)):
            runs.record(folder, runs.setting_of("taskres", dataset, FewShot(shots=shots)), range(2), right, **said)
            runs.record(folder, runs.setting_of("gda", dataset, FewShot(shots=shots)), range(2), right - 0.1, **said)
    path = folder / "page.html"
    beyond = Beyond(lambda cache, row: (f"{SCRIPT}/{row}.jpg", PIXEL if row % 2 else None))
    path.write_text(page(lay_out(make_report(folder)), beyond), encoding="utf-8")
    return path


@pytest.mark.slow
def test_text_from_outside_is_escaped(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert text.count("<script") == 2  # the commands, and the page's own
    assert "<img src=x" not in text
    assert all(tag.startswith('<img src="data:image/jpeg;base64,') for tag in re.findall(r"<img[^>]*", text))
    assert "\u202e" not in text
    assert "{{ 7 * 7 }}" in text
    assert "&lt;/script&gt;&lt;script&gt;alert(1)" in text


def test_the_hardest_images_stand_with_path_and_picture_where_they_are_at_hand(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    section = text.partition('id="hardest"')[2].partition("</section>")[0]
    rows = [int(row) for row in re.findall(r"/(\d+)\.jpg", section)]
    assert len(rows) == 2 * MOST
    assert section.count("<img") == sum(row % 2 for row in rows)


def test_the_page_holds_all_it_needs(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert "default-src 'none'" in text
    for word in ('src="http', "url(http", "@import", '<link rel="stylesheet'):
        assert word not in text


@pytest.fixture(scope="module")
def browser(file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    webdriver = pytest.importorskip("selenium.webdriver", reason="no selenium: pip install 'mma[test]'")
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("no chromium and chromedriver (Debian: chromium, chromium-driver)")
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (*FLAGS, f"user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    with webdriver.Chrome(options=options, service=Service(driver)) as started:
        yield started


@pytest.fixture
def opened(browser: Any, file: Path) -> Any:
    browser.get(file.as_uri())
    return browser


def test_nothing_is_said_on_the_console_and_nothing_is_asked_of_the_network(browser: Any, file: Path) -> None:
    for log in ("browser", "performance"):
        browser.get_log(log)  # of the pages before
    browser.get(file.as_uri())
    assert browser.get_log("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    sent = [e["params"] for e in events if e["method"] == "Network.requestWillBeSent"]
    asked = [each["request"]["url"] for each in sent if each["documentURL"] == file.as_uri()]
    assert [url for url in asked if not url.startswith("data:")] == [file.as_uri()]


@pytest.mark.slow
def test_a_click_on_a_head_sorts_by_it_and_another_turns_it_round(opened: Any) -> None:
    table = opened.find_elements("css selector", "section[aria-labelledby=settings] table")[0]
    button = next(b for b in table.find_elements("css selector", ".sort") if b.text.strip() == "accuracy")

    def column() -> list[float]:
        script = "return [...arguments[0].tBodies[0].rows].map((row) => row.cells[2].dataset.v)"
        return [float(value) for value in opened.execute_script(script, table)]

    before = column()
    button.click()
    assert column() == sorted(before, reverse=True) != before
    assert button.find_element("xpath", "./..").get_attribute("aria-sort") == "descending"
    button.click()
    assert column() == sorted(before)


@pytest.mark.slow
def test_the_filter_leaves_rows_that_have_all_its_words(opened: Any) -> None:
    opened.find_element("id", "filter").send_keys("taskres better")
    shown = [row for row in opened.find_elements("css selector", "tbody tr") if row.is_displayed()]
    assert shown
    assert all("taskres" in row.text and "better" in row.text for row in shown)
    assert opened.find_element("id", "count").text.startswith(f"{len(shown)} of ")


@pytest.mark.slow
def test_copy_takes_the_command_of_the_row(opened: Any, file: Path) -> None:
    opened.execute_cdp_cmd(
        "Browser.grantPermissions", {"permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]}
    )
    group = lay_out(make_report(file.parent)).report.groups[0]
    wanted = {row.command for row in group.rows}
    button = opened.find_elements("css selector", "section[aria-labelledby=settings] .copy")[1]
    button.click()
    copied = opened.execute_async_script("navigator.clipboard.readText().then(arguments[0], arguments[0])")
    assert sorted(copied.split()) in [sorted((command or "").split()) for command in wanted]
    assert copied.startswith("mma ablate --cache ")
    assert "Copied: mma ablate" in opened.find_element("id", "copied").text


@pytest.mark.slow
def test_the_theme_switches(opened: Any) -> None:
    colour = "return getComputedStyle(document.body).backgroundColor"
    before = opened.execute_script(colour)
    opened.find_element("id", "theme").click()
    assert opened.execute_script(colour) != before
    opened.find_element("id", "theme").click()
    assert opened.execute_script(colour) == before


@pytest.mark.slow
def test_every_control_and_figure_has_a_name_for_a_screen_reader(opened: Any) -> None:
    tree = opened.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    shown = [node for node in tree if not node.get("ignored")]
    wanted = ("button", "textbox", "searchbox", "table", "region", "image", "img", "link")
    named = [
        (node["role"]["value"], node.get("name", {}).get("value", ""))
        for node in shown
        if node["role"]["value"] in wanted
    ]
    assert {"button", "searchbox", "table", "region"} <= {role for role, _ in named}
    assert {"img", "image"} & {role for role, _ in named}
    assert [role for role, name in named if not name.strip()] == []


@pytest.mark.slow
def test_the_page_is_worked_by_the_keyboard(opened: Any) -> None:
    from selenium.webdriver.common.keys import Keys

    opened.find_element("tag name", "body").send_keys(Keys.TAB)
    assert opened.switch_to.active_element.text == "Skip to every setting"
    opened.switch_to.active_element.send_keys(Keys.TAB)
    assert opened.switch_to.active_element.get_attribute("id") == "filter"
    opened.switch_to.active_element.send_keys(Keys.TAB)
    opened.switch_to.active_element.send_keys(Keys.ENTER)
    assert opened.find_element("tag name", "html").get_attribute("data-theme") in ("dark", "light")


@pytest.mark.slow
def test_the_page_fits_a_phone(opened: Any) -> None:
    opened.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}
    )
    opened.get(opened.current_url)
    wide = opened.execute_script("return document.documentElement.scrollWidth")
    opened.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert wide <= 360
