"""A headless Chromium, with a microphone into which a recording is spoken."""

from __future__ import annotations

import os
import shutil
from contextlib import asynccontextmanager

import pytest

from tests.conftest import ROOT

CHROMIUM = shutil.which("chromium")
RECORDING = ROOT / "examples" / "talk.es.wav"


@asynccontextmanager
async def launched(recording=RECORDING):
    """A browser whose microphone hears a recording once, from when it is opened."""
    from playwright.async_api import async_playwright

    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=[
                "--no-sandbox",  # it cannot be had as root in a container, and the pages are our own
                "--use-fake-device-for-media-stream",
                "--use-fake-ui-for-media-stream",
                f"--use-file-for-fake-audio-capture={recording}%noloop",
                "--autoplay-policy=no-user-gesture-required",
            ],
        )
        yield browser
        await browser.close()


@pytest.fixture(name="browser", scope="session")
async def _browser():
    missing = None
    if CHROMIUM is None:
        missing = "Chromium is not installed (Debian: apt-get install chromium; make e2e does it)"
    else:
        try:
            import playwright  # noqa: F401
        except ImportError:
            missing = "Playwright is not installed (pip install playwright; make e2e does it)"
    if missing is None:
        async with launched() as browser:
            yield browser
    elif os.environ.get("CI"):
        pytest.fail(missing)
    else:
        pytest.skip(missing)


@pytest.fixture(name="page")
async def _page(browser):
    """An empty page, in which errors of scripts fail the test."""
    async with opened(browser) as page:
        yield page


@asynccontextmanager
async def opened(browser, **options):
    """A page in a profile of its own; an error of its scripts, or a refused resource, is one of the test."""
    context = await browser.new_context(**options)
    page = await context.new_page()
    problems = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on(
        "console",
        lambda message: problems.append(message.text) if "Content Security Policy" in message.text else None,
    )
    try:
        yield page
        assert problems == []
    finally:
        await context.close()
