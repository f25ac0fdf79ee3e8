"""The directive `commands`: what each command says of itself with --help, a section for each."""

import contextlib
import io
import os
import re

import typer
from docutils import nodes
from sphinx.util.docutils import SphinxDirective

from ppl_models.cli import app, run

#: As wide as a page shows.
WIDTH = 92

#: What a terminal takes for colours.
COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def paths(command, path=()):
    """All commands below one, by the words that call them."""
    for name, child in sorted(getattr(command, "commands", {}).items()):
        yield (*path, name)
        yield from paths(child, (*path, name))


def help_of(path):
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = str(WIDTH)
    try:
        with contextlib.redirect_stdout(io.StringIO()) as said:
            run([*path, "--help"])
    finally:
        os.environ.pop("COLUMNS") if before is None else os.environ.update(COLUMNS=before)
    lines = [line.rstrip() for line in COLOURS.sub("", said.getvalue()).strip("\n").splitlines()]
    return "\n".join(lines).strip("\n")


class Commands(SphinxDirective):
    def run(self):
        found = []
        for path in paths(typer.main.get_command(app)):
            words = " ".join(("ppl-models", *path))
            section = nodes.section(ids=[nodes.make_id(words)])
            section += nodes.title("", "", nodes.literal(words, words))
            section += nodes.literal_block(help_of(path), help_of(path), language="text", classes=["help"])
            self.state.document.note_implicit_target(section)
            found.append(section)
        return found


def setup(app):
    app.add_directive("commands", Commands)
    return {"parallel_read_safe": True}
