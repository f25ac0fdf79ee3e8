"""Training steps on images of MNIST's size with the study's networks: their time, and the memory they take at most."""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pyro
import torch
from torch import Tensor, nn

from benchmarks.cost import ratio
from benchmarks.report import Row
from guides import HamiltonianGuide, MeanFieldGuide
from guides.force import Force
from guides.target import Proposal, Target
from ppl_models import VAE
from ppl_models.networks import ConvDecoder, ConvEncoder
from ppl_models.networks.conv import _Images
from ppl_models.objectives import ELBO, IWAE, Objective
from ppl_models.training.denormals import flushing_denormals

BATCH, LATENT, STEPS, PARTICLES = 128, 64, 15, 40

Step = Callable[[Tensor], None]


class TwoForcesPerStep(HamiltonianGuide):
    """The same trajectory by a leapfrog that computes the force at both ends of every step."""

    def propose(self, target: Target, noise: Tensor) -> Proposal:
        start = self.base.propose(target, noise[..., : self.base.noise_dim])
        noise = noise[..., self.base.noise_dim :]
        step_size, scales = self.step_size, self.temperatures
        kept = {"detach": False, "checkpoint": False}
        force_at = Force(self, target.log_joint, step_size.expand(self.num_steps, -1), from_start=True, **kept)
        position, momentum = start.latent, scales[0] * noise
        for k in range(1, self.num_steps + 1):
            momentum = momentum + 0.5 * step_size * force_at(position)
            position = position + step_size * momentum
            momentum = momentum + 0.5 * step_size * force_at(position)
            momentum = momentum * (scales[k] / scales[k - 1])
        return Proposal(position, start.log_q + 0.5 * (momentum.square() - noise.square()).sum(-1))


def images(num: int = BATCH) -> Tensor:
    """Random ones: the time of a step does not depend on what they show."""
    return (torch.rand(num, 1, 28, 28) < 0.2).float()


def step_of(make: Callable[..., Any], objective: Objective, *, batch_norm: bool = False) -> tuple[Any, Step]:
    """A VAE with the study's networks, its objective as a module, and loss and gradient as a step."""
    torch.manual_seed(0)
    model = VAE(ConvDecoder(LATENT, batch_norm=batch_norm), latent_dim=LATENT)
    guide = make(model, encoder=ConvEncoder(LATENT, batch_norm=batch_norm)).setup(images(2))
    module = objective(model, guide)

    def step(x: Tensor) -> None:
        with pyro.validation_enabled(False), flushing_denormals():
            module.zero_grad()
            module(x).backward()

    return module, step


def hamiltonian(family: type[HamiltonianGuide] = HamiltonianGuide, **options: Any) -> Step:
    return step_of(partial(family, num_steps=STEPS, **options), ELBO())[1]


def iwae(**options: Any) -> Step:
    return step_of(MeanFieldGuide, IWAE(num_particles=PARTICLES, **options))[1]


#: Constructors of steps, by names under which a process of its own can be asked for one.
STEPS_BY_NAME: dict[str, Callable[[], Step]] = {
    "mean field": lambda: step_of(MeanFieldGuide, ELBO())[1],
    "hamiltonian": hamiltonian,
    "hamiltonian, two forces per step": partial(hamiltonian, TwoForcesPerStep),
    "hamiltonian, checkpoint": partial(hamiltonian, checkpoint=True),
    "iwae": iwae,
    "iwae, chunked": partial(iwae, chunk_size=3),
}


def time_ratio(first: str, second: str) -> float:
    """Of processor time, so that whatever else the machine does counts little in steps that take seconds."""
    x = images()
    one, other = (partial(STEPS_BY_NAME[name](), x) for name in (first, second))
    return ratio(one, other, rounds=5, clock=time.process_time)


def memory_ratio(first: str, second: str) -> float:
    """Of what one step adds to the memory of its process, at the most."""
    mebibytes = []
    for name in (first, second):
        command = [sys.executable, "-m", "benchmarks.mnist", name]
        mebibytes.append(float(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout))
    return mebibytes[0] / mebibytes[1]


def added_memory(name: str) -> float:
    """MiB that this process's peak of resident memory grows by in one step, its code being loaded by a smaller one."""
    step, x = STEPS_BY_NAME[name](), images()
    step(x[:1])
    before = resident_peak()
    step(x)
    return resident_peak() - before


def resident_peak() -> float:
    status = Path("/proc/self/status")
    if not status.exists():  # not Linux; in bytes on macOS
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    # On Linux getrusage would begin at what the process that started this one holds.
    peak = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(peak.split()[1]) / 2**10


@contextmanager
def single_precision() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def trajectories() -> Iterator[Row]:
    name = f"MNIST conv VAE, batch {BATCH}, hamiltonian K={STEPS}, loss and gradients"
    with single_precision():
        yield Row(f"{name}: time over the plain VAE's", time_ratio("hamiltonian", "mean field"))
        yield Row(f"{name}: time over that of {PARTICLES} importance samples", time_ratio("hamiltonian", "iwae"))
        value = time_ratio("hamiltonian, two forces per step", "hamiltonian")
        yield Row(f"{name}: time with 2K force evaluations over ours", value, least=1.7)
        value = time_ratio("hamiltonian, checkpoint", "hamiltonian")
        yield Row(f"{name}: time with checkpoint over without", value, most=1.5)
        value = memory_ratio("hamiltonian, checkpoint", "hamiltonian")
        yield Row(f"{name}: peak resident memory with checkpoint over without", value, most=0.5)


def particles() -> Iterator[Row]:
    name = f"MNIST conv IWAE, {PARTICLES} samples, batch {BATCH}, loss and gradients"
    with single_precision():
        value = time_ratio("iwae, chunked", "iwae")
        yield Row(f"{name}: time in chunks of 3 over all at once", value, most=1.0)
        value = memory_ratio("iwae, chunked", "iwae")
        yield Row(f"{name}: peak resident memory in chunks of 3 over all at once", value, most=1 / 8)
        for trained, least in ((0, None), (10, 2.5)):
            value = over_pythae(trained)
            yield Row(
                f"{name}, the study's batch norm, after {trained} updates: pythae's time over ours", value, least=least
            )


def as_published(decoder: ConvDecoder) -> nn.Sequential:
    """The same layers in the study's order and torch's usual layout of memory."""
    layers: list[nn.Module] = []
    for layer in decoder.layers:
        if isinstance(layer, nn.Upsample):
            layers.insert(-1, layer)
        else:
            layers.append(nn.Unflatten(-1, (32, 4, 4)) if isinstance(layer, _Images) else layer)
    return nn.Sequential(*layers)


def over_pythae(trained: int) -> float:
    """Time of pythae's IWAE as it comes over ours, with the same networks.

    Where the log-weights of one datum differ by more than 80 nats or so, as with batch norm early in training, the
    gradients of many particles are denormal numbers, which ours takes for zeros.
    """
    from pythae.models import IWAE as TheirIWAE
    from pythae.models import IWAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder

    module, step = step_of(MeanFieldGuide, IWAE(num_particles=PARTICLES), batch_norm=True)

    class Encoder(BaseEncoder):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.network = module.guide.encoder

        def forward(self, x: Tensor) -> Any:
            loc, log_scale = self.network(x).chunk(2, -1)
            return ModelOutput(embedding=loc, log_covariance=2 * log_scale)

    class Decoder(BaseDecoder):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.network = as_published(module.model.decoder)

        def forward(self, z: Tensor) -> Any:
            return ModelOutput(reconstruction=self.network(z).sigmoid())

    config = IWAEConfig(input_dim=(1, 28, 28), latent_dim=LATENT, number_samples=PARTICLES, reconstruction_loss="bce")
    peer, x = TheirIWAE(config, Encoder(), Decoder()), images()
    optimizer = torch.optim.Adam(list(module.parameters()), lr=1e-3)
    for _ in range(trained):
        step(x[torch.randint(BATCH, (BATCH // 4,))])
        optimizer.step()

    def theirs() -> None:
        peer.zero_grad()
        peer({"data": x}).loss.backward()

    return ratio(theirs, partial(step, x), rounds=3, clock=time.process_time)


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(added_memory(sys.argv[1]))
