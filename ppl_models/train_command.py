"""The command ``ppl-models train``."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["FAILED", "train_models"]

#: The exit code when a run diverged or crashed.
FAILED = 1


def train_models(
    model: Annotated[list[str], typer.Option("-m", "--model", help="A model, such as lvae; may be repeated.")],
    dataset: Annotated[list[str], typer.Option("-d", "--dataset", help="A dataset, such as 8gaussians; likewise.")],
    epochs: Annotated[int, typer.Option("-e", "--epochs", help="Times through the data.")] = 100,
    runs: Annotated[int, typer.Option("-n", "--runs", help="Runs of each, with seeds of their own.")] = 1,
    first_seed: Annotated[int, typer.Option(help="The first run's seed; the others count on from it.")] = 0,
    guide: Annotated[
        list[str] | None, typer.Option(help="In place of, or around, each model's own guide; may be repeated.")
    ] = None,
    objective: Annotated[list[str] | None, typer.Option(help="elbo if not given; may be repeated.")] = None,
    out: Annotated[Path, typer.Option(help="Folder of the results.")] = Path("ppl-models-study"),
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the study in the folder.")] = False,
    retry: Annotated[str | None, typer.Option(help="crashed: with --resume, do crashed runs again.")] = None,
    jobs: Annotated[int, typer.Option(help="Runs at a time.")] = 1,
    backend: Annotated[str, typer.Option(help="loky, ray or threading.")] = "loky",
    lr: Annotated[float | None, typer.Option(help="Learning rate; the model's own if not given.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Data in a batch; likewise.")] = None,
    schedule: Annotated[str | None, typer.Option(help="constant, cosine or study; likewise.")] = None,
    warmup: Annotated[int | None, typer.Option(help="Epochs of KL warm-up; likewise, none for flows.")] = None,
    free_bits: Annotated[float | None, typer.Option(help="Nats of KL without a gradient; likewise.")] = None,
    max_grad_norm: Annotated[
        float | None, typer.Option(help="Limit of the gradient's norm, per datum; likewise.")
    ] = None,
    num_train: Annotated[int | None, typer.Option(help="Points or images to train on.")] = None,
    num_validation: Annotated[int | None, typer.Option(help="The same for validation.")] = None,
    num_test: Annotated[int | None, typer.Option(help="The same for the test.")] = None,
    num_importance: Annotated[int, typer.Option(help="Draws per datum for the likelihood; 0 for none.")] = 200,
    data_seed: Annotated[int, typer.Option(help="Decides the data and their splits.")] = 0,
    published: Annotated[
        bool,
        typer.Option("--published", help="Put the mistakes of the published vae and lvae back."),
    ] = False,
    mute: Annotated[bool, typer.Option("--mute", help="Show no progress.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON in place of the table.")] = False,
) -> None:
    """Train models on data, several times each, and keep every run.

    All runs have the same data; the seed of a run decides its initial weights, order and noise. Each record is on disk
    when its run ends: what was interrupted goes on with --resume. ppl-models study reads the folder.

    Exit code: 0 if all runs are done, 1 if one diverged or crashed.
    """
    from guides.errors import OptionError, whole_number
    from ppl_models.study import Study

    if retry is not None and not resume:
        raise OptionError(f"--retry needs --resume; got --retry {retry} without it.")
    first = whole_number("--first-seed", first_seed, least=0)
    study = Study(
        model,
        dataset,
        seeds=range(first, first + whole_number("-n", runs, least=1)),
        epochs=epochs,
        guides=guide or ["default"],
        objectives=objective or ["elbo"],
        data_seed=data_seed,
        num_train=num_train,
        num_validation=num_validation,
        num_test=num_test,
        num_importance=num_importance,
        lr=lr,
        schedule=schedule,
        batch_size=batch_size,
        warmup=warmup,
        free_bits=free_bits,
        max_grad_norm=max_grad_norm,
        published=published,
    )
    found = study.run(out, jobs=jobs, backend=backend, resume=resume, retry=retry, progress=not (mute or as_json))
    if as_json:
        typer.echo(json.dumps({"folder": str(out), "runs": _runs(found)}, indent=2, allow_nan=False))
    else:
        _print_table(found)
        typer.echo(f"\nWritten: {out}")
    if (found["status"] != "done").any():
        raise typer.Exit(FAILED)


def _runs(found: xr.Dataset) -> list[dict[str, Any]]:
    """Each run with its numbers, those of epochs as lists; JSON has null where a number is not finite."""
    rows = []
    for model in found["model"].values:
        for dataset in found["dataset"].values:
            for seed in found["seed"].values:
                run = found.sel(model=model, dataset=dataset, seed=seed)
                row: dict[str, Any] = {"model": str(model), "dataset": str(dataset), "seed": int(seed)}
                for name in ("status", "message"):
                    row[name] = str(run[name].item())
                for name in ("test_loss", "test_loss_se", "nll", "nll_se", "floor", "seconds", "skipped"):
                    row[name] = _finite(run[name].item())
                for name in ("train_loss", "validation_loss", "kl_weight"):
                    row[name] = [_finite(value) for value in run[name].values.tolist()]
                rows.append(row | {"num_parameters": int(run["num_parameters"].item())})
    return rows


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _print_table(found: xr.Dataset) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(markup=False, highlight=False, emoji=False, width=None if sys.stdout.isatty() else 100)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for heading in (
        "Model",
        "Dataset",
        "Runs",
        "−ELBO\ntest",
        "NLL\ntest",
        "Entropy",
        "Param-\neters",
        "Seconds\na run",
    ):
        left = heading in ("Model", "Dataset", "Runs")
        table.add_column(heading, justify="left" if left else "right", no_wrap=True)
    told = []
    for model in found["model"].values:
        for dataset in found["dataset"].values:
            runs = found.sel(model=model, dataset=dataset)
            done = runs["status"].values == "done"
            told += [
                f"{model} on {dataset}, seed {seed}: {status}: {message}"
                for seed, status, message in zip(
                    found["seed"].values, runs["status"].values, runs["message"].values, strict=True
                )
                if status != "done"
            ]
            told += [
                f"{model} on {dataset}, seed {seed}: steps skipped, as they were not finite: {skipped:.0f}"
                for seed, skipped in zip(found["seed"].values, runs["skipped"].values, strict=True)
                if skipped > 0
            ]
            table.add_row(
                str(model),
                str(dataset),
                f"{done.sum()}" if done.all() else f"{done.sum()} of {len(done)}",
                *(_mean(runs[name].values[done]) for name in ("test_loss", "nll")),
                "" if math.isnan(runs["floor"].item()) else f"{runs['floor'].item():.4f}",
                f"{runs['num_parameters'].item():,}",
                f"{runs['seconds'].mean().item():.1f}",
            )
    console.print(table)
    notes = ["", "In nats per datum, less is better: mean over the runs that are done, ± standard deviation."]
    console.print("\n".join(notes + told), style="dim")


def _mean(values: Any) -> str:
    """Mean and standard deviation over runs."""
    if not len(values) or not math.isfinite(values.mean()):
        return ""
    spread = f" ± {values.std(ddof=1):.4f}" if len(values) > 1 else ""
    return f"{values.mean():.4f}{spread}"
