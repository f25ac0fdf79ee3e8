"""Tables and comparisons of a study, and what other programs make of its results."""

from __future__ import annotations

import csv
import io
import math
import re
from itertools import product

import arviz as az
import arviz_stats
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from scipy.stats import PermutationMethod, wilcoxon

from guides.errors import DataError, OptionError
from ppl_models.study import (
    compare_models,
    convergence_metrics,
    format_table,
    holm,
    metrics_table,
    open_results,
    paired_comparison,
    parameters_table,
    results_to_arviz,
    results_to_dataframe,
    run_values,
    runs_table,
    save_results,
)
from tests.study_results import DATASETS, MODELS, made_up_results

NAN, INF = math.nan, math.inf


@pytest.fixture(scope="module")
def results():
    return made_up_results()


# -------------------------------------------------------------------------------------------------------------- tables


def test_the_table_says_what_the_metrics_of_the_losses_say(results):
    table = metrics_table(results, metrics=["min", "last", "exceeds"]).set_index(["dataset", "model", "metric"])
    for dataset, model in product(DATASETS, MODELS):
        cell = results.sel(dataset=dataset, model=model)
        metrics = convergence_metrics(cell["validation_loss"], status=cell["status"].values.tolist())
        for name in ("min", "last", "exceeds"):
            row = table.loc[dataset, model, name]
            for what, value in metrics[name].items():
                if what != "ddof":
                    assert row[what] == pytest.approx(value, nan_ok=True), (dataset, model, name, what)


def test_test_losses_count_diverged_runs_and_stand_beside_the_floor(results):
    table = metrics_table(results, metrics=["test_loss", "max"]).set_index(["dataset", "model", "metric"])
    row = table.loc["8gaussians", "lvae", "test_loss"]
    alive = results["test_loss"].sel(model="lvae", dataset="8gaussians").values[2:]
    assert row["mean"] == pytest.approx(alive.mean())
    assert (row["n"], row["n_used"], row["n_diverged"], row["mean_all"]) == (6, 4, 2, INF)
    assert row["gap"] == pytest.approx(alive.mean() - 2.831880)
    assert math.isnan(table.loc["8gaussians", "lvae", "max"]["gap"])
    assert math.isnan(table.loc["mnist", "vae", "test_loss"]["gap"])
    assert table.loc["mnist", "lvae", "test_loss"]["n_missing"] == 2


def test_a_floor_may_be_given_where_the_entropy_is_not_known(results):
    table = metrics_table(results, metrics=["nll"], floors={"mnist": 80.0}).set_index(["dataset", "model"])
    assert table.loc["mnist", "vae"]["gap"] == pytest.approx(table.loc["mnist", "vae"]["mean"] - 80)
    with pytest.raises(OptionError, match="floors must not hold '8gaussians', whose entropy is known: 2.831880"):
        metrics_table(results, floors={"8gaussians": 2.0})
    with pytest.raises(OptionError, match="Did you mean 'mnist'"):
        metrics_table(results, floors={"mnis": 2.0})
    with pytest.raises(OptionError, match="must be a finite number; got inf"):
        metrics_table(results, floors={"mnist": INF})
    line = results.assign(floor=results["floor"].where(results["dataset"] != "mnist", -INF))
    assert metrics_table(line, metrics=["last"])["gap"].isna().tolist() == [False] * 3 + [True] * 3


def test_metrics_without_the_warm_up(results):
    whole, after = (metrics_table(results, metrics=["first"], after_warmup=each) for each in (False, True))
    losses = results["validation_loss"].sel(model="vae", dataset="mnist").values
    assert whole.query("dataset == 'mnist' and model == 'vae'")["mean"].item() == pytest.approx(losses[:, :5].mean())
    assert after.query("dataset == 'mnist' and model == 'vae'")["mean"].item() == pytest.approx(losses[:, 4:9].mean())


def test_time_to_threshold_is_in_the_table(results):
    table = metrics_table(results, metrics=["time_to_threshold"], threshold=3.0).set_index(["dataset", "model"])
    losses = results["validation_loss"].sel(model="vae", dataset="8gaussians").values
    first = (losses < 3.0).argmax(1) + 1
    row = table.loc["8gaussians", "vae"]
    assert row["median"] == np.sort(first)[2]  # of six, the third is the first at which half are there
    assert (row["n"], row["n_used"]) == (6, 6)
    assert table.loc["mnist", "vae"]["median"] == INF
    assert table.loc["mnist", "lvae"]["n_missing"] == 2
    with pytest.raises(OptionError, match="time_to_threshold needs threshold"):
        metrics_table(results, metrics=["time_to_threshold"])
    with pytest.raises(OptionError, match="threshold must be a finite number; got nan"):
        metrics_table(results, threshold=float("nan"))


def test_a_number_per_run(results):
    values = run_values(results, threshold=3.0)
    assert values["last"].sel(model="lvae", dataset="8gaussians").values[:2].tolist() == [INF, INF]
    assert np.isnan(values["last"].sel(model="lvae", dataset="mnist").values[:2]).all()
    assert values["time_to_threshold"].sel(model="vae", dataset="mnist").values.tolist() == [INF] * 6
    assert math.isnan(values["time_to_threshold"].sel(model="lvae", dataset="mnist").values[0])  # stopped before
    reordered = run_values(results.transpose("epoch", "seed", "dataset", "model"))
    np.testing.assert_array_equal(reordered["min"].values, values["min"].values)


def test_a_run_done_without_a_loss_has_diverged(results):
    broken = made_up_results(healthy=True)
    broken["validation_loss"].loc[{"model": "vae", "dataset": "mnist", "seed": 0}] = NAN
    row = metrics_table(broken, metrics=["last"]).query("dataset == 'mnist' and model == 'vae'")
    assert (row["n_used"].item(), row["n_diverged"].item()) == (5, 1)


def test_runs_and_parameters(results):
    table = runs_table(results)
    assert len(table) == 36
    assert table["model"].iloc[::6].tolist() == [*MODELS, *MODELS]
    crashed = table.query("model == 'lvae' and dataset == 'mnist' and seed == 0")
    assert crashed["message"].item().startswith("MemoryError")
    assert parameters_table(results)["mnist"].tolist() == [1162000, 1200912, 1464464]


# --------------------------------------------------------------------------------------------------------- comparisons


@pytest.mark.parametrize("n", [4, 7, 10])
def test_p_values_are_those_of_all_sign_patterns(n):
    rng = np.random.default_rng(n)
    first, second = rng.normal(size=n), rng.normal(0.5, size=n)
    differences = first - second
    ranks = np.abs(differences).argsort().argsort() + 1
    sums = np.array([np.dot(signs, ranks) for signs in product([-1, 1], repeat=n)])
    by_hand = np.mean(np.abs(sums) >= abs(np.dot(np.sign(differences), ranks)))
    found = paired_comparison(first, second)
    assert found["p"] == pytest.approx(by_hand)
    assert found["smallest_p"] == 2.0 ** (1 - n)


def test_diverged_runs_are_worse_than_all_others():
    found = paired_comparison([1.0, 1.1, 1.2, 1.3], [INF, INF, 1.0, NAN])
    assert (found["n"], found["n_diverged"], found["n_better"]) == (3, 2, 2)
    # Ranks: 2.5 and 2.5 for it, 1 against it; of eight patterns of signs, 1 + 1 + 2 are as far from the middle.
    assert found["p"] == pytest.approx(0.5)
    assert found["difference"] == pytest.approx(0.2)
    equal = paired_comparison([INF, INF], [INF, INF])
    assert (equal["p"], equal["n_better"]) == (1.0, 0)
    assert math.isnan(equal["difference"])
    nothing = paired_comparison([NAN], [1.0])
    assert (nothing["n"], math.isnan(nothing["p"])) == (0, True)


def test_the_difference_and_its_interval_belong_to_the_test():
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, 9))
    found = paired_comparison(first, second, confidence=0.9)
    differences = first - second
    averages = [(a + b) / 2 for i, a in enumerate(differences) for b in differences[i:]]
    assert found["difference"] == pytest.approx(np.median(averages))
    step = 1e-9
    inside = [found["low"] + step, found["high"] - step]
    outside = [found["low"] - step, found["high"] + step]
    level = 1 - found["confidence"]
    assert 0.9 <= found["confidence"] < 0.93
    assert all(wilcoxon(differences - shift, method="exact").pvalue > level for shift in inside)
    assert all(wilcoxon(differences - shift, method="exact").pvalue <= level for shift in outside)
    assert paired_comparison(first[:5], second[:5])["confidence"] == 1 - 2 / 2**5


def test_p_values_are_exact_with_ties_and_zeros():
    for differences in ([0.5, -0.5, 0.5, 1.0, 0.0, 2.0, 2.0], [0.0, 0.0, 1.0, 1.0], [1.0] * 6):
        found = paired_comparison(differences, np.zeros(len(differences)))
        method = PermutationMethod(n_resamples=2**10)
        assert found["p"] == pytest.approx(wilcoxon(differences, zero_method="pratt", method=method).pvalue)


def test_many_pairs():
    rng = np.random.default_rng(0)
    first = rng.normal(size=80)
    second = first + rng.normal(0.05, 0.3, size=80)
    found = paired_comparison(first, second)
    assert found["p"] == pytest.approx(wilcoxon(first, second, method="asymptotic").pvalue, abs=0.005)
    assert 0.95 <= found["confidence"] < 0.951


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([0.04, NAN, 0.01])[::2] == pytest.approx([0.04, 0.02])


def test_all_pairs_of_models_are_compared_over_the_seeds(results):
    table = compare_models(results, metric="nll")
    assert len(table) == 6
    first = table.iloc[0]
    by_hand = paired_comparison(*(results["nll"].sel(model=name, dataset="8gaussians") for name in MODELS[:2]))
    assert {name: first[name] for name in by_hand} == by_hand
    assert table["p_holm"].tolist() == pytest.approx(holm(table["p"].tolist()))
    assert table.iloc[1][["other", "n", "n_diverged"]].tolist() == ["lvae", 6, 2]
    with pytest.raises(OptionError, match="two models at least; the study has vae only"):
        compare_models(results.sel(model=["vae"]))
    with pytest.raises(OptionError, match="Did you mean 'nll'"):
        compare_models(results, metric="nl")
    with pytest.raises(DataError, match="lists of one length"):
        paired_comparison([1.0], [1.0, 2.0])


# ------------------------------------------------------------------------------------------------------------- formats


def all_tables(results):
    return {
        "metrics": metrics_table(results, threshold=3.0),
        "comparisons": compare_models(results),
        "runs": runs_table(results),
        "parameters": parameters_table(results),
    }


@pytest.mark.parametrize("name", ["metrics", "comparisons", "runs", "parameters"])
def test_every_table_in_every_format(name, results):
    table = all_tables(results)[name]
    lines = format_table(table).splitlines()
    cells = [re.split(r"(?<!\\)\|", line) for line in lines]
    assert len({len(each) for each in cells}) == 1
    assert len(lines) == len(table) + 2
    read = list(csv.DictReader(io.StringIO(format_table(table, "csv"))))
    assert len(read) == len(table)
    for column in table.select_dtypes("number"):
        np.testing.assert_array_equal([float(row[column] or "nan") for row in read], table[column])
    latex = format_table(table, "latex").splitlines()
    assert latex[1].startswith(r"\begin{tabular}")
    columns = len(re.fullmatch(r"\\begin\{tabular\}\{([lr]+)\}", latex[1])[1])
    rows = [line for line in latex if line.endswith(r"\\")]
    assert len(rows) == len(table) + 1
    for row in rows:
        plain = re.sub(r"\\[&%$#_{}]|\\text\w+\{\}|\$(?:-|\\infty|-\\infty|\\pm)\$", "", row.removesuffix(r"\\"))
        assert len(re.findall("&", plain)) == columns - 1
        assert not re.search(r"[%$#_{}~^\\<>−∞±]", plain), plain
    assert [latex[i] for i in (2, 4, -2, -1)] == [r"\toprule", r"\midrule", r"\bottomrule", r"\end{tabular}"]


@pytest.mark.parametrize("format", ["markdown", "latex"])
def test_an_unknown_confidence_is_left_empty(format, results):
    diverged = results.assign(status=results["status"].where(results["seed"] < 0, "diverged"))
    assert "nan" not in format_table(compare_models(diverged), format)


def test_messages_are_escaped(results):
    table = runs_table(results)
    assert r"MemoryError: \textless{}killed\textgreater{} \& gone\_50\%" in format_table(table, "latex")
    assert r"MemoryError: \<killed\> & gone_50%" in format_table(table)
    broken = table.assign(message="two\nlines | and a pipe \\")
    assert len(format_table(broken).splitlines()) == len(table) + 2
    assert r"two lines \| and a pipe \\ |" in format_table(broken)
    with pytest.raises(OptionError, match="Did you mean 'latex'"):
        format_table(table, "latx")


def test_columns_that_say_nothing_are_left_out():
    healthy = format_table(metrics_table(made_up_results(healthy=True), metrics=["last"]).query("dataset == 'mnist'"))
    assert not set(healthy.splitlines()[0].split(" | ")) & {"diverged", "missing", "floor", "gap"}


# ---------------------------------------------------------------------------------------------------- other programs


def test_results_open_in_pandas(results):
    table = results_to_dataframe(results)
    whole = table.query("model == 'vae' and dataset == 'mnist' and seed == 3")
    np.testing.assert_array_equal(
        whole["validation_loss"], results["validation_loss"].sel(model="vae", dataset="mnist", seed=3)
    )
    gone = table.query("model == 'lvae' and dataset == '8gaussians' and seed < 2").groupby("seed").size()
    assert gone.tolist() == [8, 1]
    assert isinstance(table, pd.DataFrame)
    assert {"guide", "objective", "num_parameters", "floor", "status"} <= set(table.columns)


def test_results_open_in_both_generations_of_arviz(results):
    healthy = made_up_results(healthy=True)
    data = results_to_arviz(healthy)
    summary = az.summary(data.runs, var_names=["last"], kind="stats", round_to="none")
    table = metrics_table(healthy, metrics=["last"]).set_index(["model", "dataset"])
    assert summary.loc["last[lvae, mnist]", "mean"] == pytest.approx(table.loc["lvae", "mnist"]["mean"])
    assert summary.loc["last[lvae, mnist]", "sd"] == pytest.approx(table.loc["lvae", "mnist"]["std"])
    tree = results_to_arviz(healthy, container="datatree")
    newer = arviz_stats.summary(tree, group="runs", var_names=["last"], kind="stats", round_to="none")
    assert newer.loc["last[lvae, mnist]", "mean"] == pytest.approx(summary.loc["last[lvae, mnist]", "mean"])
    xr.testing.assert_equal(data.study, healthy)
    assert np.isnan(results_to_arviz(results).runs["last"].sel(model="lvae", dataset="8gaussians").values[0, :2]).all()


def test_results_are_kept_in_one_file(results, tmp_path):
    path = save_results(results, tmp_path / "study.nc")
    again = open_results(path)
    xr.testing.assert_equal(again, results)
    assert again.attrs == results.attrs
    (tmp_path / "text.nc").write_text("text")
    with pytest.raises(DataError, match="must be a netCDF file of a study's results"):
        open_results(tmp_path / "text.nc")
    with pytest.raises(FileNotFoundError, match="the folder of a study or a netCDF file of its results; it is neither"):
        open_results(tmp_path / "gone.nc")
    results.drop_vars("status").to_netcdf(tmp_path / "other.nc", engine="h5netcdf")
    with pytest.raises(DataError, match=r"other.nc: results must be those of a study; they have no 'status'"):
        open_results(tmp_path / "other.nc")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.drop_vars("kl_weight"), "they have no 'kl_weight'"),
        (lambda r: r.assign(status=r["status"].isel(seed=0, drop=True)), "'status' must have the dimensions"),
        (lambda r: r.isel(seed=slice(0)), "results must hold a run"),
    ],
)
def test_what_is_no_study_is_refused(change, message, results):
    with pytest.raises(DataError, match=message):
        metrics_table(change(results))
