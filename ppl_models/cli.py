"""The command ``ppl-models``."""

from __future__ import annotations

import json
import logging
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from guides.errors import PplError
from ppl_models import (
    check_command,
    data_command,
    params_command,
    reproduce_command,
    study_command,
    train_command,
)

if TYPE_CHECKING:
    from ppl_models.demo import DemoResult, Row

__all__ = ["app", "main", "run"]

_NAME = "ppl-models"
_WRONG, _INTERRUPTED = 2, 130

app = typer.Typer(
    name=_NAME,
    help="Generative models and variational guides for Pyro.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",  # lines of a paragraph are joined
)
app.add_typer(data_command.app, name="data")
app.add_typer(study_command.app, name="study")
app.add_typer(reproduce_command.app, name="reproduce")
app.command("check")(check_command.check_run)
app.command("train")(train_command.train_models)
app.command("params")(params_command.show_parameters)


def main() -> None:
    """Run the command line as the installed script does."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run the command line and return its exit code.

    What is wrong with the input or the disk is said in one line on standard error, with code 2, or 3 from ``check``,
    where 0 to 2 are verdicts; runs of ``train`` that failed give code 1; an interrupt is one line, with code 130.

    Args:
        arguments: What stands after the program's name.

    Example:
        >>> run(["--version"])
        ppl-models ...
        0
    """
    # Said once by every import of ArviZ 0.23: the announcement of its 1.0.
    warnings.filterwarnings("ignore", message=r"\s*ArviZ is undergoing a major refactor", category=FutureWarning)
    wrong = check_command.WRONG if list(arguments[:1]) == ["check"] else _WRONG
    try:
        code = app(list(arguments), prog_name=_NAME, standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        code = _INTERRUPTED
    except (PplError, OSError) as error:
        return _complain(str(error), wrong)
    except Exception as error:
        if _is_interrupt(error):
            code = _INTERRUPTED
        # Wrong usage. Its class is click's or typer's own, by typer's version; what they share is this method.
        elif hasattr(error, "format_message"):
            return _complain(f"{error.format_message().rstrip('.')}. See {_NAME} --help.", wrong)
        else:
            raise
    if code == _INTERRUPTED:
        typer.echo("interrupted", err=True)
    return code if isinstance(code, int) else 0


def _is_interrupt(error: BaseException | None) -> bool:
    """Whether an interrupt is at the bottom of an error, as where it struck a class in the making (Python 3.11)."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__
    return error is not None


def _complain(message: str, code: int) -> int:
    typer.echo(f"error: {' '.join(message.split())}", err=True)
    return code


def _show_version(wanted: bool) -> None:
    if wanted:
        from ppl_models.labels import package_version

        typer.echo(f"{_NAME} {package_version()}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command()
def demo(
    data: Annotated[str, typer.Option(help="digits (comes with scikit-learn) or mnist.")] = "digits",
    data_dir: Annotated[
        Path | None, typer.Option(help="For mnist: folder of its four IDX files. Without it, they are downloaded.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the figures and the ArviZ file.")] = Path("ppl-models-demo"),
    steps: Annotated[
        int | None, typer.Option(help="Training steps per model; 1625 for digits, 4000 for mnist if not given.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Fixes initial weights, order of the images and all noise.")] = 0,
    eval_images: Annotated[
        int | None, typer.Option(help="Judge this many training and test images; for mnist 200 if not given.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON in place of the table.")] = False,
    mute: Annotated[bool, typer.Option("--mute", help="Show no progress.")] = False,
) -> None:
    """Train a VAE on handwritten digits in three ways and compare them.

    The same networks, data order and seed each time: with a mean-field guide, with a Hamiltonian guide, and with a
    mean-field guide and an importance-weighted bound. About two minutes for digits,
    twenty for MNIST.
    """
    from ppl_models.demo import run_demo

    with _messages(logging.WARNING if mute else logging.INFO):
        result = run_demo(
            out=out,
            data=data,
            data_dir=data_dir,
            steps=steps,
            seed=seed,
            eval_images=eval_images,
            progress=not mute,
        )
    if as_json:
        typer.echo(json.dumps(result.as_dict(), indent=2, allow_nan=False))
    else:
        _print_table(result)
        typer.echo("\n".join(["", "Written:", *(f"  {path}" for path in result.files)]))


def _print_table(result: DemoResult) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    width = None if sys.stdout.isatty() else 100
    console = Console(markup=False, highlight=False, emoji=False, width=width)
    console.print(f"\n{_headline(result)}\n", style="bold")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("Model", no_wrap=True)
    for heading in ("−ELBO\ntrain", "−ELBO\ntest", "NLL\ntest", "k-hat\nmedian", "Param-\neters", "Seconds"):
        table.add_column(heading, justify="right")
    for row in result.rows:
        table.add_row(*_cells(row))
    console.print(table)
    console.print(f"\n{_notes(result)}", style="dim")


def _cells(row: Row) -> tuple[str, ...]:
    return (
        f"{row.model}\n{row.how}",
        f"{row.train_negative_elbo:.2f}",
        f"{row.test_negative_elbo:.2f}",
        f"{row.test_nll:.2f} ± {row.test_nll_standard_error:.2f}",
        f"{row.median_k_hat:.2f}",
        f"{row.num_parameters:,}",
        f"{row.seconds:.1f}",
    )


def _headline(result: DemoResult) -> str:
    return (
        f"VAE on {result.data}: {result.num_train:,} training images, {result.steps:,} steps each, seed {result.seed}"
    )


def _notes(result: DemoResult) -> str:
    skipped = sum(row.skipped_steps for row in result.rows)
    lines = [
        f"In nats per image, less is better. Judged on {_share(result.judged_train, result.num_train)} training and "
        f"{_share(result.judged_test, result.num_test)} test images, binarised once.",
        f"−ELBO: mean over {result.train_draws} draws per training image, {result.test_draws:,} per test image.",
        f"NLL: importance sampling with {result.test_draws:,} draws from the guide, ± standard error over the images;",
        "all are judged on the same images, so that differences between rows are surer than that.",
        "k-hat: tail of the importance weights per test image; above 0.7 an NLL is not to be trusted.",
        "Seconds: of training.",
    ]
    if skipped:
        lines.append(f"{skipped} training steps were skipped because their loss or gradient was not finite.")
    return "\n".join(lines)


def _share(judged: int, total: int) -> str:
    return f"all {total:,}" if judged == total else f"the first {judged:,} of {total:,}"


@contextmanager
def _messages(level: int) -> Iterator[None]:
    """Show what the package has to say, on standard error."""
    logger, handler = logging.getLogger("ppl_models"), _Lines()
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(level)
    try:
        yield
    finally:
        logger.setLevel(before)
        logger.removeHandler(handler)


class _Lines(logging.Handler):
    """Writes to whatever standard error is at that moment: a progress bar may have put itself in its place."""

    def emit(self, record: logging.LogRecord) -> None:
        prefix = "" if record.levelno < logging.WARNING else f"{record.levelname.lower()}: "
        typer.echo(f"{prefix}{record.getMessage()}", err=True)


if __name__ == "__main__":
    main()
