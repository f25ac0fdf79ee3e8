"""Links between the pages, as they came out: each leads to a file that is there, and to a name in it."""

from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

from sphinx.util import logging


class Page(HTMLParser):
    """The names of places in a page, and where it links to."""

    def __init__(self, text):
        super().__init__()
        self.anchors, self.targets = {"", "top"}, []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.anchors |= {given[key] for key in ("id", "name") if given.get(key)}
        self.targets += [given[key] for key in ("href", "src") if given.get(key)]


def broken(folder):
    """Say of each link within a folder of HTML pages that leads nowhere: "PAGE: TARGET"."""
    pages = {path.resolve(): Page(path.read_text(encoding="utf-8")) for path in sorted(Path(folder).rglob("*.html"))}
    found = []
    for path, page in pages.items():
        for target in page.targets:
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:
                continue
            other = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if other.is_dir():
                other /= "index.html"
            named = other not in pages or unquote(parts.fragment) in pages[other].anchors
            if not (other.exists() and named):
                found.append(f"{path.relative_to(Path(folder).resolve())}: {target}")
    return found


def check(app, error):
    if error is None and app.builder.name == "html":
        for each in broken(app.outdir):
            logging.getLogger(__name__).warning("a link that leads nowhere: %s", each)


def setup(app):
    app.connect("build-finished", check)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
