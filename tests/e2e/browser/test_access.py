"""A server that wants a key: the operator's page asks for it; an audience without one reads by the link."""

from __future__ import annotations

import time

import pytest

from tests.e2e.browser.conftest import opened
from tests.e2e.browser.test_pages import SHOWN, translating, until
from tests.workers.conftest import client, running
from workers.access.guard import Guard
from workers.access.keys import KeyRing, add_key, read_keys, revoke_key

START = {"type": "start", "partials": False}


@pytest.fixture(name="keys")
def _keys(tmp_path):
    return tmp_path / "keys.json"


async def enter(page, key):
    await page.get_by_label("Key of this server").fill(key)
    await page.click("text=Use this key")


async def complaint(page, beginning):
    await until(page, f"document.getElementById('problem').textContent.startsWith({beginning!r})")


async def ready(page):
    await page.wait_for_selector("#setup", state="visible")


async def test_who_has_the_key_speaks_and_who_has_the_link_reads(browser, keys, tmp_path):
    key = add_key(keys, "hall", ["speak"], time.time)
    guard = Guard(keys=KeyRing(keys), watch_by_link=True)
    async with (
        translating(guard=guard) as server,
        opened(browser, accept_downloads=True) as operator,
        opened(browser) as viewer,
        opened(browser) as overlay,
    ):
        await operator.goto(server.http)
        await enter(operator, "no key")
        await complaint(operator, "This is no key")
        await enter(operator, "surtitle_0_wrong")
        await complaint(operator, "This key is not accepted")
        await enter(operator, key)
        await ready(operator)
        await operator.reload()
        await ready(operator)  # it was kept
        assert await operator.evaluate("[document.cookie, localStorage.length]") == ["", 0]
        assert not await operator.is_visible("#access")
        await operator.select_option("#source", "es")
        await operator.click("#start")
        await operator.wait_for_selector("#out:not([hidden])")
        assert not await operator.is_visible("#closed")
        link = await operator.get_attribute("#watch", "href")
        assert key not in link
        await viewer.goto(link)
        await overlay.goto(await operator.get_attribute("#overlay", "href"))
        await until(overlay, "document.querySelector('#cue span')")
        await until(viewer, "document.querySelectorAll('#text p').length >= 2")
        await operator.click("#stop")
        await until(operator, "document.body.dataset.state === 'ended'")
        await until(viewer, "document.body.dataset.state === 'ended'")
        meant = await operator.evaluate("[...document.querySelectorAll('.pane')].at(-1).innerText")
        shown = await viewer.evaluate(SHOWN)
        async with operator.expect_download() as waiting:
            await operator.click("a[data-form=txt]")
        await (await waiting.value).save_as(tmp_path / "text.txt")

    assert shown
    assert " ".join(shown).split() == meant.split()
    assert (tmp_path / "text.txt").read_text("utf-8").split() == meant.split()


async def test_a_key_that_is_not_enough_is_asked_for_again(browser, keys):
    watches = add_key(keys, "hall", ["watch"], time.time)
    speaks = add_key(keys, "hall", ["speak"], time.time)
    async with running(guard=Guard(keys=KeyRing(keys))) as server, opened(browser) as page:
        await page.goto(server.http)
        await enter(page, watches)
        await ready(page)
        await page.click("#start")
        await complaint(page, "Nothing can be said with this key (starting streams takes the scope speak)")
        await enter(page, speaks)
        await ready(page)
        await page.click("#start")
        await until(page, "document.body.dataset.state === 'open'")
        await page.wait_for_selector("#closed", state="visible")  # links alone are not enough here
        for identifier in read_keys(keys):
            revoke_key(keys, identifier, time.time)
        for connection in list(server.listener.connections):
            connection.transport.abort()
        await complaint(page, "Nothing can be said with this key (the key is not good)")


async def test_viewers_are_told_that_a_key_is_wanted(browser, keys):
    key = add_key(keys, "hall", ["speak", "watch"], time.time)
    bearer = {"additional_headers": {"Authorization": f"Bearer {key}"}}
    async with (
        running(guard=Guard(keys=KeyRing(keys))) as server,
        client(server.url, START, b"hola.", b".", **bearer) as speaker,
        opened(browser) as page,
    ):
        stream = (await speaker.until("translation"))[0]["stream_id"]
        await page.goto(f"{server.http}/watch/{stream}")
        await until(page, "document.body.dataset.state === 'locked'")
        assert (await page.inner_text("#state")).startswith("These subtitles can be read with a key only")
        followed = await page.evaluate(
            """async ([stream, key]) => {
              const { Watcher } = await import("/pages/surtitle.js");
              const follow = (key) => new Promise((resolve) => {
                const watcher = new Watcher({ stream, key, target: "en" });
                watcher.addEventListener("event", ({ detail }) => {
                  watcher.close();
                  resolve(detail.stable);
                });
                watcher.addEventListener("problem", ({ detail }) => resolve(detail.code));
                watcher.start();
              });
              return [await follow(""), await follow("surtitle_0_wrong"), await follow(key)];
            }""",
            [stream, key],
        )

    assert followed == ["unauthorized", "unauthorized", "en:HOLA"]


async def test_a_stream_goes_on_with_another_key(browser, keys):
    """As with tokens that are renewed while somebody speaks."""
    first, second = (add_key(keys, "hall", ["speak"], time.time) for _ in range(2))
    async with running(guard=Guard(keys=KeyRing(keys))) as server, opened(browser) as page:
        await page.goto(server.http)
        await page.evaluate(
            """async (key) => {
              const { Speaker } = await import("/pages/surtitle.js");
              window.speaker = new Speaker({ key });
              window.said = [];
              speaker.addEventListener("event", ({ detail }) => said.push(detail));
              speaker.start();
              speaker.send(new TextEncoder().encode("uno."));
            }""",
            first,
        )
        await until(page, "said.some((event) => event.final)")
        revoke_key(keys, next(iter(read_keys(keys))), time.time)
        await page.evaluate("(key) => { speaker.key = key; speaker.reconnect(); }", second)
        await page.evaluate("speaker.send(new TextEncoder().encode('dos.')); speaker.stop()")
        await until(page, "speaker.over")
        finals = await page.evaluate(
            "said.filter((e) => e.type === 'transcript' && e.final && e.stable).map((e) => e.stable)"
        )
        state = await page.evaluate("speaker.state")

    assert (finals, state) == (["uno", "dos"], "ended")
