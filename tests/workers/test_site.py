"""Pages need nothing from elsewhere, are sent with a policy that says so, and find all their parts."""

from __future__ import annotations

import re
from http import HTTPStatus
from xml.etree import ElementTree as ET

import pytest

from tests.conftest import ROOT
from workers.site import Site

PAGES = ROOT / "workers/pages"
SITE = Site()


@pytest.mark.parametrize("path", ["/", "/watch/Jq2m8Zr1c-W0vTn5", "/overlay/Jq2m8Zr1c_W0vTn5"])
def test_pages_keep_to_a_strict_policy(path):
    answer = SITE.get(path, {})

    assert (answer.status, answer.content_type) == (HTTPStatus.OK, "text/html; charset=utf-8")
    policy = dict(part.strip().split(" ", 1) for part in answer.headers["Content-Security-Policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Referrer-Policy"] == "no-referrer"
    assert answer.headers["Cache-Control"] == "no-cache"


def test_only_the_operators_page_may_not_be_framed():
    assert "frame-ancestors 'none'" in SITE.get("/", {}).headers["Content-Security-Policy"]
    assert "frame-ancestors" not in SITE.get("/watch/x", {}).headers["Content-Security-Policy"]


@pytest.mark.parametrize("page", sorted(PAGES.iterdir()), ids=lambda page: page.name)
def test_every_reference_leads_to_a_page_of_ours(page):
    text = page.read_text("utf-8")
    references = re.findall(r"""(?:src|href)="([^"#]+)"|(?:from|import|addModule)[ (]+"([^"]+)\"""", text)

    for reference in (one or other for one, other in references):
        path = "/pages/" + reference.removeprefix("./") if reference.startswith("./") else reference
        assert SITE.get(path, {}).status == HTTPStatus.OK
    addresses = re.findall(r"https?://[^\s\"'`)]+", text)
    assert set(addresses) <= {"http://www.w3.org/2000/svg"}  # a name, not a place
    if page.suffix == ".html":
        assert "<style" not in text
        assert "style=" not in text
        assert not re.search(r"<script(?! type=\"module\" src=)", text)
        assert not re.search(r"\son\w+=", text)


@pytest.mark.parametrize(
    ("name", "content_type"),
    [
        ("surtitle.js", "text/javascript; charset=utf-8"),
        ("operator.css", "text/css; charset=utf-8"),
        ("icon.svg", "image/svg+xml"),
    ],
)
def test_parts_of_pages(name, content_type):
    answer = SITE.get(f"/pages/{name}", {})

    assert answer.content_type == content_type
    assert answer.body == (PAGES / name).read_text("utf-8")


@pytest.mark.parametrize(
    "path",
    ["/pages/", "/pages/none.js", "/pages/../site.py", "/pages/x/surtitle.js", "/watch/", "/watch/a/b"],
)
def test_nothing_else_is_there(path):
    assert SITE.get(path, {}) is None


def test_qr_codes_hold_the_link():
    link = "https://example.org:8765/watch/Jq2m8Zr1cW0vTn5x?target=en"
    answer = SITE.get("/qr.svg", {"link": link})
    other = SITE.get("/qr.svg", {"link": link.replace("=en", "=fr")})

    assert answer.content_type == "image/svg+xml"
    assert ET.fromstring(answer.body).tag == "{http://www.w3.org/2000/svg}svg"
    assert answer.body != other.body


@pytest.mark.parametrize(
    "link", ["", "javascript:alert(1)", "ftp://example.org", "http://a b", "http://" + 501 * "x"]
)
def test_what_is_no_link_gets_no_code(link):
    assert SITE.get("/qr.svg", {"link": link}).status == HTTPStatus.BAD_REQUEST
