"""The demo: one VAE on handwritten digits, trained in three ways and judged by one yardstick."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from guides import Guide, HamiltonianGuide, MeanFieldGuide
from guides.errors import OptionError, choose, whole_number
from ppl_models.datasets import ImageData, binarise, digits, mnist
from ppl_models.diagnostics import importance_nll, to_arviz
from ppl_models.figures import reconstructions, samples, training_curves
from ppl_models.files import atomic_path
from ppl_models.labels import contain, package_version
from ppl_models.networks import MLPDecoder, MLPEncoder
from ppl_models.objectives import ELBO, IWAE, Objective
from ppl_models.seeds import seeded_generator
from ppl_models.training import FitResult, fit
from ppl_models.vae import VAE

if TYPE_CHECKING:
    import arviz as az
    from matplotlib.figure import Figure

__all__ = [
    "CONTENDERS",
    "SETTINGS",
    "Contender",
    "DemoResult",
    "Fitted",
    "Row",
    "Settings",
    "run_demo",
]

log = logging.getLogger(__name__)

_TRAIN_DRAWS, _TEST_DRAWS = 20, 1000
_CHAINS, _DRAWS, _POSTERIOR_IMAGES = 4, 100, 32
_SAMPLES, _RECONSTRUCTIONS = 64, 16
_MAX_PIXELS = 1_000_000  # of one batched run when judging: larger ones are no faster
_MAX_GRADIENT = 0.5  # nats per pixel: sound steps stay below it, and a trajectory that blows up is cut there


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the contenders have in common, for one set of images.

    Args:
        hidden: Widths of the hidden layers, of encoder and decoder alike.
        latent_dim: L.
        steps: Number of optimizer steps.
        batch_size: Images per step.
        lr: Initial learning rate; it falls to zero along a cosine.
        eval_images: How many training and how many test images are judged; all if ``None``.
        threads: Number of threads that torch works with; its own choice if ``None``.
    """

    hidden: tuple[int, ...]
    latent_dim: int
    steps: int
    batch_size: int = 100
    lr: float = 3e-3
    eval_images: int | None = None
    threads: int | None = None


#: By the name of the images. Chosen by validation images; the test images had no say.
SETTINGS: dict[str, Settings] = {
    # Matrices of 100 x 200 numbers are sooner multiplied than shared among threads.
    "digits": Settings(hidden=(200,), latent_dim=10, steps=1625, threads=1),
    "mnist": Settings(hidden=(400,), latent_dim=20, steps=4000, eval_images=200),
}


@dataclass(frozen=True, kw_only=True)
class Contender:
    """One way to train the VAE.

    Args:
        name: What it is called.
        how: What tells it from the others, for the table and the titles of figures.
        guide: Function from the model and an encoder to the guide.
        objective: Function that makes what is maximised.
        bound: The objective's name on an axis.
    """

    name: str
    how: str
    guide: Callable[[VAE, nn.Module], Guide]
    objective: Callable[[], Objective]
    bound: str

    @property
    def title(self) -> str:
        """Name and kind."""
        return f"{self.name}: {self.how}"


def _mean_field(vae: VAE, encoder: nn.Module) -> Guide:
    return MeanFieldGuide(vae, encoder=encoder)


def _hamiltonian(vae: VAE, encoder: nn.Module) -> Guide:
    return HamiltonianGuide(vae, encoder=encoder, num_steps=5, init_step_size=0.2, init_temperature=1.1)


CONTENDERS: tuple[Contender, ...] = (
    Contender(name="VAE", how="mean-field guide", guide=_mean_field, objective=ELBO, bound="ELBO"),
    Contender(name="HVAE", how="Hamiltonian guide, K = 5", guide=_hamiltonian, objective=ELBO, bound="ELBO"),
    Contender(
        name="IWAE",
        how="mean-field guide, K = 16",
        guide=_mean_field,
        objective=lambda: IWAE(num_particles=16),
        bound="IWAE, K = 16",
    ),
)


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """A contender after its training."""

    contender: Contender
    vae: VAE
    guide: Guide
    result: FitResult


@dataclass(frozen=True, kw_only=True)
class Row:
    """What the table says about one contender; losses are in nats per image.

    Args:
        model: Its name.
        how: What tells it from the others.
        guide: The class of its guide.
        objective: What it was trained with.
        train_negative_elbo: Over training images, binarised once.
        test_negative_elbo: The same for test images.
        test_nll: The importance-sampling estimate of the negative log-likelihood of test images.
        test_nll_standard_error: Its standard error, over the test images.
        median_k_hat: The median over the test images of the shape of their weights' tail.
        num_parameters: Of model and guide together.
        seconds: Time spent training.
        skipped_steps: Training steps left out because they were not finite.
    """

    model: str
    how: str
    guide: str
    objective: str
    train_negative_elbo: float
    test_negative_elbo: float
    test_nll: float
    test_nll_standard_error: float
    median_k_hat: float
    num_parameters: int
    seconds: float
    skipped_steps: int


@dataclass(frozen=True, kw_only=True)
class DemoResult:
    """What the demo did.

    Args:
        data: The name of the images.
        seed: What fixed the initial weights, the order of the images and all noise.
        steps: Optimizer steps per contender.
        num_train: Number of images trained on.
        judged_train: How many of them, the first ones, the table judges.
        num_test: Number of test images.
        judged_test: How many of them, the first ones, the table judges.
        train_draws: Draws per training image behind its -ELBO.
        test_draws: Draws per test image behind all that is said of them.
        rows: The table.
        files: What was written.
    """

    data: str
    seed: int
    steps: int
    num_train: int
    judged_train: int
    num_test: int
    judged_test: int
    train_draws: int
    test_draws: int
    rows: tuple[Row, ...]
    files: tuple[Path, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers, texts and lists, fit for JSON: a number that is not finite becomes ``None``."""
        rows = [{name: _finite_or_none(value) for name, value in asdict(row).items()} for row in self.rows]
        files = [str(path) for path in self.files]
        return {"version": package_version(), **asdict(self), "rows": rows, "files": files}


def run_demo(
    *,
    out: str | os.PathLike[str],
    data: str = "digits",
    data_dir: str | os.PathLike[str] | None = None,
    steps: int | None = None,
    seed: int = 0,
    eval_images: int | None = None,
    progress: bool = True,
) -> DemoResult:
    """Train the contenders, judge them, and write figures and posterior draws.

    All start from the same weights and see the same images in the same order. Whatever can be refused is refused
    before the training begins, and every file appears under its name only when it is complete.

    Args:
        out: The folder for ``training.png``, ``samples.png``, ``reconstructions.png`` and ``posterior.nc``.
        data: ``"digits"`` or ``"mnist"``.
        data_dir: For ``"mnist"``, the folder of its four files; see :func:`ppl_models.datasets.mnist`.
        steps: Optimizer steps per contender; by default what :data:`SETTINGS` says.
        seed: Fixes the initial weights, the order of the images and all noise. The split of the images is not its
            affair: that stays the same.
        eval_images: How many training and how many test images are judged; by default what :data:`SETTINGS` says.
        progress: Whether to show a progress bar.

    Raises:
        OptionError: If an option breaks its rule, or ``out`` cannot be written to.
        DataError: If the images cannot be had.
        DivergedError: If a training run fails.
    """
    settings = SETTINGS[choose("data", data, SETTINGS)]
    steps = settings.steps if steps is None else whole_number("steps", steps, least=1)
    judged = settings.eval_images if eval_images is None else whole_number("eval_images", eval_images, least=2)
    seeded_generator(seed)  # refuses what is no seed
    images = _load(data, data_dir)
    folder = _writable(Path(out).expanduser())

    with _threads(settings.threads):
        fitted = [_train(each, images, settings, steps=steps, seed=seed, progress=progress) for each in CONTENDERS]
        train = binarise(images.train[:judged], seeded_generator(seed))
        test = images.test[:judged]
        rows = tuple(_judge(each, train, test, seed=seed) for each in fitted)

        log.info("writing to %s", folder)
        draws = [_draw_posterior(each, test[:_POSTERIOR_IMAGES], seed=seed) for each in fitted]
        figures = _figures(fitted, draws, images, seed=seed)
        posterior = _inference_data(fitted, draws)
    posterior.attrs |= {"data": data, "seed": seed, "steps": steps, "ppl_models_version": package_version()}
    files = [_write(folder / f"{name}.png", figure.savefig) for name, figure in figures.items()]
    files.append(_write(folder / "posterior.nc", lambda path: posterior.to_netcdf(str(path), engine="h5netcdf")))
    return DemoResult(
        data=data,
        seed=seed,
        steps=steps,
        num_train=len(images.train),
        judged_train=len(train),
        num_test=len(images.test),
        judged_test=len(test),
        train_draws=_TRAIN_DRAWS,
        test_draws=_TEST_DRAWS,
        rows=rows,
        files=tuple(files),
    )


@contextmanager
def _threads(number: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(before if number is None else number)
        yield
    finally:
        torch.set_num_threads(before)


def _load(data: str, data_dir: str | os.PathLike[str] | None) -> ImageData:
    if data_dir is None:
        return mnist() if data == "mnist" else digits()
    if data != "mnist":
        raise OptionError(
            f"data_dir is only for data 'mnist'; got {str(data_dir)!r} with {data!r}, which needs no files."
        )
    return mnist(data_dir)


def _writable(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        TemporaryFile(dir=folder).close()
    except OSError as cause:
        raise OptionError(
            f"out must be a folder that files can be written to; got {str(folder)!r} ({cause.strerror}). Name another."
        ) from cause
    return folder


def _train(
    contender: Contender, images: ImageData, settings: Settings, *, steps: int, seed: int, progress: bool
) -> Fitted:
    vae, encoder = _networks(images, settings, seed=seed)
    guide = contender.guide(vae, encoder)
    log.info("training %s", contender.name)
    result = fit(
        vae,
        guide,
        images.train,
        objective=contender.objective(),
        lr=settings.lr,
        schedule="cosine",
        steps=steps,
        batch_size=min(settings.batch_size, len(images.train)),
        transform=binarise,
        max_grad_norm=_MAX_GRADIENT * images.train.numel(),
        validation=images.validation,
        seed=seed,
        progress=progress,
        description=f"{contender.name:5}",
    )
    return Fitted(contender=contender, vae=vae, guide=guide, result=result)


def _networks(images: ImageData, settings: Settings, *, seed: int) -> tuple[VAE, nn.Module]:
    """The same model and encoder, weight by weight, for the same seed."""
    shape = images.train.shape[1:]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        vae = VAE(
            MLPDecoder(settings.latent_dim, event_shape=shape, hidden=settings.hidden), latent_dim=settings.latent_dim
        )
        encoder = MLPEncoder(shape, output_dim=2 * settings.latent_dim, hidden=settings.hidden)
    return vae.to(images.train.dtype), encoder.to(images.train.dtype)


def _judge(fitted: Fitted, train: Tensor, test: Tensor, *, seed: int) -> Row:
    log.info("judging %s", fitted.contender.name)
    model, guide, elbo = fitted.vae, fitted.guide, ELBO()
    most = max(1, _MAX_PIXELS // test[0].numel())
    on_train = importance_nll(model, guide, train, num_samples=_TRAIN_DRAWS, max_batch=most, seed=seed)
    on_test = importance_nll(model, guide, test, num_samples=_TEST_DRAWS, max_batch=most, seed=seed)
    return Row(
        model=fitted.contender.name,
        how=fitted.contender.how,
        guide=type(guide).__name__,
        objective=repr(fitted.contender.objective()),
        train_negative_elbo=-elbo.bound(on_train.log_weights).mean().item(),
        test_negative_elbo=-elbo.bound(on_test.log_weights).mean().item(),
        test_nll=on_test.nll,
        test_nll_standard_error=on_test.standard_error,
        median_k_hat=on_test.k_hat.median().item(),
        num_parameters=fitted.result.num_parameters,
        seconds=fitted.result.seconds,
        skipped_steps=fitted.result.skipped,
    )


def _draw_posterior(fitted: Fitted, x: Tensor, *, seed: int) -> az.InferenceData:
    return to_arviz(
        fitted.vae,
        fitted.guide,
        x,
        num_samples=_DRAWS,
        num_chains=_CHAINS,
        prior=False,
        predictive=False,
        dims={"z": ["latent"], "x": ["channel", "row", "column"]},
        seed=seed,
    )


def _inference_data(fitted: list[Fitted], draws: list[az.InferenceData]) -> az.InferenceData:
    """All contenders' draws, side by side along the dimension ``model``."""
    import xarray as xr

    names = xr.IndexVariable("model", [each.contender.name for each in fitted])
    groups = {}
    for group in ("posterior", "log_likelihood", "sample_stats"):
        joined = xr.concat([each[group] for each in draws], names)
        groups[group] = joined.rename(data="image").transpose("chain", "draw", "model", "image", ...)
    stats = groups["sample_stats"]
    groups["sample_stats"] = stats.assign(log_weight=stats["log_p"] - stats["log_q"])
    groups["observed_data"] = draws[0]["observed_data"].rename(data="image").squeeze("channel", drop=True)
    return contain(groups, attrs=draws[0].attrs)


@torch.no_grad()
def _figures(fitted: list[Fitted], draws: list[az.InferenceData], images: ImageData, *, seed: int) -> dict[str, Figure]:
    titles = [each.contender.title for each in fitted]
    prior = torch.randn(_SAMPLES, fitted[0].vae.latent_dim, generator=seeded_generator(seed))
    generated = [each.vae.decode(prior.to(images.train)).mean for each in fitted]
    first = [
        torch.as_tensor(drawn["posterior"]["z"].values[0, 0, :_RECONSTRUCTIONS]).to(images.test) for drawn in draws
    ]
    rebuilt = [each.vae.decode(z).mean for each, z in zip(fitted, first, strict=True)]
    originals = images.test[: len(rebuilt[0])]
    return {
        "training": training_curves(
            {each.contender.title: each.result.history for each in fitted},
            num_train=len(images.train),
            num_validation=len(images.validation),
            bounds={each.contender.title: each.contender.bound for each in fitted},
        ),
        "samples": samples(
            {title: each.squeeze(1) for title, each in zip(titles, generated, strict=True)},
            caption=f"Probability of ink at {_SAMPLES} latent vectors drawn from the prior, the same for each model",
        ),
        "reconstructions": reconstructions(
            originals.squeeze(1),
            {title: each.squeeze(1) for title, each in zip(titles, rebuilt, strict=True)},
            caption="Binarised test images, and the probability of ink at one draw from each model's guide",
        ),
    }


def _write(path: Path, save: Callable[[Path], object]) -> Path:
    with atomic_path(path) as temporary:
        save(temporary)
    return path


def _finite_or_none(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
