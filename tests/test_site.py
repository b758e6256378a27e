"""The site builds without a warning, its links lead somewhere, and each picture says what it shows."""

import os
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

import lorasynth

ROOT = Path(__file__).parents[1]
SOURCE = Path(lorasynth.__file__).parent


class Page(HTMLParser):
    """What a page links to, which anchors it has, and its pictures' words."""

    def __init__(self, text):
        super().__init__()
        self.links, self.anchors, self.pictures = [], {""}, []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.anchors.add(found.get("id", ""))
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        if tag == "img":
            self.links.append(found["src"])
            self.pictures.append(found.get("alt") or "")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The built site's folder and its pages by their path."""
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "--fail-on-warning", "--keep-going", "-q", "-b", "html", "docs", out]
    path = os.pathsep.join([str(SOURCE.parent), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": path}
    )
    assert done.returncode == 0, done.stderr
    return out, {path: Page(path.read_text()) for path in out.rglob("*.html")}


@pytest.mark.slow
def test_site_has_every_page_and_package(site):
    out, pages = site
    names = {str(path.relative_to(out)) for path in pages}
    docs = [path.relative_to(ROOT / "docs") for path in (ROOT / "docs").rglob("*.md")]
    assert {str(path.with_suffix(".html")) for path in docs} <= names
    packages = {path.parent.name for path in SOURCE.glob("*/__init__.py")} - {"cli", "assets"}
    assert {f"api/lorasynth.{package}.html" for package in packages} <= names


@pytest.mark.slow
def test_site_links_lead_somewhere(site):
    _, pages = site
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme:
                assert parts.scheme == "https", f"{path.name}: {link}"
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            assert target.exists(), f"{path.name}: {link}"
            if target in pages and path.name not in ("search.html", "genindex.html"):
                assert unquote(parts.fragment) in pages[target].anchors, f"{path.name}: {link}"


@pytest.mark.slow
def test_site_pictures_have_words(site):
    _, pages = site
    words = [alt for path, page in pages.items() if path.name != "py-modindex.html" for alt in page.pictures]
    assert len(words) > 15
    assert all(len(alt.split()) > 2 for alt in words), words


@pytest.mark.slow
def test_site_search_finds_the_heart(site):
    out, _ = site
    index = (out / "searchindex.js").read_text().lower()
    assert all(name in index for name in ("canonicalizer", "adalora", "synthesizer", "from_pretrained"))
