"""The demo: equal starts, a fair table, pictures with names and units, and an ArviZ file that opens."""

from __future__ import annotations

import logging
import math
from dataclasses import asdict
from pathlib import Path

import arviz as az
import pandas as pd
import pytest
import torch

from guides import DataError, OptionError
from ppl_models.datasets import digits
from ppl_models.demo import CONTENDERS, SETTINGS, DemoResult, Row, _networks, _threads, run_demo
from ppl_models.figures import reconstructions, samples, training_curves

IMAGES = 4
STEPS = 15
NAMES = ["VAE", "HVAE", "IWAE"]
FILES = ["posterior.nc", "reconstructions.png", "samples.png", "training.png"]
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> DemoResult:
    return run_demo(out=tmp_path_factory.mktemp("demo"), steps=STEPS, eval_images=IMAGES, progress=False)


@pytest.fixture(scope="module")
def posterior(result: DemoResult) -> az.InferenceData:
    return az.from_netcdf(result.files[-1])


def losses(row: Row) -> dict[str, object]:
    return {name: value for name, value in asdict(row).items() if name != "seconds"}


# ---------------------------------------------------------------------------------------------------------- the table


def test_there_is_a_row_for_each_contender(result):
    assert [row.model for row in result.rows] == [each.name for each in CONTENDERS] == NAMES
    assert [row.guide for row in result.rows] == ["MeanFieldGuide", "HamiltonianGuide", "MeanFieldGuide"]
    assert [row.skipped_steps for row in result.rows] == [0, 0, 0]
    assert (result.judged_train, result.num_train) == (IMAGES, 1257)
    assert (result.judged_test, result.num_test) == (IMAGES, 360)


def test_the_hamiltonian_guide_adds_its_step_sizes_and_its_temperature(result):
    mean_field, hamiltonian, weighted = (row.num_parameters for row in result.rows)
    assert mean_field == weighted
    assert hamiltonian == mean_field + SETTINGS["digits"].latent_dim + 1


def test_training_beats_fair_coins(result):
    for row in result.rows:
        assert max(row.train_negative_elbo, row.test_negative_elbo) < 64 * math.log(2)


def test_the_importance_bound_is_the_tighter_one_on_the_same_draws(result):
    for row in result.rows:
        assert row.test_nll < row.test_negative_elbo
        assert row.test_nll_standard_error > 0


def test_all_start_from_the_same_weights():
    images = digits()
    first, again, other = (_networks(images, SETTINGS["digits"], seed=seed) for seed in (3, 3, 4))
    for one, two, three in zip(first, again, other, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
        assert not any(torch.equal(a, b) for a, b in zip(one.parameters(), three.parameters(), strict=True))


def test_a_seed_fixes_all_numbers_and_nothing_outside_changes(result, tmp_path):
    torch.manual_seed(12345)
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    again = run_demo(out=tmp_path, steps=STEPS, eval_images=IMAGES, progress=False)
    assert [losses(row) for row in again.rows] == [losses(row) for row in result.rows]
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads


def test_threads_are_given_back():
    before = torch.get_num_threads()
    with _threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


# ---------------------------------------------------------------------------------------------------------- the files


def test_files_are_complete_and_alone(result):
    folder = result.files[0].parent
    assert sorted(path.name for path in result.files) == FILES
    assert sorted(path.name for path in folder.iterdir()) == FILES
    assert all(path.read_bytes().startswith(PNG) for path in result.files if path.suffix == ".png")


def test_the_posterior_is_labelled(posterior):
    assert posterior.posterior["z"].dims == ("chain", "draw", "model", "image", "latent")
    assert posterior.posterior["z"].shape == (4, 100, 3, IMAGES, SETTINGS["digits"].latent_dim)
    assert posterior.posterior.coords["model"].values.tolist() == NAMES
    assert posterior.log_likelihood["x"].dims == ("chain", "draw", "model", "image")
    assert posterior.sample_stats["log_weight"].dims == ("chain", "draw", "model", "image")
    assert posterior.observed_data["x"].dims == ("image", "row", "column")
    assert set(posterior.observed_data["x"].values.ravel()) == {0.0, 1.0}
    assert (posterior.attrs["data"], posterior.attrs["seed"], posterior.attrs["steps"]) == ("digits", 0, STEPS)


def test_the_posterior_can_be_summarised(posterior):
    summary = az.summary(posterior.posterior.isel(image=[0]), kind="all")
    assert len(summary) == 3 * SETTINGS["digits"].latent_dim
    assert summary["r_hat"].max() < 1.1  # independent draws: chains differ by chance only


def test_draws_and_weights_belong_together(posterior, result):
    weights = posterior.sample_stats["log_weight"].stack(sample=("chain", "draw")).transpose("model", "sample", "image")
    for row, log_weights in zip(result.rows, weights.values, strict=True):
        over_draws = log_weights.mean(1)
        error = over_draws.std() / len(over_draws) ** 0.5
        assert abs(-over_draws.mean() - row.test_negative_elbo) < 5 * error * (1 + 400 / 1000) ** 0.5


# ------------------------------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data": "digit"}, "data must be one of 'digits', 'mnist'; got 'digit'. Did you mean 'digits'?"),
        ({"steps": 0}, "steps must be a whole number of at least 1; got 0."),
        ({"steps": 2.5}, "steps must be a whole number of at least 1; got 2.5."),
        ({"steps": True}, "steps must be a whole number of at least 1; got True."),
        ({"seed": -1}, "seed must be a whole number, at least 0 and below 2**63; got -1."),
        ({"eval_images": 1}, "eval_images must be a whole number of at least 2; got 1."),
        ({"data_dir": "somewhere"}, "data_dir is only for data 'mnist'; got 'somewhere' with 'digits'"),
    ],
    ids=lambda value: "-".join(map(str, value)) if isinstance(value, dict) else "",
)
def test_an_option_outside_its_rule_is_named(options, message, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(OptionError) as error:
        run_demo(out=out, **options)
    assert str(error.value).startswith(message)
    assert not out.exists()


def test_a_folder_that_cannot_be_written_is_refused_before_the_training(tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="ppl_models")
    (tmp_path / "file").touch()
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(OptionError, match=r"^out must be a folder that files can be written to; got .*file"):
            run_demo(out=out)
    assert caplog.messages == []


# -------------------------------------------------------------------------------------------------------------- figures


def history(epochs: int) -> pd.DataFrame:
    steps = pd.RangeIndex(2 * epochs)
    losses, validation = 100.0 - steps, [math.nan, 40.0] * epochs
    return pd.DataFrame({"epoch": steps // 2, "loss": losses, "validation_loss": validation})


@pytest.mark.parametrize("epochs", [1, 30])
def test_training_curves_are_per_image_with_units(epochs):
    bounds = {"A": "ELBO", "B": "IWAE"}
    figure = training_curves({name: history(epochs) for name in bounds}, num_train=10, num_validation=5, bounds=bounds)
    assert [axes.get_title() for axes in figure.axes] == ["A", "B"]
    assert [axes.get_ylabel() for axes in figure.axes] == ["−ELBO (nats per image)", "−IWAE (nats per image)"]
    training, validation = figure.axes[0].lines
    assert training.get_xdata().tolist() == list(range(1, epochs + 1))
    assert training.get_ydata()[0] == (100 + 99) / 2 / 10
    assert set(validation.get_ydata()) == {40.0 / 5}


def test_a_step_that_was_skipped_leaves_no_hole_in_the_curve():
    broken = history(3)
    broken.loc[2, "loss"] = math.inf
    figure = training_curves({"A": broken}, num_train=1, num_validation=1, bounds={"A": "ELBO"})
    assert figure.axes[0].lines[0].get_ydata().tolist() == [99.5, 97.0, 95.5]


def test_an_epoch_that_was_cut_short_has_no_mean():
    figure = training_curves({"A": history(3)[:5]}, num_train=1, num_validation=1, bounds={"A": "ELBO"})
    first, second, cut = figure.axes[0].lines[0].get_ydata()
    assert (first, second) == (99.5, 97.5)
    assert math.isnan(cut)


def test_pictures_carry_the_names(tmp_path):
    blocks = {name: torch.rand(5, 8, 6) for name in ("A", "B")}
    assert [axes.get_title() for axes in samples(blocks).axes] == ["A", "B"]
    figure = reconstructions(torch.rand(5, 8, 6), blocks, caption="below")
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["Originals", "A", "B"]
    figure.savefig(Path(tmp_path, "picture.png"))


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: samples({}), "at least one model"),
        (lambda: samples({"A": torch.rand(8, 8)}), r"one shape \(N, H, W\)"),
        (lambda: samples({"A": torch.rand(2, 8, 8), "B": torch.rand(3, 8, 8)}), r"one shape \(N, H, W\)"),
        (lambda: reconstructions(torch.rand(2, 8, 8), {}), "at least one model"),
        (lambda: training_curves({}, num_train=1, num_validation=1, bounds={}), "at least one model"),
        (lambda: training_curves({"A": history(1)}, num_train=1, num_validation=1, bounds={}), "got none for A"),
    ],
    ids=["no-samples", "flat", "two-shapes", "no-reconstructions", "no-curves", "no-bound"],
)
def test_a_figure_without_what_it_needs_is_an_error(draw, message):
    with pytest.raises(DataError, match=message):
        draw()
