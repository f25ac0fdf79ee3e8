"""The directive ``measured``: what benchmarks and reproductions have left in this checkout, as tables."""

import csv
import json
from pathlib import Path

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

ROOT = Path(__file__).parents[2]

#: Tables of a report that are shown, those of them that it has.
SHOWN = ("goals", "headline", "results")


class Measured(SphinxDirective):
    """Show the rows of ``results/numbers`` and the first tables of the reports in ``ppl-models-NAME``."""

    def run(self):
        found = [*benchmarks(ROOT), *reports(ROOT)]
        if not found:
            return [nodes.paragraph(text="Nothing has been measured in the checkout that these pages were built from.")]
        return [node for title, rows in found for node in (nodes.rubric(text=title), table(rows))]


def benchmarks(root):
    """Yield a title and rows for each part that ``make bench`` has kept."""
    for path in sorted((root / "results" / "numbers").glob("*.json")):
        kept = json.loads(path.read_text(encoding="utf-8"))
        yield f"{path.stem}, {kept['day']}, {kept['machine']}", [kept["columns"], *kept["rows"]]


def reports(root):
    """Yield a title and rows for each table that is shown of a report."""
    for folder in sorted(path.parent for path in root.glob("ppl-models-*/index.md")):
        name = json.loads((folder / "config.json").read_text(encoding="utf-8"))["reproduction"]
        for path in (folder / "tables" / f"{each}.csv" for each in SHOWN):
            if path.is_file():
                with path.open(encoding="utf-8", newline="") as file:
                    yield f"reproduce {name}: {path.stem}", [[short(cell) for cell in row] for row in csv.reader(file)]


def short(cell):
    """Give a number four digits."""
    try:
        return f"{float(cell):.4g}" if "." in cell else cell
    except ValueError:
        return cell


def table(rows):
    group = nodes.tgroup("", *(nodes.colspec(colwidth=1) for _ in rows[0]), cols=len(rows[0]))
    lines = [nodes.row("", *(nodes.entry("", nodes.paragraph(text=cell)) for cell in row)) for row in rows]
    group += [nodes.thead("", lines[0]), nodes.tbody("", *lines[1:])]
    return nodes.table("", group)


def setup(app):
    app.add_directive("measured", Measured)
    return {"parallel_read_safe": True}
