"""save and load: a fitted model and guide in one file, which needs no data to be read."""

from __future__ import annotations

import copy
import io
import os
import pickle
import zipfile
from collections.abc import Callable
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import pyro
import torch
from torch import Tensor, nn

from guides.errors import DataError, ModelError
from guides.supports import from_plain, to_plain
from ppl_models.files import atomic_path

__all__ = ["load", "read_file", "restore", "save", "state_of", "write_file"]

#: The number of the layout of our files; raised when it changes.
FORMAT = 1


def save(path: str | os.PathLike[str], model: Callable[..., Any], guide: Callable[..., Any]) -> None:
    """Write a model's and a guide's parameters, and what the guide knows of the model's latents, to one file.

    The code of neither is in it: :func:`load` takes the same model and guide, made anew. Where one of the two is a
    function, Pyro's global parameters are written too. An older file stays as it was until the new one is complete.

    Args:
        path: The file, by custom ``.pt``. Its folder is made if it is missing.
        model: The model.
        guide: The guide.

    Raises:
        OSError: If the file cannot be written.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from guides import MeanFieldGuide
        >>> from ppl_models import OffsetGaussian
        >>> gaussian = OffsetGaussian(2)
        >>> guide = MeanFieldGuide(gaussian).setup(torch.randn(10, 2))
        >>> with TemporaryDirectory() as folder:
        ...     save(f"{folder}/fit.pt", gaussian, guide)
        ...     again = OffsetGaussian(2)
        ...     guide = MeanFieldGuide(again)
        ...     load(f"{folder}/fit.pt", again, guide)
        >>> guide
        MeanFieldGuide(LatentSpace(dim=2, sites=[z: (2,) real]))
    """
    write_file(path, "fit", state_of(model, guide))


def load(path: str | os.PathLike[str], model: Callable[..., Any], guide: Callable[..., Any]) -> None:
    """Give a model and a guide the parameters in a file; the guide need not be set up, and no data are needed.

    If anything does not fit, both stay as they were. Only tensors and plain data are read, and no code is run.

    Args:
        path: A file that :func:`save` wrote, or a checkpoint of :func:`~ppl_models.training.train`.
        model: The same model, made anew.
        guide: The same guide of it, made anew.

    Raises:
        FileNotFoundError: If there is no such file.
        DataError: If it is not a whole file of ours, or of a version that this one does not read.
        ModelError: If it is of another model or guide: of another class, with other options, other parameters, or
            parameters of another dtype.
    """
    content = read_file(path, "fit", "checkpoint", near=model)
    restore(content.get("pair", content), model, guide)


def state_of(model: Callable[..., Any], guide: Callable[..., Any]) -> dict[str, Any]:
    """What :func:`restore` gives to a model and a guide made anew, as tensors and plain data."""
    content = {name: _state(part) for name, part in (("model", model), ("guide", guide))}
    both = isinstance(model, nn.Module) and isinstance(guide, nn.Module)
    return content | {"parameters": {} if both else _global_parameters()}


def restore(content: dict[str, Any], model: Callable[..., Any], guide: Callable[..., Any]) -> None:
    """Give a model and a guide their parameters; if anything does not fit, both stay as they were.

    Raises:
        ModelError: If they are of another model or guide.
    """
    saved = content["parameters"]
    supports = {name: from_plain(each["constraint"]) for name, each in saved.items()}
    before = [(part, copy.deepcopy(part.state_dict())) for part in (model, guide) if isinstance(part, nn.Module)]
    try:
        _take("model", model, content["model"])
        _take("guide", guide, content["guide"])
    except BaseException:
        for part, state in before:
            nn.Module.load_state_dict(part, state, strict=False)
        raise
    pyro.get_param_store().set_state({"params": _leaves(saved), "constraints": supports})


def write_file(path: str | os.PathLike[str], kind: str, content: dict[str, Any]) -> None:
    """Write plain data and tensors as a file of ours, all or nothing."""
    written = io.BytesIO()  # a full disk is then met in one place, by Python
    torch.save({"ppl_models": kind, "format": FORMAT, "versions": _versions(), **content}, written)
    with atomic_path(path) as temporary:
        temporary.write_bytes(written.getbuffer())


def read_file(path: str | os.PathLike[str], *kinds: str, near: Callable[..., Any]) -> dict[str, Any]:
    """Read what :func:`write_file` wrote, onto the device of a model's parameters.

    Raises:
        FileNotFoundError: If there is no such file.
        DataError: If it is not a whole file of one of these kinds, or of a version that this one does not read.
    """
    device = next((p.device for p in near.parameters()), "cpu") if isinstance(near, nn.Module) else "cpu"
    file = io.BytesIO(Path(path).read_bytes())  # past this line no error is the disk's
    try:
        if not _is_whole(file):
            raise EOFError("a part is missing, or differs from its checksum")
        content = torch.load(file, weights_only=True, map_location=device)
    except pickle.UnpicklingError as error:
        named = str(error).partition("WeightsUnpickler error: ")[2].partition("\n")[0]
        raise DataError(
            f"{path} must hold tensors and plain data only; it holds something else, or is damaged. {named} If you "
            "know what it holds, call torch.serialization.add_safe_globals first."
        ) from error
    except (EOFError, KeyError, OSError, RuntimeError, ValueError) as error:
        raise DataError(f"{path} must be a whole file written by ppl-models; it is damaged or cut short.") from error
    if not isinstance(content, dict) or content.get("ppl_models") not in kinds:
        kind = " or ".join(map(repr, kinds))
        raise DataError(f"{path} must be a file of kind {kind} written by ppl-models; it is another.")
    if content["format"] != FORMAT:
        writer = content["versions"].get("ppl-models", "of unknown version")
        older = "older" if content["format"] > FORMAT else "newer"
        raise DataError(
            f"{path} must have format {FORMAT}; got {content['format']}, written by ppl-models {writer}: this "
            f"ppl-models is {older}. Read it with that one."
        )
    return content


def _is_whole(file: io.BytesIO) -> bool:
    """Whether all parts of a file by ``torch.save`` have their checksums; torch itself does not look at them."""
    try:
        with zipfile.ZipFile(file) as archive:
            return archive.testzip() is None
    except Exception:  # what a damaged archive raises, zipfile does not say
        return False
    finally:
        file.seek(0)


def _versions() -> dict[str, str]:
    versions = {}
    for name in ("ppl-models", "torch", "pyro-ppl"):
        with suppress(metadata.PackageNotFoundError):  # a checkout that is not installed has no version
            versions[name] = metadata.version(name)
    return versions


def _state(part: Callable[..., Any]) -> dict[str, Any]:
    return {"kind": type(part).__name__, "state": dict(part.state_dict()) if isinstance(part, nn.Module) else {}}


def _take(name: str, part: Callable[..., Any], saved: dict[str, Any]) -> None:
    """Give a model or guide the state in a file."""
    if type(part).__name__ != saved["kind"]:
        raise ModelError(f"{name} must be of class {saved['kind']}, as in the file; got {type(part).__name__}.")
    if not isinstance(part, nn.Module):
        return
    own = part.state_dict()
    for key, value in saved["state"].items():
        got = own.get(key)
        if isinstance(value, Tensor) and isinstance(got, Tensor) and got.dtype != value.dtype:
            raise ModelError(
                f"{name}.{key} must be {value.dtype}, as in the file; got {got.dtype}. Write {name}.to({value.dtype})."
            )
    try:
        part.load_state_dict(saved["state"])
    except RuntimeError as error:
        differs = " ".join(str(error).partition(":")[2].split())
        raise ModelError(f"{name} must have the parameters that the file has. {differs}") from error


def _global_parameters() -> dict[str, dict[str, Any]]:
    state = pyro.get_param_store().get_state()
    return {
        name: {"value": leaf.detach(), "constraint": to_plain(state["constraints"][name])}
        for name, leaf in state["params"].items()
    }


@torch.no_grad()
def _leaves(saved: dict[str, dict[str, Any]]) -> dict[str, Tensor]:
    """Parameters with the values in a file: those that are there, which an optimizer may know, or else new ones."""
    leaves: dict[str, Tensor] = dict(pyro.get_param_store().get_state()["params"])
    for name, each in saved.items():
        value, own = each["value"], leaves.get(name)
        if own is not None and (own.shape, own.dtype, own.device) == (value.shape, value.dtype, value.device):
            own.copy_(value)
        else:
            leaves[name] = value.clone().requires_grad_()
    return {name: leaves[name] for name in saved}
