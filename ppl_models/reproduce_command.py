"""The command ``ppl-models reproduce``: one subcommand for each reproduction."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from guides.errors import OptionError

if TYPE_CHECKING:
    from ppl_models.reproductions import Report

__all__ = ["app"]

app = typer.Typer(help="Do a published study again, put right, and write a report that stands by itself.")

_Out = Annotated[Path | None, typer.Option(help="Folder of the report; ppl-models-NAME if not given.")]
_Full = Annotated[bool, typer.Option("--full", help="The whole study in place of a part.")]
_Seed = Annotated[int, typer.Option(help="Fixes data and all noise.")]
_Processes = Annotated[int | None, typer.Option(help="How many jobs run at once; one for each core if not given.")]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON in place of the tables.")]
_Mute = Annotated[bool, typer.Option("--mute", help="Show no progress.")]


@app.callback(invoke_without_command=True)
def _root(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command("gaussian")
def gaussian(
    out: _Out = None,
    full: _Full = False,
    dims: Annotated[str | None, typer.Option(help="Dimensions, as 25,50; that is what is done without --full.")] = None,
    methods: Annotated[str | None, typer.Option(help='Methods, as "HVAE K=1; IAF"; all eight if not given.')] = None,
    data: Annotated[str, typer.Option(help="own, or study: the study's own data sets.")] = "own",
    sets: Annotated[int, typer.Option(help="Number of data sets.")] = 3,
    seed: _Seed = 0,
    steps: Annotated[float, typer.Option(help="Share of the steps that fits make; 0.01 for a look.")] = 1.0,
    judge: Annotated[bool, typer.Option(help="Hold some of the posteriors against NUTS.")] = True,
    processes: _Processes = None,
    as_json: _Json = False,
    mute: _Mute = False,
) -> None:
    """HVAE, IAF, planar flows and mean-field VB on a Gaussian model whose evidence and posterior are known.

    Each method as published and put right, against truth, maximum likelihood and the exact evidence; the published
    numbers beside ours, and why they differ. After an interrupt the same command goes on.
    """
    from ppl_models.reproductions import REPRODUCTIONS

    report = REPRODUCTIONS["gaussian"](
        out=_folder(out, "gaussian"),
        full=full,
        dims=_numbers("dims", dims),
        methods=_words(methods, ";"),
        data=data,
        sets=sets,
        seed=seed,
        steps=steps,
        judge=judge,
        processes=processes,
        progress=not mute,
    )
    _show(report, as_json=as_json)


@app.command("convergence")
def convergence(
    out: _Out = None,
    full: _Full = False,
    datasets: Annotated[
        str | None, typer.Option(help="8gaussians,checkerboard without --full; mnist and omniglot beside them with it.")
    ] = None,
    models: Annotated[
        str | None, typer.Option(help="Models, as vae_published,vae; those published if not given.")
    ] = None,
    runs: Annotated[int | None, typer.Option(help="Runs of each model; 3, or 10 with --full.")] = None,
    epochs: Annotated[
        int | None, typer.Option(help="Of each run; 30 of points and 5 of images, or 100 and 20 with --full.")
    ] = None,
    num_train: Annotated[
        int | None, typer.Option(help="Points or images to train on; 50,000 and 5,000, or 100,000 and all with --full.")
    ] = None,
    seed: _Seed = 0,
    processes: _Processes = None,
    as_json: _Json = False,
    mute: _Mute = False,
) -> None:
    """VAE, ladder VAE, flow and DRAW over several seeds, beside the published tables, with the floors.

    Mended models, and the VAE with the published mistakes; why the numbers differ, diverged runs counted, paired
    comparisons. After an interrupt the same command goes on. With --full it takes days.
    """
    from ppl_models.reproductions import REPRODUCTIONS

    report = REPRODUCTIONS["convergence"](
        out=_folder(out, "convergence"),
        full=full,
        datasets=_words(datasets),
        models=_words(models),
        runs=runs,
        epochs=epochs,
        num_train=num_train,
        seed=seed,
        processes=processes,
        progress=not mute,
    )
    _show(report, as_json=as_json)


def _images(name: str, text: str) -> None:
    """Make the command of a study of image models."""

    def command(
        out: _Out = None,
        full: Annotated[bool, typer.Option("--full", help="All images, and 240 minutes for each method.")] = False,
        methods: Annotated[str | None, typer.Option(help='Methods, as "VAE; HVAE"; all if not given.')] = None,
        minutes: Annotated[
            float | None, typer.Option(help="Budget of each method, of one core; 2 without --full if not given.")
        ] = None,
        steps: Annotated[int | None, typer.Option(help="Training steps in place of minutes, for a look.")] = None,
        images: Annotated[
            int | None, typer.Option(help="Judge this many test images; 50, or 1000 with --full, if not given.")
        ] = None,
        data_dir: Annotated[
            Path | None, typer.Option(help="Folder of MNIST's four IDX files. Without it, they are downloaded.")
        ] = None,
        batch_norm: Annotated[
            bool, typer.Option("--batch-norm", help="Networks that normalise batches, as the study's.")
        ] = False,
        seed: _Seed = 0,
        processes: _Processes = None,
        as_json: _Json = False,
        mute: _Mute = False,
    ) -> None:
        from ppl_models.reproductions import REPRODUCTIONS

        report = REPRODUCTIONS[name](
            out=_folder(out, name),
            full=full,
            methods=_words(methods, ";"),
            minutes=minutes,
            steps=steps,
            images=images,
            data_dir=data_dir,
            batch_norm=batch_norm,
            seed=seed,
            processes=processes,
            progress=not mute,
        )
        _show(report, as_json=as_json)

    app.command(name, help=text)(command)


_images(
    "mnist",
    """HVAE, 40-sample IWAE and a plain VAE on MNIST, with equal time for each and one estimator to judge them.

    Learning curves, samples, reconstructions, trajectories; the published numbers beside ours, and why they differ.
    After an interrupt the same command goes on.""",
)
_images(
    "hvae_iaf",
    """HVAE, IAF, one over the other and a plain VAE on MNIST, with equal time for each and one estimator to judge them.

    The published numbers beside ours, and why they differ. After an interrupt the same command goes on.""",
)


def _folder(out: Path | None, name: str) -> Path:
    return Path(f"ppl-models-{name}") if out is None else out


def _words(text: str | None, between: str = ",") -> list[str] | None:
    """Names with something between them."""
    return None if text is None else [part.strip() for part in text.split(between)]


def _numbers(name: str, text: str | None) -> list[int] | None:
    """Whole numbers with commas between them."""
    if text is None:
        return None
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise OptionError(f"{name} must be whole numbers with commas between them, as 25,50; got {text!r}.") from error


def _show(report: Report, *, as_json: bool) -> None:
    """Print the first of the report's tables and what was to be reached, and where all of it is."""
    if as_json:
        typer.echo(json.dumps(report.as_dict(), indent=2, allow_nan=False))
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(markup=False, highlight=False, emoji=False, width=None if sys.stdout.isatty() else 160)
    for name in dict.fromkeys([next(iter(report.tables)), *({"goals"} & set(report.tables))]):
        content = report.tables[name]
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
        for column in content:
            table.add_column(str(column), justify="right" if content[column].dtype.kind in "if" else "left")
        for row in content.itertuples(index=False):
            table.add_row(*(_cell(value) for value in row))
        console.print(table)
        console.print()
    console.print(f"The report: {report.folder / 'index.md'}")


def _cell(value: object) -> str:
    if value is None or value != value:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "NO"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
