"""The command ``ppl-models check``."""

from __future__ import annotations

import contextlib
import io
import sys
from pathlib import Path
from typing import Annotated

import typer

from guides.errors import PplError

__all__ = ["EXIT_CODES", "WRONG", "check_run"]

#: The exit code of each verdict, and of all that kept it from being reached.
EXIT_CODES = {"pass": 0, "doubtful": 1, "fail": 2}
WRONG = 3


def check_run(
    run_dir: Annotated[Path, typer.Argument(help="The run's folder: fit.pt, best.ckpt or last.ckpt, and run.py.")],
    make: Annotated[
        str | None,
        typer.Option(help="FILE.py:FUNCTION or MODULE:FUNCTION that makes model and guide; run.py:make if not given."),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="File of the arguments of both; data.pt in the folder if not given.")
    ] = None,
    held_out: Annotated[
        Path | None, typer.Option(help="File of arguments with other data; held_out.pt, if there is one.")
    ] = None,
    reference: Annotated[
        str, typer.Option(help="nuts, none, or a netCDF file of ArviZ with draws of the posterior.")
    ] = "none",
    num_samples: Annotated[int, typer.Option(help="Draws of the guide.")] = 4000,
    seed: Annotated[int, typer.Option(help="Fixes all chance.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON in place of the table.")] = False,
) -> None:
    """Say whether to believe a saved fit, and show why.

    The folder holds the fit, as ppl_models.training.save or train(folder=...) writes it, and run.py, whose function
    make() returns the model and the guide, made anew; what it returns behind these are the arguments of both. Without
    any, they come from data.pt: tensors written by torch.save((x, y), "data.pt"). run.py is executed.

    Exit code: 0 pass, 1 doubtful, 2 fail, 3 if there is no verdict.
    """
    # Neither is an error of the user's program to be taken for a verdict, nor what it prints for ours.
    try:
        from ppl_models.run_folder import RunFolder

        with contextlib.redirect_stdout(io.StringIO() if as_json else sys.stdout):
            verdict = RunFolder(run_dir, make=make, data=data, held_out=held_out).check(
                reference=reference, num_samples=num_samples, seed=seed
            )
    except (PplError, OSError) as error:
        message = str(error)
    except (Exception, SystemExit) as error:
        message = f"{type(error).__name__}: {error}"
    else:
        if as_json:
            typer.echo(verdict.to_json())
        else:
            from rich.console import Console

            Console(markup=False, highlight=False, emoji=False, width=None if sys.stdout.isatty() else 120).print(
                verdict
            )
        raise typer.Exit(EXIT_CODES[verdict.level])
    typer.echo(f"error: {' '.join(message.split())}", err=True)
    raise typer.Exit(WRONG)
