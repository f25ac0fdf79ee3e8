"""ChainedGuide: what all guides share that start from the draws of another."""

from __future__ import annotations

from collections.abc import Collection

from torch import nn

from guides.base import Guide
from guides.errors import OptionError
from guides.latent_space import Model
from guides.mean_field import MeanFieldGuide

__all__ = ["ChainedGuide"]


class ChainedGuide(Guide):
    """A guide that starts from the draws of a base: a mean-field guide, unless another is given.

    Args:
        model: Any Pyro model.
        encoder: Encoder of an amortised mean-field base; see :class:`~guides.MeanFieldGuide`.
        base: Any guide of the same model.
        hide: Names of latents that other guides of a :class:`~guides.GuideList` draw.
        expose: Names of the only latents that this guide draws.
    """

    base: Guide

    def __init__(
        self,
        model: Model,
        *,
        encoder: nn.Module | None = None,
        base: Guide | None = None,
        hide: Collection[str] | None = None,
        expose: Collection[str] | None = None,
    ) -> None:
        if base is None:
            base = MeanFieldGuide(model, encoder=encoder, hide=hide, expose=expose)
            encoder = hide = expose = None
        super().__init__(model, encoder=encoder, base=base, hide=hide, expose=expose)
        if not base.may_be_base:
            raise OptionError(
                f"base must have one latent vector; {base.describe()} has one for the globals and one per datum. Put "
                f"the {type(self).__name__} into the list instead."
            )
