"""Break the code in the ways listed, one at a time, and see the tests go red: ``make mutations``.

Works on a copy; exits with 1 if a mutation is survived, or no longer fits the code.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

__all__ = ["MUTATIONS", "main"]

ROOT = Path(__file__).parents[1]

GUIDES = "tests/contract/test_guides.py"
MODELS = "tests/contract/test_models.py"
OBJECTIVES = "tests/contract/test_objectives.py"
HAMILTONIAN = "tests/test_hamiltonian.py"
LATENTS = "tests/test_latent_space.py"
GAUSSIAN = "tests/test_gaussian.py"
FIT = "tests/test_fit.py"
IMPORTANCE = "tests/test_importance.py"
DATASETS = "tests/test_datasets.py"

#: (file, what stands there once, what is written instead, the tests that must fail)
MUTATIONS: list[tuple[str, str, str, str]] = [
    # The log-weight of the Hamiltonian guide.
    ("guides/hamiltonian.py", "momentum.square() - noise.square()", "momentum.square()", GUIDES),
    ("guides/hamiltonian.py", "0.5 * (momentum.square()", "-0.5 * (momentum.square()", GUIDES),
    ("guides/hamiltonian.py", "start.log_q + 0.5", "0.5", GUIDES),
    ("guides/hamiltonian.py", "scales[k] / scales[k - 1]", "scales[k - 1] / scales[k]", GUIDES),
    ("guides/hamiltonian.py", "scales[0] * noise", "noise", GUIDES),
    ("guides/hamiltonian.py", "scales[0] * noise", "0 * noise", GUIDES),
    ("guides/hamiltonian.py", "create_graph=keep_graph", "create_graph=False", GUIDES),
    ("guides/hamiltonian.py", "not self.detach_force", "True", HAMILTONIAN),
    ("guides/leapfrog.py", "position = position + step_size * momentum", "position = position + momentum", HAMILTONIAN),
    ("guides/leapfrog.py", "return position, momentum + 0.5 *", "return position, momentum + 0.4 *", HAMILTONIAN),
    ("guides/leapfrog.py", "    force = force_at(position)\n", "    force_at(position)\n", HAMILTONIAN),
    ("guides/tempering.py", "    power = 2.0", "    power = 1.0", HAMILTONIAN),
    ("guides/tempering.py", "1 - steps**2", "1 - steps", HAMILTONIAN),
    # The base class and the latent vector.
    ("guides/mean_field.py", "normal.log_prob(latent).sum(-1)", "normal.log_prob(latent).mean(-1)", GUIDES),
    ("guides/mean_field.py", "log_scale.exp()", "log_scale.exp().detach()", GUIDES),
    ("guides/mean_field.py", "normal.rsample()", "normal.sample()", GUIDES),
    ("guides/base.py", "_Point(value, -log_det", "_Point(value, log_det", GUIDES),
    ("guides/base.py", "        self._announce_parameters()\n", "", GUIDES),
    ("guides/base.py", "if site.is_real:", "if True:", GUIDES),
    ("guides/base.py", "proposal.log_q.reshape(shape)", "proposal.log_q.reshape(shape) * 0", GUIDES),
    ("guides/base.py", "stack.enter_context(self.plates[frame.name])", "pass", GUIDES),
    ("guides/base.py", "base.model is not model", "False", LATENTS),
    ("guides/log_density.py", "            self._add(log_det)\n", "            pass\n", LATENTS),
    ("guides/log_density.py", "scale = scale * frame.size / full_size(frame)", "pass", LATENTS),
    ("guides/latent_space.py", "torch.random.fork_rng(), outside", "outside", LATENTS),
    ("guides/latent_space.py", "with outside_plates(), density:", "with density:", GUIDES),
    ("guides/log_density.py", "            minibatch._pyro_sample(msg)\n", "            pass\n", LATENTS),
    (
        "guides/log_density.py",
        '        msg["stop"] = True\n        if not is_random',
        "        if not is_random",
        GUIDES,
    ),
    ("guides/plates.py", "* (self.size / frame.size)", "* 1", OBJECTIVES),
    ("guides/base.py", "return q.log_density - p.log_prob", "return -p.log_prob", GUIDES),
    ("guides/base.py", "        self._check_minibatches(space)\n", "", FIT),
    ("guides/base.py", "-{id(self):x}", "", LATENTS),
    ("guides/base.py", "subsample=drawn.rows, ", "", LATENTS),
    (
        "guides/latent_space.py",
        "isinstance(self._innermost_support, type(constraints.real))",
        "self._innermost_support is constraints.real",
        GUIDES,
    ),
    ("guides/latent_space.py", "            [1]\n", "            []\n", GAUSSIAN),
    (
        "guides/tempering.py",
        "-log_cooling.flip(0).cumsum(0).flip(0)",
        "-log_cooling.mean(0) * torch.arange(self.num_steps, 0, -1)",
        HAMILTONIAN,
    ),
    # Objectives.
    ("ppl_models/objectives/log_weights.py", "    _check_match(model_trace, guide_trace)\n", "", FIT),
    ("ppl_models/objectives/base.py", "self._found[0] != key", "False", OBJECTIVES),
    ("ppl_models/objectives/iwae.py", "- math.log(len(values))", "", OBJECTIVES),
    ("ppl_models/objectives/iwae.py", "values.logsumexp(0)", "values.sum(-1, keepdim=True).logsumexp(0)", OBJECTIVES),
    ("ppl_models/objectives/elbo.py", "values.mean(0)", "values.logsumexp(0)", OBJECTIVES),
    ("ppl_models/objectives/elbo.py", "values.mean(0)", "values.sum(0)", OBJECTIVES),
    ("ppl_models/objectives/base.py", "-weights.scale * self", "-self", OBJECTIVES),
    (
        "ppl_models/objectives/log_weights.py",
        "            scale = scale * frame.size / full_size(frame)\n",
        "            pass\n",
        OBJECTIVES,
    ),
    ("ppl_models/objectives/log_weights.py", "(model_trace, 1), (guide_trace, -1)", "(model_trace, 1),", GUIDES),
    ("ppl_models/objectives/log_weights.py", "torch.no_grad(), torch.random.fork_rng()", "torch.no_grad()", OBJECTIVES),
    # Models.
    ("ppl_models/gaussian.py", "- 0.5 * torch.log1p(n / variance)", "", GAUSSIAN),
    ("ppl_models/gaussian.py", "(n - 1 - variance)", "(n - variance)", GAUSSIAN),
    ("ppl_models/gaussian.py", "(wide - mean).square().sum(0)", "(wide.square().sum(0) - len(x) * mean**2)", GAUSSIAN),
    ("ppl_models/gaussian.py", "scatter + self.count * (mean", "scatter + (mean", GAUSSIAN),
    (
        "ppl_models/gaussian.py",
        'pyro.plate("data", num if x is None else len(x))',
        'pyro.plate("rows", num or len(x))',
        MODELS,
    ),
    ("ppl_models/vae.py", "log_scale.exp()", "log_scale", MODELS),
    ("ppl_models/vae.py", "law.to_event(len(law.batch_shape) - z.dim() + 1)", "law.to_event(1)", MODELS),
    # Training and judging.
    ("ppl_models/training/fit.py", "nn.utils.clip_grads_with_norm_", "(lambda *_: None)", FIT),
    ("ppl_models/training/fit.py", "stack.enter_context(torch.random.fork_rng())\n            torch", "torch", FIT),
    ("ppl_models/training/fit.py", "            if skipped:\n", "            if False:\n", FIT),
    ("ppl_models/training/fit.py", "torch.manual_seed(0)\n        return", "return", FIT),
    ("ppl_models/training/batches.py", "generator=generator).split", "generator=None).split", FIT),
    ("ppl_models/training/batches.py", "torch.randperm(size, generator=generator)", "torch.arange(size)", FIT),
    ("ppl_models/diagnostics/importance.py", "- math.log(self.num_samples)", "", IMPORTANCE),
    ("ppl_models/diagnostics/importance.py", "/ math.sqrt(self.num_samples)", "", IMPORTANCE),
    ("ppl_models/diagnostics/importance.py", "max(1, max_batch // data)", "max_batch", IMPORTANCE),
    ("ppl_models/diagnostics/importance.py", "evaluating(model, guide), pyro", "pyro", IMPORTANCE),
    (
        "ppl_models/diagnostics/importance.py",
        "self.monte_carlo_error.square().sum().sqrt()",
        "self.monte_carlo_error.sum()",
        IMPORTANCE,
    ),
    ("ppl_models/training/guard.py", "sites[:1]", "sites[-1:]", FIT),
    # Data and files.
    ("ppl_models/datasets/binarise.py", "generator=generator, dtype", "dtype", DATASETS),
    ("ppl_models/datasets/digits.py", "_WHITE = 16 ", "_WHITE = 15 ", DATASETS),
    ("ppl_models/datasets/idx.py", "got != expected", "got < expected", DATASETS),
    ("ppl_models/datasets/idx.py", "got != expected", "got > expected", DATASETS),
    ("ppl_models/datasets/idx.py", 'f">{rank}I"', 'f"<{rank}I"', DATASETS),
    ("ppl_models/files.py", "yield temporary", "yield final", DATASETS),
    ("ppl_models/files.py", "except BaseException:", "except Exception:", DATASETS),
]


def survivors(mutation: tuple[str, str, str, str]) -> str | None:
    """Try one mutation in a copy of its own; say why if it was survived."""
    file, old, new, tests = mutation
    name = f"{file}: {' '.join(old.split())!r} -> {' '.join(new.split())!r}"
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for part in ("guides", "ppl_models", "tests"):
            shutil.copytree(ROOT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", copy)
        text = (copy / file).read_text(encoding="utf-8")
        if text.count(old) != 1:
            return f"stands {text.count(old)} times in the code: {name}"
        (copy / file).write_text(text.replace(old, new), encoding="utf-8")
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-n0", "-p", "no:cacheprovider", tests]
        environment = os.environ | {"PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1"}
        run = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True)
    failed = [line for line in run.stdout.splitlines() if line.startswith("FAILED")]
    if run.returncode != 1 or not failed:
        return f"survived by {tests} (exit code {run.returncode}): {name}"
    print(f"red   {name}\n      {failed[0].removeprefix('FAILED ').split(' - ')[0]}", flush=True)
    return None


def main() -> int:
    """Try every mutation, two at a time."""
    with ThreadPoolExecutor(2) as pool:
        alive = [reason for reason in pool.map(survivors, MUTATIONS) if reason]
    for reason in alive:
        print(f"GREEN {reason}")
    print(f"{len(MUTATIONS) - len(alive)} of {len(MUTATIONS)} mutations went red")
    return 1 if alive else 0


if __name__ == "__main__":
    sys.exit(main())
