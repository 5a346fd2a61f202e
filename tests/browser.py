"""A real Chromium without a window, for tests of the HTML pages."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

SCREENSHOTS = Path(__file__).parent.parent / ".ci" / "screenshots"
FLAGS = [
    "headless",
    "no-sandbox",
    "disable-gpu",
    "disable-quic",
    "no-first-run",
    "disable-dev-shm-usage",
    "hide-scrollbars",
    "disable-background-networking",
    "disable-component-update",
    "disable-sync",
]
DESKTOP, PHONE = (1280, 900), (390, 844)
LONGEST = 12_000
"""Pixels of a screenshot, from top to bottom."""

UNDRAWN = """[...document.querySelectorAll('.chart')].filter((chart) => {
  const marks = '.scatterlayer path.js-line, .scatterlayer path.point, .barlayer path, .boxlayer path, '
    + '.violinlayer path, .parcoords canvas, .gl-canvas';
  const pictures = [...chart.querySelectorAll('.heatmaplayer image')];
  const shown = chart.querySelector(marks) || pictures.some((p) => p.href.baseVal.length > 100);
  return !chart.querySelector('svg.main-svg') || !shown;
}).map((chart) => chart.id)"""


class Page:
    """A page that has been opened and has drawn all its charts."""

    def __init__(self, driver: webdriver.Chrome, size: tuple[int, int]) -> None:
        self.driver = driver
        self.resize(*size)

    def js(self, expression: str, *values: Any) -> Any:
        """The value of a JavaScript expression; values are arguments[0] and so on."""
        return self.driver.execute_script(f"return {expression}", *values)

    def wait(self, expression: str, seconds: float = 60) -> None:
        """Until a JavaScript expression holds."""
        WebDriverWait(self.driver, seconds).until(lambda _: self.js(expression), f"never came true: {expression}")

    def unfold(self) -> None:
        """Open all that is folded away, and wait until it is drawn."""
        self.js("document.querySelectorAll('section > details').forEach((d) => { d.open = true; })")
        self.wait("[...document.querySelectorAll('.chart')].every((c) => c.data)")
        self.wait("document.documentElement.dataset.drawn")

    def errors(self) -> list[str]:
        """What the console has complained of since the last call."""
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]

    def requests(self) -> list[str]:
        """Addresses that the page has fetched, itself apart."""
        return self.js(
            "performance.getEntriesByType('resource').map((r) => r.name).filter((n) => !n.startsWith('data:'))"
        )

    def undrawn(self) -> list[str]:
        """Names of the charts in which there is nothing to be seen."""
        return self.js(UNDRAWN)

    def tab_to(self, selector: str, at_most: int = 200) -> None:
        """Press Tab until an element that matches the CSS selector has the focus."""
        for _ in range(at_most):
            self.press(Keys.TAB)
            if self.js("document.activeElement.matches(arguments[0])", selector):
                return
        raise AssertionError(f"{at_most} presses of Tab did not reach {selector}")

    def press(self, *keys: str) -> None:
        """Press keys one after the other."""
        ActionChains(self.driver, duration=0).send_keys(*keys).perform()

    def screenshot(self, name: str) -> Path:
        """The whole length of the page, for people to look at."""
        self.wait("document.documentElement.dataset.drawn")
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        width, height = self.size
        self.resize(width, self.js("document.documentElement.scrollHeight"))
        file = SCREENSHOTS / f"{name}.png"
        self.driver.save_screenshot(str(file))
        self.resize(width, height)
        return file

    def resize(self, width: int, height: int) -> None:
        """As a screen of this many CSS pixels."""
        self.size = width, min(height, LONGEST)
        metrics = {"width": width, "height": self.size[1], "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def overflows(self) -> bool:
        """Whether the page as a whole would scroll sideways."""
        return self.js("document.documentElement.scrollWidth > innerWidth")


@contextmanager
def opened(file: Path, size: tuple[int, int] = DESKTOP, *, dark: bool = False) -> Iterator[Page]:
    """Open an HTML file, offline.

    Skips the test where there is no Chromium (on Debian, ``apt-get install chromium chromium-driver``), or fails it
    if S15ERAV3_NEEDS_BROWSER is set, as in CI.
    """
    driver_path, browser = shutil.which("chromedriver"), shutil.which("chromium")
    if driver_path is None or browser is None:
        told = "no Chromium here; on Debian: apt-get install chromium chromium-driver"
        pytest.fail(told) if os.environ.get("S15ERAV3_NEEDS_BROWSER") else pytest.skip(told)
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for flag in FLAGS:
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver_path))
    try:
        page = Page(driver, size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        driver.execute_cdp_cmd("Network.enable", {})
        offline = {"offline": True, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
        driver.execute_cdp_cmd("Network.emulateNetworkConditions", offline)
        driver.get(file.absolute().as_uri())
        page.wait("document.documentElement.dataset.drawn")
        yield page
    finally:
        driver.quit()
