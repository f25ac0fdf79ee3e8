"""train: train a model and a guide on loaders, with Lightning."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from guides import Guide
from guides.errors import OptionError, choose, whole_number
from ppl_models.objectives import ELBO, Objective
from ppl_models.seeds import derived_seed
from ppl_models.training.batches import Transform
from ppl_models.training.compile import Compile
from ppl_models.training.interrupts import Interrupted, Signals
from ppl_models.training.loaders import Unpack
from ppl_models.training.options import Optimizer, check_options, make_optimizer
from ppl_models.training.pairs import check_pair
from ppl_models.training.result import TrainResult
from ppl_models.training.saving import read_file
from ppl_models.training.schedules import Schedule

if TYPE_CHECKING:
    from pytorch_lightning import Callback, LightningDataModule
    from pytorch_lightning.loggers import Logger

__all__ = ["train"]

log = logging.getLogger(__name__)

LOGGERS = ("csv", "tensorboard", "wandb")

#: Options of the Trainer that are given in other ways.
_OURS = {
    "accumulate_grad_batches": "a larger batch_size",
    "callbacks": "callbacks=",
    "enable_checkpointing": "folder=",
    "enable_progress_bar": "progress=",
    "gradient_clip_val": "max_grad_norm=",
    "logger": "loggers=",
    "max_epochs": "epochs=",
    "max_steps": "epochs=",
} | {name: f"{name}=" for name in ("accelerator", "devices", "num_nodes", "precision", "strategy")}
#: Those that are as they must be.
_FIXED = ("default_root_dir", "inference_mode", "plugins", "use_distributed_sampler")


def train(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    data: Tensor | tuple[Any, ...] | Iterable[Any] | LightningDataModule,
    *,
    epochs: int,
    validation: Tensor | tuple[Any, ...] | Iterable[Any] | None = None,
    batch_size: int | None = None,
    transform: Transform | None = None,
    unpack: Unpack | None = None,
    num_data: int | None = None,
    num_batches: int | None = None,
    num_validation_data: int | None = None,
    objective: Objective | None = None,
    validation_objective: Objective | None = None,
    optim: Optimizer = torch.optim.Adam,
    lr: float = 1e-3,
    schedule: Schedule = "constant",
    max_grad_norm: float | None = None,
    max_skipped: int = 20,
    bundle: str | os.PathLike[str] | None = None,
    compile: Compile = False,
    patience: int | None = None,
    folder: str | os.PathLike[str] | None = None,
    checkpoint_every: int | None = None,
    resume: bool = False,
    loggers: str | Logger | Sequence[str | Logger] = (),
    callbacks: Sequence[Callback] = (),
    accelerator: str = "auto",
    devices: int | str | list[int] = 1,
    strategy: Any = "auto",
    num_nodes: int = 1,
    precision: Any = None,
    trainer: Mapping[str, Any] | None = None,
    seed: int | None = None,
    progress: bool = True,
) -> TrainResult:
    r"""Maximise a bound on the evidence on batches of data, epoch after epoch, in place.

    The loop, devices, precision and processes are Lightning's; what a batch says is scaled to all data, N / B, through
    the model's plate ``"data"``. With a folder, the training can go on where it ended, whatever ended it: parameters,
    optimizer, schedule, generators and the place in the data are kept, and on a CPU the result is the same bit for
    bit. An interrupt from the keyboard lets the step finish and writes ``last.ckpt`` before the program ends.

    A model with an attribute ``started`` that is false is started with the first batch; see
    :func:`~ppl_models.training.fit`. Order and noise of the data are functions of ``seed`` and the epoch alone. In
    several processes each takes every n-th batch; the noise of normal latents is that of one process with the batches
    joined, and so is the loss.

    Args:
        model: Any Pyro model with the plate ``"data"``.
        guide: Any Pyro guide of it. Ours are set up here if they are not yet.
        data: What to train on: a tensor or a tuple of tensors, the model's arguments, cut into batches here; a
            ``DataLoader`` or another iterable of such batches; or a ``LightningDataModule``.
        epochs: How many times to go through the data, those done before a ``resume`` included.
        validation: On what to evaluate the loss after each epoch, in evaluation mode and with the same noise every
            time; of the kinds of ``data``. A data module brings its own.
        batch_size: B, for tensors: in each process; 128 by default.
        transform: For tensors: from a batch of the first argument, and a generator, to what the model sees in training,
            for example :func:`ppl_models.datasets.binarise`.
        unpack: For loaders: from what they yield to the model's arguments.
        num_data: N, for loaders that do not tell.
        num_batches: How many batches make an epoch, for loaders without a length.
        num_validation_data: The same of ``validation``.
        objective: What to maximise; ``ELBO()`` by default.
        validation_objective: What the validation loss is minus of; the same by default. Trainings with different
            objectives are compared by one.
        optim: Optimizer class or factory, called as ``optim(parameters, lr=lr)``; ``torch.optim.Adam`` is made fused.
        lr: Learning rate.
        schedule: ``"constant"``, ``"cosine"`` (to zero at the last step), ``"study"`` (constant for 150 epochs, then
            linearly to zero at the 1000th), or a function from the optimizer to a torch scheduler, which is stepped
            after every step that is not skipped.
        max_grad_norm: Upper limit of the gradient's norm, enforced before the step.
        max_skipped: How many steps with a non-finite loss or gradient are skipped, counted and logged before the
            training stops; with 0 it stops at the first. Parameters are never changed by such a step. Those that
            ``"16-mixed"`` skips to find the scale of its gradients are not counted.
        bundle: Folder for all that each such step was made from, to run it again by
            :func:`~ppl_models.training.replay`.
        compile: Whether to compile loss and gradients into one graph; see
            :class:`~ppl_models.training.CompiledObjective`.
        patience: Stop after so many epochs without a smaller validation loss.
        folder: Where ``last.ckpt``, ``best.ckpt`` (smallest validation loss) and logs are written.
            :func:`~ppl_models.training.load` reads the model and guide in a checkpoint.
        checkpoint_every: After how many steps to write ``last.ckpt``, beside the end of each epoch.
        resume: Whether to go on from ``last.ckpt`` in the folder, if there is one.
        loggers: Lightning loggers, or names of them, of what :attr:`TrainResult.history` tells: ``"csv"``,
            ``"tensorboard"``, ``"wandb"`` (offline). The last two come with ``pip install 'ppl-models[loggers]'``.
        callbacks: Lightning callbacks.
        accelerator: As in Lightning.
        devices: As in Lightning: how many processes on this machine, or which devices.
        strategy: As in Lightning; ``"ddp"`` for several processes, which then need a ``seed``.
        num_nodes: As in Lightning: how many machines.
        precision: As in Lightning, for example ``"bf16-mixed"``; that of the parameters if not given.
        trainer: Further options of ``pytorch_lightning.Trainer``.
        seed: As in ``fit``.
        progress: Whether to show a progress bar.

    Returns:
        The history, what was skipped, and where the checkpoints are.

    Raises:
        OptionError: If a number is out of range, a name unknown, options do not fit together, the folder holds another
            training, or there is nothing to train.
        DataError: If data are not finite, a loader or a batch is empty, or a checkpoint cannot be read.
        ModelError: If the model has no plate ``"data"``, or a checkpoint is of another model or guide.
        DivergedError: After more than ``max_skipped`` skipped steps, with the site, the parameters and the step.
        KeyboardInterrupt: After an interrupt, once the step is done and written; after SIGTERM it is SystemExit(143).

    Example:
        >>> from guides import MeanFieldGuide
        >>> from ppl_models import VAE
        >>> from ppl_models.networks import MLPDecoder, MLPEncoder
        >>> model = VAE(MLPDecoder(1, event_shape=(4,), hidden=(8,)), latent_dim=1)
        >>> guide = MeanFieldGuide(model, encoder=MLPEncoder((4,), output_dim=2, hidden=(8,)))
        >>> x = torch.ones(20, 4)
        >>> result = train(model, guide, x, epochs=2, batch_size=8, validation=x, seed=0, progress=False)
        >>> result.steps, result.history["epoch"].tolist()
        (6, [0, 1])
    """
    epochs, max_skipped = whole_number("epochs", epochs, least=1), whole_number("max_skipped", max_skipped, least=0)
    check_options(optim=optim, lr=lr, max_grad_norm=max_grad_norm, compile=compile)
    numbers = {"batch_size": batch_size, "patience": patience, "checkpoint_every": checkpoint_every}
    numbers |= {"num_data": num_data, "num_batches": num_batches, "num_validation_data": num_validation_data}
    for name, value in numbers.items():
        if value is not None:
            whole_number(name, value, least=1)
    check_pair(model, guide, objective)
    check_pair(model, guide, validation_objective)
    objective = ELBO() if objective is None else objective
    options = dict(trainer or {})
    for name in options:
        if name in _OURS:
            raise OptionError(f"trainer must not hold {name!r}; write {_OURS[name]} instead.")
        if name in _FIXED:
            raise OptionError(f"trainer must not hold {name!r}, which is fixed; leave it out.")
    if folder is None and (resume or checkpoint_every is not None or loggers):
        raise OptionError("resume, checkpoint_every and loggers need a folder; got folder=None.")
    place = None if folder is None else Path(folder)
    last = None if place is None else place / "last.ckpt"
    if last is not None and last.exists() and not resume:
        raise OptionError(f"folder {place} holds a training already. Write resume=True to go on, or another folder.")
    before = read_file(last, "checkpoint", near=model) if last is not None and last.exists() else None
    if before is not None and seed is None:
        seed = before["training"]["settings"]["seed"]

    from pytorch_lightning import Trainer
    from pytorch_lightning.callbacks import EarlyStopping, RichProgressBar

    from ppl_models.training.batched_data import BatchedData
    from ppl_models.training.checkpoints import CheckpointFiles, Checkpoints
    from ppl_models.training.training_module import TrainingModule

    if seed is None and ((devices, num_nodes) != (1, 1) or os.environ.get("WORLD_SIZE", "1") != "1"):
        raise OptionError("training in several processes needs a seed, the same in all; got None. Write seed=0.")
    order = int(torch.randint(2**31, ())) if seed is None else seed
    signals = Signals()
    batched = BatchedData(
        data,
        validation,
        batch_size=batch_size,
        transform=transform,
        unpack=unpack,
        num_data=num_data,
        num_batches=num_batches,
        num_validation_data=num_validation_data,
        seed=order,
        must_validate=patience is not None,
    )
    settings = {"objective": repr(objective), "lr": lr, "max_grad_norm": max_grad_norm, "seed": order}
    settings |= {"optim": getattr(optim, "__name__", None), "batch_size": batch_size}
    shape = getattr(schedule, "__name__", type(schedule).__name__) if callable(schedule) else schedule
    settings |= {"schedule": f"cosine over {epochs} epochs" if schedule == "cosine" else shape}
    if validation_objective is not None:
        settings |= {"validation_objective": repr(validation_objective)}
    module = TrainingModule(
        model,
        guide,
        objective=objective,
        validation_objective=objective if validation_objective is None else validation_objective,
        compile=compile,
        optimizer=lambda parameters, fused: make_optimizer(optim, parameters, lr=lr, fused=fused),
        schedule=schedule,
        epochs=epochs,
        max_grad_norm=max_grad_norm,
        max_skipped=max_skipped,
        bundle=bundle,
        signals=signals,
        settings=settings,
    )
    watching: list[Callback] = []
    if patience is not None:
        # A loss that is not finite is not smaller, and no more; our records are written at the end of the epoch.
        when: dict[str, Any] = {"check_finite": False, "check_on_train_epoch_end": True}
        watching.append(EarlyStopping("validation_loss", patience=patience, **when))
    if progress:
        watching.append(RichProgressBar(refresh_rate=10, leave=False, console_kwargs={"stderr": True}))
    watching.append(Checkpoints(place, every=checkpoint_every, signals=signals))
    device = _device_of(model, guide)
    with _quiet_lightning(), ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng())
        torch.manual_seed(derived_seed(order, "training"))
        loop = Trainer(
            **{"num_sanity_val_steps": 0, "enable_model_summary": False, "log_every_n_steps": 1} | options,
            max_epochs=epochs,
            accelerator=accelerator,
            devices=devices,
            strategy=strategy,
            num_nodes=num_nodes,
            precision=precision,
            callbacks=[*callbacks, *watching],
            logger=_make_loggers(loggers, place) or False,
            plugins=[CheckpointFiles(model)],
            enable_progress_bar=progress,
            use_distributed_sampler=False,
            inference_mode=False,
            default_root_dir=place,
        )
        stack.callback(module.close)
        stack.enter_context(signals.held())
        try:
            loop.fit(module, datamodule=batched, ckpt_path=last if before is not None else None)
        except Interrupted:
            stack.close()
            log.warning("stopped by a signal%s", "" if place is None else f"; resume=True goes on from {place}")
            signals.pass_on()
        finally:
            _move((model, guide), device)
    done = module.progress
    return TrainResult(
        epochs=len(done.records),
        steps=loop.global_step,
        skipped=done.total_skipped,
        seconds=done.seconds,
        compile_seconds=done.compile_seconds,
        stopped_early=done.finished,
        best_epoch=done.best_epoch,
        num_data=batched.train_source.num_data,
        num_validation_data=module.num_validation_data,
        num_parameters=sum(p.numel() for p in module.trained.values()),
        last=last,
        best=None if place is None or done.best_epoch is None else place / "best.ckpt",
        records=done.records,
    )


def _make_loggers(loggers: str | Logger | Sequence[str | Logger], folder: Path | None) -> list[Logger]:
    """Lightning's loggers, by their names."""
    from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger, WandbLogger

    made: list[Logger] = []
    for each in [loggers] if isinstance(loggers, str) or not isinstance(loggers, Sequence) else loggers:
        if not isinstance(each, str):
            made.append(each)
            continue
        assert folder is not None, "checked by the caller"
        try:
            if choose("loggers", each, LOGGERS) == "csv":
                made.append(CSVLogger(folder, name="csv", flush_logs_every_n_steps=1))
            elif each == "tensorboard":
                made.append(TensorBoardLogger(folder, name="tensorboard"))
            else:
                made.append(WandbLogger(save_dir=folder, project="ppl-models", offline=True))
        except ModuleNotFoundError as error:
            raise OptionError(
                f"logger {each!r} needs a library that is not installed. Write pip install 'ppl-models[loggers]'."
            ) from error
    return made


def _device_of(*parts: object) -> torch.device | None:
    return next((p.device for part in parts if isinstance(part, nn.Module) for p in _parameters(part)), None)


def _parameters(part: nn.Module) -> Iterator[Tensor]:
    return nn.Module.parameters(part) if not isinstance(part, Guide) or part.is_set_up else iter(())


def _move(parts: tuple[object, ...], device: torch.device | None) -> None:
    """Bring modules back to where they were."""
    for part in parts:
        if isinstance(part, nn.Module) and device is not None and _device_of(part) not in (None, device):
            part.to(device)


@contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Let Lightning tell of warnings only, and not of those that nobody can do anything about."""
    loggers = [logging.getLogger(name) for name in ("pytorch_lightning", "lightning_fabric")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.WARNING)
        with warnings.catch_warnings():
            # Lightning 2.6 flattens loaders in a way that torch 2.13 calls deprecated.
            warnings.filterwarnings("ignore", ".*LeafSpec.* is deprecated", FutureWarning)
            # Modules that are frozen in evaluation mode are so on purpose.
            warnings.filterwarnings("ignore", r"Found \d+ module\(s\) in eval mode", UserWarning)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
