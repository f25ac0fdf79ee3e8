"""TrainingModule: an objective of a model and guide as Lightning trains it."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import pyro
import torch
import torch.distributed as dist
from pytorch_lightning import LightningModule
from torch import Tensor, nn

from guides.errors import ModelError, OptionError
from guides.noise import Share
from guides.plates import Minibatch
from ppl_models.objectives import Objective, ObjectiveModule
from ppl_models.seeds import derived_seed
from ppl_models.training.batched_data import BatchedData
from ppl_models.training.batches import check_finite
from ppl_models.training.compile import Compile, CompiledObjective
from ppl_models.training.denormals import flushing_denormals
from ppl_models.training.gradient import read_gradient
from ppl_models.training.interrupts import Signals
from ppl_models.training.loaders import batch_length
from ppl_models.training.pairs import find_parameters, start
from ppl_models.training.progress import Progress, noise_state, set_noise_state
from ppl_models.training.random_state import random_state
from ppl_models.training.saving import restore, state_of
from ppl_models.training.schedules import LearningRate, Schedule
from ppl_models.training.skipping import Skipping

__all__ = ["TrainingModule"]

#: The plate in which a model must hold its data.
DATA = "data"


class TrainingModule(LightningModule):
    """Let Lightning train an objective of a model and guide; see :func:`ppl_models.training.train`.

    Args:
        model: The model.
        guide: The guide.
        objective: The objective.
        validation_objective: That of the validation loss.
        compile: Whether to compile it.
        optimizer: From a list of parameters, and whether a fused kind will do, to an optimizer.
        schedule: The learning rate's.
        epochs: Number of epochs in all.
        max_grad_norm: Upper limit of the gradient's norm.
        max_skipped: How many steps may be skipped.
        bundle: Folder for steps that were skipped.
        signals: What may end the training.
        settings: What must be the same when the training goes on from a checkpoint; more is found at the setup.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        guide: Callable[..., Any],
        *,
        objective: Objective,
        validation_objective: Objective,
        compile: Compile,
        optimizer: Callable[[list[Tensor], bool], torch.optim.Optimizer],
        schedule: Schedule,
        epochs: int,
        max_grad_norm: float | None,
        max_skipped: int,
        bundle: str | os.PathLike[str] | None,
        signals: Signals,
        settings: dict[str, Any],
    ) -> None:
        super().__init__()
        self.pair = (model, guide)  # a tuple, so that they are registered once, in the evaluation
        self.objective, self.validation_objective, self.compiles = objective, validation_objective, compile
        self.optimizer, self.schedule, self.epochs = optimizer, schedule, epochs
        self.max_grad_norm, self.max_skipped, self.bundle = max_grad_norm, max_skipped, bundle
        self.signals, self.settings = signals, settings
        self.strict_loading = False  # a checkpoint holds the pair, with what the guide knows, in place of a state_dict
        self.progress = Progress()
        self.is_best = False
        self._validation_loss = math.nan
        self._restored: dict[str, Any] | None = None
        self._anyone_stopped = False
        self._was_skipped = False
        self._around = ExitStack()

    # What Lightning calls, in order.

    def setup(self, stage: str) -> None:
        source = self.data.train_source
        batch, minibatch = self.data.first_batch(), Minibatch(source.num_data, plate=DATA)
        self.objective.set_progress(step=0, epoch=0)
        start(self.pair[0], batch)  # if the training goes on, its checkpoint follows
        with minibatch:
            self.trained = find_parameters(self.objective, *self.pair, batch)
        if not minibatch.seen and source.num_batches != 1:
            raise ModelError(
                f"the model must hold its data in the plate {DATA!r}, so that a minibatch can be scaled; got a model "
                f"without it. Write pyro.plate({DATA!r}, len(x))."
            )
        module: ObjectiveModule = self.objective(*self.pair)
        self.evaluation = CompiledObjective(module, fallback=self.compiles == "auto") if self.compiles else module
        own = set(self.parameters())
        if self.trainer.world_size > 1 and any(p not in own for p in self.trained.values()):
            raise ModelError(
                "training in several processes needs every parameter in a module, the model's or the guide's; got "
                "pyro.param. Write a PyroModule with nn.Parameters in its place."
            )
        self.skipping = Skipping(
            self.objective, *self.pair, self.trained, max_skipped=self.max_skipped, bundle=self.bundle
        )
        found = {"num_data": source.num_data, "processes": self.trainer.world_size}
        self.settings = self.settings | found | {"precision": self.trainer.precision}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        # Where half precision scales gradients, fused optimizers would take the scale out themselves, after clipping.
        optimizer = self.optimizer(list(self.trained.values()), self._scaler is None)
        steps = self.epochs * -(-self.data.train_source.num_batches // self.trainer.world_size)
        self.learning_rate = LearningRate(self.schedule, optimizer, steps)
        return optimizer

    def on_train_start(self) -> None:
        # What was drawn to find the parameters depends on the size of a batch.
        torch.manual_seed(derived_seed(self.settings["seed"], "training"))
        if self._restored is not None:
            set_noise_state(self._restored["random_state"], self.device)
            if self.learning_rate.scheduler is not None:
                self.learning_rate.scheduler.load_state_dict(self._restored["scheduler"])
        if self.progress.finished:
            self.trainer.should_stop = True
        self._began = time.perf_counter() - self.progress.seconds
        self._compiled_before = self.progress.compile_seconds
        self.signals.hold()  # Lightning's own way with SIGTERM ends a training without a checkpoint
        self._around.enter_context(pyro.validation_enabled(False))
        self._around.enter_context(flushing_denormals())

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        args, self._step = batch["args"], self.trainer.global_step
        self.data.batches.taken = batch["index"] + 1
        self.objective.set_progress(step=self._step, epoch=self.current_epoch)
        self.progress.rate = self.learning_rate.begin(step=self._step, epoch=self.current_epoch)
        self._args, self._before = args, random_state()
        sizes = self._sizes(args if batch["counts"] else ())
        with self._part_of(args, sizes, self.data.train_source.num_data):
            self._estimate = self.evaluation.estimate(*args)
        loss = self._estimate.loss
        self._rows = sizes[self.global_rank]
        if len(sizes) > 1:
            # The mean over the processes is then that of all rows; what is not finite in one is so in all.
            loss = loss * (self._rows * len(sizes) / sum(sizes)) * (1 + 0 * loss.detach())
        return loss

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: Any = None, gradient_clip_algorithm: Any = None
    ) -> None:
        gradient = read_gradient(self._estimate, self.trained.values())
        finite = math.isfinite(gradient.norm) if self.trainer.world_size > 1 else gradient.is_finite
        self._was_skipped = not finite
        if not finite:
            overflowed = math.isfinite(gradient.loss) and self._scaler is not None and self._scaler.get_scale() > 1
            if not overflowed:  # else the scaler skips the step, and takes a smaller scale
                self._skip(gradient.loss)
            return
        if self.max_grad_norm is not None:
            nn.utils.clip_grads_with_norm_(list(self.trained.values()), self.max_grad_norm, gradient.total_norm)
        progress = self.progress
        progress.done += 1
        progress.norms += gradient.norm
        progress.rows += self._rows
        for name, value in {"loss": gradient.loss, **gradient.parts}.items():
            progress.sums[name] = progress.sums.get(name, 0.0) + self._rows * value

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        if not self._was_skipped:
            self.learning_rate.end()
        self._tell_time()

    def on_validation_start(self) -> None:
        self._outside = noise_state(self.device)
        torch.manual_seed(0)  # the same noise every time
        self._validation_sum = 0.0

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        args = batch["args"]
        sizes = self._sizes(args if batch["counts"] else ())
        with self._part_of(args, sizes, self.num_validation_data):
            loss = self.validation_objective.loss(*self.pair, *args)
        if not math.isfinite(loss):
            check_finite(args, name=f"validation batch {batch['index']}: argument")
        if sizes[self.global_rank]:
            self._validation_sum += loss * sizes[self.global_rank] / self.num_validation_data

    def on_validation_end(self) -> None:
        self._validation_loss = self._over_processes([self._validation_sum])[0]
        set_noise_state(self._outside, self.device)

    def on_train_epoch_end(self) -> None:
        progress = self.progress
        self._tell_time()
        stopped = float(self.signals.received is not None)
        names, values = list(progress.sums), list(progress.sums.values())
        rows, stopped, *values = self._over_processes([progress.rows, stopped, *values])
        self._anyone_stopped = stopped > 0
        means = {name: value / rows for name, value in zip(names, values, strict=True)}
        record = {
            "epoch": self.current_epoch,
            "step": self.trainer.global_step,
            "loss": means.pop("loss", math.nan),
            "validation_loss": self._validation_loss,
            "gradient_norm": progress.norms / progress.done if progress.done else math.nan,
            "learning_rate": progress.rate,
            "skipped": progress.skipped,
            "seconds": progress.seconds,
            **means,
        }
        progress.records.append(record)
        progress.sums, progress.rows, progress.norms, progress.skipped, progress.done = {}, 0.0, 0.0, 0, 0
        self.is_best = self._validation_loss < progress.best_loss
        if self.is_best:
            progress.best_loss, progress.best_epoch = self._validation_loss, self.current_epoch
        self._validation_loss = math.nan  # the next epoch's is not known
        logged = {name: float(value) for name, value in record.items() if name not in ("epoch", "step")}
        self.log_dict(logged, batch_size=1, sync_dist=self.trainer.world_size > 1)

    def on_train_end(self) -> None:
        self.progress.finished = self.trainer.should_stop

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        scheduler = self.learning_rate.scheduler
        self.progress.finished = self.trainer.should_stop
        checkpoint["state_dict"] = {}
        checkpoint["pair"] = state_of(*self.pair)
        checkpoint["training"] = {
            "settings": self.settings,
            "progress": dict(vars(self.progress)),
            "random_state": noise_state(self.device),
            "scheduler": None if scheduler is None else scheduler.state_dict(),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        before: dict[str, Any] = checkpoint["training"]
        for name, value in self.settings.items():
            if before["settings"].get(name) != value:
                raise OptionError(
                    f"{name} must stay as it was for a training to go on, {before['settings'].get(name)!r}; got "
                    f"{value!r}. Write another folder to begin anew."
                )
        restore(checkpoint["pair"], *self.pair)
        self._restored = before
        self.progress = Progress(**self._restored["progress"])
        self.skipping.count = self.progress.total_skipped

    # Inside.

    @property
    def data(self) -> BatchedData:
        """What is trained on."""
        data: BatchedData = self.trainer.datamodule  # type: ignore[attr-defined]
        return data

    @property
    def num_validation_data(self) -> int:
        """The number of validation data."""
        source = self.data.validation_source
        return 0 if source is None else source.num_data

    @property
    def stopped(self) -> bool:
        """Whether the training is to end after this step, in every process alike."""
        return self._anyone_stopped if self.trainer.world_size > 1 else self.signals.received is not None

    @property
    def _scaler(self) -> Any:
        """What multiplies losses for a backward pass in half precision; ``None`` in others."""
        return getattr(self.trainer.precision_plugin, "scaler", None)

    def close(self) -> None:
        """Leave the settings of the process as they were."""
        self._around.close()

    def _sizes(self, args: tuple[Any, ...]) -> list[int]:
        """How many rows each process has; asks, too, whether one is to stop."""
        own = batch_length(args)
        own = self.data.train_source.num_data if own is None and args else own or 0
        if self.trainer.world_size == 1:
            return [own]
        told = [0] * (self.trainer.world_size + 1)
        told[self.global_rank], told[-1] = own, self.signals.received is not None
        *sizes, stopped = self._over_processes(told)
        self._anyone_stopped = stopped > 0
        return [int(size) for size in sizes]

    @contextmanager
    def _part_of(self, args: tuple[Any, ...], sizes: list[int], num_data: int) -> Iterator[None]:
        """What is scaled up to all data, its noise that of all processes' rows together."""
        self._minibatch, self._share = Minibatch(num_data, plate=DATA), None
        if len(sizes) > 1:
            start = sum(sizes[: self.global_rank]) if sizes[self.global_rank] else 0
            self._share = Share(DATA, size=sum(sizes), start=start)
        with self._minibatch, self._share or nullcontext():
            yield

    def _skip(self, loss: float) -> None:
        self.progress.skipped += 1
        self.progress.total_skipped += 1
        where = f"batch {self.data.batches.taken - 1} of epoch {self.current_epoch}"
        check_finite(self._args, name=f"{where}: argument")
        with self._minibatch, self._share or nullcontext():
            self.skipping.skip(
                self._args,
                self._before,
                loss=loss,
                step=self._step,
                epoch=self.current_epoch,
                minibatch=self._minibatch,
                share=self._share,
                name=f"-rank{self.global_rank}" if self.trainer.world_size > 1 else "",
            )
        for parameter in self.trained.values():
            parameter.grad = None  # what an optimizer passes over

    def _over_processes(self, numbers: Sequence[float]) -> list[float]:
        """Sum numbers over the processes."""
        told = torch.tensor(numbers, dtype=torch.float64, device=self.device)
        if self.trainer.world_size > 1:
            dist.all_reduce(told)
        total: list[float] = told.tolist()
        return total

    def _tell_time(self) -> None:
        self.progress.seconds = time.perf_counter() - self._began
        if isinstance(self.evaluation, CompiledObjective):
            self.progress.compile_seconds = self._compiled_before + self.evaluation.seconds
