"""A real Chromium without a window, for tests of the HTML pages."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
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


class Page:
    """A page that has been opened and has drawn all its charts."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver

    def js(self, expression: str, *values: Any) -> Any:
        """The value of a JavaScript expression; values are arguments[0] and so on."""
        return self.driver.execute_script(f"return {expression}", *values)

    def wait(self, expression: str, seconds: float = 60) -> None:
        """Until a JavaScript expression holds."""
        WebDriverWait(self.driver, seconds).until(lambda _: self.js(expression), f"never came true: {expression}")

    def errors(self) -> list[str]:
        """What the console has complained of since the last call."""
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]

    def requests(self) -> list[str]:
        """Addresses that the page has fetched, itself apart."""
        return self.js(
            "performance.getEntriesByType('resource').map((r) => r.name).filter((n) => !n.startsWith('data:'))"
        )

    def screenshot(self, name: str) -> Path:
        """The whole length of the page, for people to look at."""
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        width, height = self.js("[innerWidth, Math.min(12000, document.documentElement.scrollHeight)]")
        self.resize(width, height)
        file = SCREENSHOTS / f"{name}.png"
        self.driver.save_screenshot(str(file))
        return file

    def resize(self, width: int, height: int) -> None:
        """As a screen of this many CSS pixels."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def overflows(self) -> bool:
        """Whether the page as a whole would scroll sideways."""
        return self.js("document.documentElement.scrollWidth > innerWidth")


@contextmanager
def opened(file: Path, size: tuple[int, int] = DESKTOP, *, dark: bool = False) -> Iterator[Page]:
    """Open an HTML file, offline.

    Skips the test where there is no Chromium: on Debian, ``apt-get install chromium chromium-driver``.
    """
    driver_path = shutil.which("chromedriver")
    if driver_path is None or shutil.which("chromium") is None:
        pytest.skip("no Chromium here; on Debian: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = str(shutil.which("chromium"))
    for flag in FLAGS:
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver_path))
    try:
        page = Page(driver)
        page.resize(*size)
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
