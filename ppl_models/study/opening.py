"""Results of a study from where they are kept, and for other programs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from guides.errors import DataError
from ppl_models.files import atomic_path
from ppl_models.labels import contain, versions
from ppl_models.study.results import results
from ppl_models.study.run_values import RUN_DIMS, check_results, run_values

if TYPE_CHECKING:
    import xarray as xr
    from arviz import InferenceData

__all__ = ["open_results", "results_to_arviz", "save_results"]


def open_results(path: str | os.PathLike[str]) -> xr.Dataset:
    """Read the results of a study from its folder, or from the file that :func:`save_results` wrote.

    Args:
        path: The folder, or the netCDF file.

    Raises:
        FileNotFoundError: If there is neither.
        DataError: If it holds no results of a study.
    """
    import xarray as xr

    path = Path(path)
    if path.is_dir():
        return check_results(results(path))
    if not path.is_file():
        raise FileNotFoundError(f"{path} must be the folder of a study or a netCDF file of its results; it is neither.")
    try:
        return check_results(xr.load_dataset(path, engine="h5netcdf"))
    except (OSError, ValueError) as error:
        if isinstance(error, DataError):
            raise DataError(f"{path}: {error}") from error
        raise DataError(f"{path} must be a netCDF file of a study's results; it cannot be read as one.") from error


def save_results(results: xr.Dataset, path: str | os.PathLike[str]) -> Path:
    """Write the results of a study as one netCDF file, which xarray and ArviZ open too.

    Args:
        results: Of a study.
        path: The file, which appears when it is whole.

    Raises:
        DataError: If these are no results of a study.
    """
    with atomic_path(path) as temporary:
        check_results(results).to_netcdf(temporary, engine="h5netcdf")
    return Path(path)


def results_to_arviz(results: xr.Dataset, *, container: str | None = None) -> InferenceData:
    """Write the results of a study as ArviZ takes them.

    Groups: ``runs``, each metric of each run, the seeds as draws of one chain, so that what ArviZ says of draws
    it says of seeds; NaN where a run has no finite number; and ``study``, the results as they are.

    Args:
        results: Of a study.
        container: ``"inference_data"`` (ArviZ 0.x) or ``"datatree"`` (``arviz-base`` and the other 1.x packages); what
            the installed ArviZ takes, if not given.

    Raises:
        DataError: If these are no results of a study.
        OptionError: If ``container`` is unknown.
    """
    import numpy as np

    values = run_values(results).drop_vars("diverged")
    runs = values.where(np.isfinite(values)).rename(seed="draw").expand_dims("chain")
    runs = runs.transpose("chain", "draw", *(dim for dim in RUN_DIMS if dim != "seed"))
    return contain({"runs": runs, "study": results}, attrs=versions("ppl-models") | dict(results.attrs), kind=container)
