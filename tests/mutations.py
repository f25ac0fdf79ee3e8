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
ESTIMATORS = "tests/test_objectives.py"
HAMILTONIAN = "tests/test_hamiltonian.py"
LATENTS = "tests/test_latent_space.py"
GAUSSIAN = "tests/test_gaussian.py"
FIT = "tests/test_fit.py"
IMPORTANCE = "tests/test_importance.py"
DATASETS = "tests/test_datasets.py"
BIJECTIONS = "tests/test_bijections.py"
GAUSSIAN_FIT = "tests/test_gaussian_fit.py"
FULL_RANK = "tests/test_full_rank.py"
PLANAR = "tests/test_planar.py"
IAF = "tests/test_iaf.py"
ANNEALED = "tests/test_annealed.py"
LISTS = "tests/test_guide_list.py"
ANSWERS = "tests/test_answers.py"
STARTS = "tests/test_starts.py"
ANY_MODEL = "tests/test_any_model.py"
FORCE = "tests/test_force.py"
PUBLISHED = "tests/test_published_flows.py"
CONVERGENCE = "tests/test_convergence.py"
REPLAY = "tests/test_replay.py"
SAVING = "tests/test_saving.py"
COMPILE = "tests/test_compile.py"

#: (file, what stands there once, what is written instead, the tests that must fail)
MUTATIONS: list[tuple[str, str, str, str]] = [
    # The log-weight of the Hamiltonian guide.
    ("guides/hamiltonian.py", "momentum.square() - noise.square()", "momentum.square()", GUIDES),
    ("guides/hamiltonian.py", "0.5 * (momentum.square()", "-0.5 * (momentum.square()", GUIDES),
    ("guides/hamiltonian.py", "start.log_q + 0.5", "0.5", GUIDES),
    ("guides/hamiltonian.py", "scales[k] / scales[k - 1]", "scales[k - 1] / scales[k]", GUIDES),
    ("guides/hamiltonian.py", "scales[0] * noise", "noise", GUIDES),
    ("guides/hamiltonian.py", "scales[0] * noise", "0 * noise", GUIDES),
    ("guides/force.py", "create_graph=self.keep_graph", "create_graph=False", GUIDES),
    ("guides/force.py", "torch.is_grad_enabled() and not detach", "torch.is_grad_enabled()", HAMILTONIAN),
    ("guides/leapfrog.py", "position = position + step_size * momentum", "position = position + momentum", HAMILTONIAN),
    ("guides/leapfrog.py", "return position, momentum + 0.5 *", "return position, momentum + 0.4 *", HAMILTONIAN),
    ("guides/leapfrog.py", "    force = force_at(position)\n", "    force_at(position)\n", HAMILTONIAN),
    ("guides/tempering.py", "    power = 2.0", "    power = 1.0", HAMILTONIAN),
    ("guides/tempering.py", "1 - steps**2", "1 - steps", HAMILTONIAN),
    # The other guides.
    ("guides/full_rank.py", "rows * dim + columns, entries", "columns * dim + rows, entries", FULL_RANK),
    ("guides/full_rank.py", "(2 * log_scale).exp())", "log_scale.exp())", FULL_RANK),
    (
        "guides/full_rank.py",
        "law.log_prob(whitened) - log_scale.sum(-1)",
        "log_standard_normal(own) - log_scale.sum(-1)",
        FULL_RANK,
    ),
    (
        "guides/full_rank.py",
        "(matrix @ vectors[..., None])[..., 0]",
        "(matrix[0] @ vectors[..., None])[..., 0]",
        FULL_RANK,
    ),
    ("guides/planar.py", "u + (stretch - 1 - free) * w", "u - (stretch - 1 - free) * w", PLANAR),
    ("guides/planar.py", "h.square() + stretch * (1 - h.square())", "1 + (stretch - 1) * (1 - h)", PLANAR),
    ("guides/planar.py", "torch.log(h.square() + stretch *", "torch.log1p((stretch - 1) *", PLANAR),
    (
        "guides/planar.py",
        "planar(latent, u[..., k, :], w[..., k, :], b[..., k, 0])",
        "planar(latent, u[..., 0, :], w[..., 0, :], b[..., 0, 0])",
        PLANAR,
    ),
    ("guides/iaf.py", "forwards.flip(0) if k % 2 else forwards", "forwards", IAF),
    ("guides/iaf.py", "network(latent, context)", "network(latent, context.mean(-2))", IAF),
    ("guides/iaf.py", "(1 - gate) * mean", "mean", IAF),
    ("guides/iaf.py", "F.logsigmoid(logit).sum(-1)", "F.logsigmoid(logit).mean(-1)", GUIDES),
    ("guides/annealed.py", "(1 - damping.square()).sqrt()", "(1 - damping)", GUIDES),
    (
        "guides/annealed.py",
        "self.increments.softmax(0).cumsum(0)",
        "self.increments.softmax(0).flip(0).cumsum(0)",
        ANNEALED,
    ),
    ("guides/annealed.py", "beta * slope_at(e) - e", "slope_at(e) - e", ANNEALED),
    ("guides/annealed.py", "refreshments[k - 1]", "refreshments[0]", ANNEALED),
    ("guides/annealed.py", "moved.log_q + bridge + kinetic", "moved.log_q + kinetic", GUIDES),
    (
        "guides/leapfrog.py",
        "return position + 0.5 * step_size * momentum, momentum",
        "return position, momentum",
        ANNEALED,
    ),
    # Whitening, bijections, and the search for a mode.
    ("guides/bijections.py", "index[:, None] - index + 1, -1", "index[:, None] - index, -1", BIJECTIONS),
    ("guides/bijections.py", "_diagonal(y)).sum(-1)", "_diagonal(y)).mean(-1)", BIJECTIONS),
    ("guides/bijections.py", "math.log(2) - x + logsigmoid(2 * x)", "(1 - x.tanh().square()).log() / 2", BIJECTIONS),
    ("guides/bijections.py", ".roll(-1, -1)", "", BIJECTIONS),
    (
        "guides/bijections.py",
        "IndependentTransform(bijection(support.base_constraint)",
        "IndependentTransform(biject_to(support.base_constraint)",
        BIJECTIONS,
    ),
    ("guides/gaussian_fit.py", "max_eval=LINE_SEARCH, ", "", GAUSSIAN_FIT),
    ("guides/gaussian_fit.py", "usable = starts[starts.isfinite().all(-1)]", "usable = starts", GAUSSIAN_FIT),
    ("guides/laplace.py", "if eigenvalues[0] >= -FLAT:", "if True:", GAUSSIAN_FIT),
    ("guides/laplace.py", "    directions = _shortened(density, mode, directions)\n", "", GAUSSIAN_FIT),
    ("guides/pathfinder.py", "+ log_scales + log_volume", "- log_scales + log_volume", GAUSSIAN_FIT),
    ("guides/base.py", "proposal.log_q - self.whitening.log_det", "proposal.log_q", STARTS),
    ("guides/base.py", "return density + self.whitening.log_det", "return density", LISTS),
    ("guides/base.py", "if self.whitening.is_diagonal else None", "", STARTS),
    # Lists, answers, starts, and what is said when a model or a trajectory does not hold.
    (
        "guides/guide_list.py",
        "log_joint(torch.cat(parts, -1)[..., order]) + member.whitening.log_det",
        "log_joint(torch.cat(parts, -1)) + member.whitening.log_det",
        LISTS,
    ),
    (
        "guides/guide_list.py",
        "return Proposal(torch.cat(drawn, -1)[..., order], log_q)",
        "return Proposal(torch.cat(drawn, -1), log_q)",
        LISTS,
    ),
    ("guides/guide_list.py", "log_q = log_q + proposal.log_q", "log_q = proposal.log_q", LISTS),
    ("guides/guide_list.py", "covariance = joint.scale @ joint.scale.mT", "covariance = joint.scale", LISTS),
    ("guides/guide_list.py", "any(member.amortised for member in self.members)", "False", LISTS),
    ("guides/base.py", "call.given.update(space.laid_out(values, inner))", "pass", LISTS),
    (
        "guides/latent_space.py",
        "moved[site.name] = value.reshape([*left_shape(left, batch), *own])",
        "moved[site.name] = value",
        LISTS,
    ),
    ("guides/answers.py", "(upper if site.sign > 0 else lower)", "upper", ANSWERS),
    ("guides/answers.py", "for site in part.space.sites if site.is_real}", "for site in part.space.sites}", ANSWERS),
    ("guides/answers.py", ", poutine.block()", "", ANSWERS),
    (
        "guides/whitening.py",
        "variance = (self.scale @ covariance @ self.scale.mT)",
        "variance = covariance * (self.scale @ self.scale.mT)",
        ANSWERS,
    ),
    ("guides/whitening.py", "self.scale.diagonal()).log().sum()", "self.scale.diagonal()).sum()", STARTS),
    ("guides/whitening.py", 'for name in ("loc", "scale"):', "for name in ():", STARTS),
    ("guides/starts.py", "0.5 * (high - low)", "high - low", STARTS),
    ("guides/plates.py", "sizes.get(frame.name, frame.size) != frame.size", "False", ANY_MODEL),
    (
        "guides/plates.py",
        "any(size > 1 and dim not in allowed for dim, size",
        "any(size > 1 and dim not in allowed and False for dim, size",
        ANY_MODEL,
    ),
    (
        "guides/log_density.py",
        'log_prob = scale_and_mask(log_prob, self._scale(msg), msg["mask"])',
        "log_prob = scale_and_mask(log_prob, self._scale(msg), None)",
        ANY_MODEL,
    ),
    ("guides/force.py", 'or not str(error).startswith("Expected ")', "", FORCE),
    ("guides/force.py", "if is_validation_enabled() and not", "if not", FORCE),
    ("guides/force.py", "latent = guide.whitening(position[row])", "latent = position[row]", FORCE),
    ("guides/force.py", "raise self._lost(position, position) from error", "raise", FORCE),
    # Forces on globals, and minibatches.
    ("guides/base.py", "{} if plate is None else call.indices", "call.indices", LATENTS),
    ("guides/base.py", '"own_rows": plate is None', '"own_rows": False', LATENTS),
    ("guides/log_density.py", "drawn is None or drawn.size != full_size(frame)", "False", LATENTS),
    ("guides/laplace.py", "(density.value(around) > value + RISE).any()", "False", STARTS),
    (
        "guides/starts.py",
        "log_joint if _broadcasts(log_joint, starts[:2]) else _by_row(log_joint)",
        "log_joint",
        STARTS,
    ),
    # The base class and the latent vector.
    ("guides/mean_field.py", "- log_scale.sum(-1)", "- log_scale.mean(-1)", GUIDES),
    ("guides/mean_field.py", "log_scale.exp() * noise", "log_scale.exp().detach() * noise", GUIDES),
    ("guides/emission.py", "_Point(value, -log_det", "_Point(value, log_det", GUIDES),
    ("guides/base.py", "        self._announce_parameters()\n", "", GUIDES),
    ("guides/emission.py", "if site.is_real:", "if True:", GUIDES),
    ("guides/emission.py", "log_q.reshape(shape)", "log_q.reshape(shape) * 0", GUIDES),
    ("guides/emission.py", "stack.enter_context(self.plates[frame.name])", "pass", GUIDES),
    ("guides/base.py", "base.model != model", "False", LATENTS),
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
    ("guides/emission.py", "return q.log_density - p.log_prob", "return -p.log_prob", GUIDES),
    ("guides/base.py", "        self._check_minibatches(space)\n", "", FIT),
    ("guides/base.py", "-{id(self):x}", "", LATENTS),
    ("guides/base.py", "subsample=drawn.rows, ", "", LATENTS),
    (
        "guides/latent_site.py",
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
    ("ppl_models/objectives/vr_iwae.py", "- math.log(len(values))", "", OBJECTIVES),
    (
        "ppl_models/objectives/vr_iwae.py",
        "(power * values).logsumexp(0)",
        "(power * values.sum(-1, keepdim=True)).logsumexp(0)",
        OBJECTIVES,
    ),
    ("ppl_models/objectives/elbo.py", "values.mean(0)", "values.logsumexp(0)", OBJECTIVES),
    ("ppl_models/objectives/elbo.py", "values.mean(0)", "values.sum(0)", OBJECTIVES),
    (
        "ppl_models/objectives/base.py",
        "loss = -weights.scale * self.bound(weights.values).sum()\n        if torch",
        "loss = -self.bound(weights.values).sum()\n        if torch",
        OBJECTIVES,
    ),
    (
        "ppl_models/objectives/log_weights.py",
        "            scale = scale * frame.size / full_size(frame)\n",
        "            pass\n",
        OBJECTIVES,
    ),
    (
        "ppl_models/objectives/log_weights.py",
        "_Part.of(site, names, -1.0, independent)",
        "_Part.of(site, names, 0.0, independent)",
        GUIDES,
    ),
    ("ppl_models/objectives/traces.py", "torch.no_grad(), torch.random.fork_rng()", "torch.no_grad()", OBJECTIVES),
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
    ("ppl_models/training/fit.py", "            if not gradient.is_finite:\n", "            if False:\n", FIT),
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
    # Objectives: estimators, weights, chunks.
    ("guides/rescoring.py", "fixed, value, True", "fn, value, True", ESTIMATORS),
    (
        "guides/rescoring.py",
        "latent, fixed = rescoring.follow(proposal.latent), detach(law)",
        "latent, fixed = rescoring.follow(proposal.latent), law",
        ESTIMATORS,
    ),
    ("guides/rescoring.py", "    value.register_hook(weigh)\n", "    pass\n", ESTIMATORS),
    ("guides/noise.py", "slice(share.start, share.start + shape[dim])", "slice(0, shape[dim])", ESTIMATORS),
    ("guides/log_density.py", 'else active_rows(msg["name"])', "else None", OBJECTIVES),
    (
        "ppl_models/objectives/traces.py",
        "        with particles:\n            guide_trace",
        "        if True:\n            guide_trace",
        OBJECTIVES,
    ),
    ("ppl_models/objectives/vr_iwae.py", "return self.alpha + (1 - self.alpha) * shares", "return shares", ESTIMATORS),
    (
        "ppl_models/objectives/vr_iwae.py",
        "torch.softmax((1 - self.alpha) * values, 0)",
        "torch.softmax(values, 0)",
        ESTIMATORS,
    ),
    ("ppl_models/objectives/vr_iwae.py", "math.log(len(values))) / power", "math.log(len(values)))", ESTIMATORS),
    ("ppl_models/objectives/elbo.py", "return (reward - others) / size", "return (reward + others) / size", ESTIMATORS),
    (
        "ppl_models/objectives/base.py",
        "torch.where(own, others, values[:, None])",
        "torch.where(own, values, others)",
        ESTIMATORS,
    ),
    (
        "ppl_models/objectives/base.py",
        "loss = loss.detach() + (trained - trained.detach())",
        "loss = trained",
        ESTIMATORS,
    ),
    ("ppl_models/objectives/base.py", "                states[0].restore()\n", "                pass\n", ESTIMATORS),
    (
        "ppl_models/objectives/base.py",
        "gradient if leaf not in gradients else gradients[leaf] + gradient",
        "gradient",
        ESTIMATORS,
    ),
    ("ppl_models/objectives/log_weights.py", "part.frames & frames", "part.frames", ESTIMATORS),
    ("ppl_models/objectives/kl_weights.py", "beta = beta * self._of_site(name)", "self._of_site(name)", ESTIMATORS),
    (
        "ppl_models/objectives/kl_weights.py",
        "-values.detach().mean() > self.free_bits",
        "-values.detach().mean() < self.free_bits",
        ESTIMATORS,
    ),
    ("ppl_models/objectives/kl_weights.py", "min(at / self.warmup, 1.0)", "at / self.warmup", ESTIMATORS),
    ("ppl_models/objectives/gradient_report.py", "(mean - variance / size).clamp(min=0)", "mean", ESTIMATORS),
    ("ppl_models/objectives/gradient_report.py", "((len(groups) - 1) * left_out", "(left_out", ESTIMATORS),
    # Stopping, averaging, bundles, files.
    ("ppl_models/training/fit.py", "step >= tail_start", "share", CONVERGENCE),
    ("ppl_models/training/fit.py", "                tail.install()\n", "                pass\n", CONVERGENCE),
    ("ppl_models/training/fit.py", "math.ceil(result.steps / (1 - share))", "result.steps", CONVERGENCE),
    ("ppl_models/training/fit.py", "stack.enter_context(flushing_denormals())", "pass", REPLAY),
    ("ppl_models/training/denormals.py", "        torch.set_flush_denormal(False)\n", "        pass\n", REPLAY),
    ("ppl_models/training/denormals.py", "    if denormals_are_zero():\n", "    if False:\n", REPLAY),
    ("ppl_models/training/denormals.py", "        torch.zeros(_GRAIN", "        (_GRAIN", REPLAY),
    ("ppl_models/training/convergence.py", "fall + self._quantile * error", "fall", CONVERGENCE),
    ("ppl_models/training/convergence.py", "means[1].mean()).abs()", "means[1].mean())", CONVERGENCE),
    (
        "ppl_models/training/convergence.py",
        "means.var(-1).sum() / NUM_BATCHES",
        "halves.flatten(1).var(-1).sum() / (NUM_BATCHES * size)",
        CONVERGENCE,
    ),
    ("ppl_models/training/averaging.py", "1 / self.count", "0.1", CONVERGENCE),
    ("ppl_models/training/schedules.py", "epoch - 150", "epoch - 100", FIT),
    ("ppl_models/training/replay.py", "with restored(states), pyro", "with pyro", REPLAY),
    ("ppl_models/training/replay.py", "modes.get(name, module.training)", "True", REPLAY),
    ("ppl_models/training/guard.py", "restored(random_state), ", "", FIT),
    ("ppl_models/training/saving.py", "nn.Module.load_state_dict(part, state, strict=False)", "pass", SAVING),
    ("ppl_models/training/saving.py", "weights_only=True", "weights_only=False", SAVING),
    ("guides/stored.py", "with torch.random.fork_rng():", "if True:", SAVING),
    ("guides/stored.py", 'state["context_width"], space', "None, space", SAVING),
    ("guides/stored.py", "own[name] != value", "False", SAVING),
    ("guides/supports.py", "issubclass(kind, Constraint)", "True", SAVING),
    ("ppl_models/training/graph.py", "FakeTensorMode(shape_env=ShapeEnv())", "FakeTensorMode()", COMPILE),
    ("guides/latent_site.py", '"event_dim": self.event_dim', '"event_dim": 0', SAVING),
]


def survivors(mutation: tuple[str, str, str, str]) -> str | None:
    """Try one mutation in a copy of its own; say why if it was survived."""
    file, old, new, tests = mutation
    name = f"{file}: {' '.join(old.split())!r} -> {' '.join(new.split())!r}"
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for part in ("benchmarks", "guides", "ppl_models", "tests"):
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
