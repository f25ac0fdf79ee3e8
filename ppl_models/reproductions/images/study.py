"""ImageStudy: what tells one study of images from another."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ppl_models.reproductions.images.methods import FLOW_METHODS, SAMPLING_METHODS, Method
from ppl_models.reproductions.images.tables import compared_flows, compared_losses

__all__ = ["FLOWS", "SAMPLING", "STUDIES", "ImageStudy"]


@dataclass(frozen=True)
class ImageStudy:
    """A study of methods that train a VAE of images.

    Args:
        name: The reproduction's.
        title: Of the report.
        introduction: What the report begins with.
        methods: By name.
        compare: From what was found, by method, and the scores of grey images, to the rows of the published table.
        published: What stands above that table.
        number: Of a study whose momentum started at zero, what its loss of a Hamiltonian guide is: the results then
            have that number of ours too, and pictures follow particles from rest. Empty if the study has none.
    """

    name: str
    title: str
    introduction: str
    methods: Mapping[str, Method]
    compare: Callable[[Mapping[str, Any], Mapping[str, float]], Sequence[Mapping[str, Any]]]
    published: str
    number: str = ""


_JUDGED = """\
Every method has the same networks, first weights, images in the same order, and budget of processor time. It maximises
its own bound; different bounds do not compare. All are judged by one estimator on the same test images: the negative
log-likelihood by as many importance samples from the method's own guide, which is an upper bound in expectation."""

SAMPLING = ImageStudy(
    name="mnist",
    title="HVAE and IWAE on MNIST, done again and put right",
    introduction=f"""\
A VAE with 64 latents and the study's convolutional networks, without their batch normalisation unless it is asked for.
The study compared K = 15 leapfrog steps (HVAE) with 40 importance samples (IWAE), which take about equally long.
*HVAE after VAE* spends three quarters of the time on the base of its guide alone: leapfrog steps are worth their price
when there is a posterior to refine.

{_JUDGED}""",
    methods=SAMPLING_METHODS,
    compare=compared_losses,
    published="""\
The study's losses, in nats per image, with our minus bound on validation images after as many epochs, where the budget
reached so far, and our negative log-likelihood at the end. The last column says what a published number is, and why it
is not ours.""",
    number="""\
what the study printed as HVAE's loss, with a momentum that starts at zero, but for its constant, an eighth of a nat;
it is no bound.""",
)

FLOWS = ImageStudy(
    name="hvae_iaf",
    title="HVAE, IAF and both on MNIST, done again and put right",
    introduction=f"""\
A VAE with 64 latents, whose guide is an encoder's normal law (VAE), and that followed by K = 20 leapfrog steps (HVAE),
by five inverse autoregressive layers (VAE + IAF), or by the layers and then the steps (HVAE + IAF): any guide is a base
of another.

{_JUDGED}""",
    methods=FLOW_METHODS,
    compare=compared_flows,
    published="""\
The study's losses, in nats per image of grey pixels. It left a constant of 64 nats out, so that its minus ELBO is the
last loss less 64. Beside it stand two scores on its images, computed here: *mean image* knows nothing of them but the
mean of each pixel, and *floor* is the cross entropy of grey pixels with themselves, which no model can be below.""",
)

#: By name.
STUDIES: dict[str, ImageStudy] = {each.name: each for each in (SAMPLING, FLOWS)}
