"""What the cells of pages say and draw: pictures in their own size, wide text in a small one, and a gallery of both."""

from docutils import nodes
from PIL import Image
from sphinx.directives.other import TocTree

#: Pixels of a picture for one of the page: cells draw twice as fine as it is shown.
DENSITY = 2

#: A page is about so many characters of text wide; a longer line makes its output small.
WIDTH = 92


class thumbnails(nodes.General, nodes.Element):  # noqa: N801, as all nodes of docutils
    """The place of the cards of a gallery, until all pages are read."""


class Gallery(TocTree):
    """A list of pages as cards: the first picture of each above its title."""

    def run(self):
        self.options["hidden"] = None
        found = super().run()
        [listed] = [node["includefiles"] for part in found for node in part.findall() if "includefiles" in node]
        return [*found, thumbnails(pages=listed)]


def fit_outputs(app, doctree):
    for output in doctree.findall(lambda node: "cell_output" in getattr(node, "attributes", {}).get("classes", ())):
        for picture in output.findall(nodes.image):
            with Image.open(app.srcdir / picture["uri"]) as image:
                picture["width"] = f"{image.width // DENSITY}px"
        for text in output.findall(nodes.literal_block):
            if max(map(len, text.astext().splitlines()), default=0) > WIDTH:
                text["classes"].append("wide")


def fill_galleries(app, doctree, docname):
    for place in list(doctree.findall(thumbnails)):
        cards = nodes.container(classes=["gallery"])
        for page in place["pages"]:
            picture = next(app.env.get_doctree(page).findall(nodes.image))
            link = nodes.reference("", "", internal=True, refuri=app.builder.get_relative_uri(docname, page))
            link += nodes.image(uri=picture["uri"], candidates=picture["candidates"], alt="", loading="lazy")
            link += nodes.inline("", "", *(child.deepcopy() for child in app.env.titles[page].children))
            cards += nodes.paragraph("", "", link)
        place.replace_self(cards)


def setup(app):
    app.add_node(thumbnails)
    app.add_directive("gallery", Gallery)
    app.connect("doctree-read", fit_outputs)
    app.connect("doctree-resolved", fill_galleries)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
