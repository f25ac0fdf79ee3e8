"""RunFolder: a saved fit with the code and the data that belong to it."""

from __future__ import annotations

import importlib
import importlib.util
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from guides.errors import DataError, ModelError, OptionError, PplError
from ppl_models.training import load

if TYPE_CHECKING:
    from ppl_models.diagnostics import Verdict

__all__ = ["RunFolder"]

#: The fit, in the order in which they are looked for; the code; and the data.
FITS, CODE, DATA, HELD_OUT = ("fit.pt", "best.ckpt", "last.ckpt"), "run.py", "data.pt", "held_out.pt"


class RunFolder:
    """Read a folder that holds a fit, and judge it.

    ======================================== ===========================================================================
    ``fit.pt``, ``best.ckpt``, ``last.ckpt`` the fit, as :func:`~ppl_models.training.save` or ``train(folder=...)``
                                             wrote it; the first of them that there is
    ``run.py``                               a program whose function ``make()`` returns the model and the guide, made
                                             anew, and behind them any arguments of both
    ``data.pt``                              the arguments, if ``make`` returns none: ``torch.save((x, y), "data.pt")``
    ``held_out.pt``                          arguments with other data, if there are any
    ======================================== ===========================================================================

    A file of parameters holds no code, and none is run in reading it or the data. ``run.py`` is run as it is.

    Args:
        folder: The folder.
        make: ``"FILE.py:FUNCTION"`` or ``"MODULE:FUNCTION"`` in place of ``run.py``.
        data: A file in place of ``data.pt``.
        held_out: A file in place of ``held_out.pt``.

    Raises:
        OptionError: If ``make`` names no function.
        DataError: If the folder, or a file that is needed, is missing or damaged.
        ModelError: If the file is of another model or guide.
    """

    def __init__(
        self, folder: Path, *, make: str | None = None, data: Path | None = None, held_out: Path | None = None
    ) -> None:
        if not folder.is_dir():
            raise DataError(f"RUN_DIR must be the folder of a run; got {str(folder)!r}, which is none.")
        self.folder = folder
        fits = [folder / name for name in FITS if (folder / name).exists()]
        if not fits:
            raise DataError(
                f"{folder} must hold a fit: {', '.join(FITS[:-1])} or {FITS[-1]}; it has none. Write it by "
                "ppl_models.training.save(), or train with folder=."
            )
        made = _function(folder, make)()
        if not isinstance(made, tuple) or len(made) < 2 or not all(map(callable, made[:2])):
            raise ModelError(f"make() must return a model and a guide, and then any data; got {type(made).__name__}.")
        self.model, self.guide = made[:2]
        self.args: tuple[Any, ...] = made[2:]
        if data is not None or (not self.args and (folder / DATA).exists()):
            self.args = _arguments(folder / DATA if data is None else data)
        self.held_out = None
        if held_out is not None or (folder / HELD_OUT).exists():
            self.held_out = _arguments(folder / HELD_OUT if held_out is None else held_out)
        load(fits[0], self.model, self.guide)

    def check(self, *, reference: str, num_samples: int, seed: int) -> Verdict:
        """Judge the fit; see :func:`ppl_models.diagnostics.check`.

        Args:
            reference: ``"nuts"``, ``"none"``, or the path of a netCDF file.
            num_samples: Draws of the guide.
            seed: Fixes all chance.
        """
        from ppl_models.diagnostics import check

        source: Any = None if reference == "none" else reference
        if reference not in ("none", "nuts"):
            source = _inference_data(Path(reference))
        try:
            return check(
                self.model,
                self.guide,
                *self.args,
                reference=source,
                held_out=self.held_out,
                num_samples=num_samples,
                seed=seed,
            )
        except (TypeError, PplError) as error:
            if self.args:
                raise
            raise DataError(
                f"{self.folder} must hold {DATA}, or --data must name the file, for a model that takes data ({error})."
            ) from error


def _function(folder: Path, make: str | None) -> Callable[[], Any]:
    """The function that makes model and guide."""
    if make is None and not (folder / CODE).exists():
        raise DataError(
            f"{folder} has no model in it: {CODE} must define make(), which returns model and guide. Write it there, "
            "or give --make FILE.py:FUNCTION."
        )
    place, _, name = (f"{folder / CODE}:make" if make is None else make).rpartition(":")
    if not place:
        raise OptionError(f"--make must be FILE.py:FUNCTION or MODULE:FUNCTION; got {make!r}.")
    if place.endswith(".py"):
        if not Path(place).is_file():
            raise DataError(f"--make must name a file that exists; got {place!r}.")
        spec = importlib.util.spec_from_file_location("ppl_models_run", place)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # for dataclasses and pickles in it
        spec.loader.exec_module(module)
    else:
        module = importlib.import_module(place)
    function = getattr(module, name, None)
    if not callable(function):
        raise OptionError(f"{place} must define the function {name}(); it does not.")
    return function


def _arguments(path: Path) -> tuple[Any, ...]:
    """Tensors and plain data from a file by ``torch.save``: one argument, or a tuple of them."""
    if not path.is_file():
        raise DataError(f"the file of the data must exist; got {str(path)!r}.")
    try:
        content = torch.load(path, weights_only=True, map_location="cpu")
    except (EOFError, KeyError, RuntimeError, ValueError, pickle.UnpicklingError) as error:
        raise DataError(
            f'{path} must hold tensors, written by torch.save((x, y), "{path.name}"); it holds something else, or is '
            "damaged or cut short."
        ) from error
    if isinstance(content, Tensor):
        return (content,)
    if not isinstance(content, tuple | list):
        raise DataError(f"{path} must hold a tensor or a tuple of arguments; got {type(content).__name__}.")
    return tuple(content)


def _inference_data(path: Path) -> Any:
    if not path.is_file():
        raise OptionError(f"--reference must be nuts, none or a netCDF file that exists; got {str(path)!r}.")
    import arviz as az

    try:
        return az.from_netcdf(str(path), engine="h5netcdf")
    except Exception as error:  # what a damaged file raises, no library says
        raise DataError(f"{path} must be a netCDF file of ArviZ; it is another, or damaged.") from error
