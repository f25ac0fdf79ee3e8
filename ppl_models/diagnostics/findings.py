"""Finding: one number about a fit, what it must be and who says so; and the rule that judges it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = [
    "DOUBTFUL",
    "FAIL",
    "FEW_DRAWS",
    "LEVELS",
    "MANY_DRAWS",
    "PASS",
    "Finding",
    "Threshold",
    "finding",
    "levels_of",
]

PASS, DOUBTFUL, FAIL = LEVELS = ("pass", "doubtful", "fail")

#: The yardstick of all errors: an answer passes that is as good as those of so many exact draws of the posterior. With
#: 100, what the draws add to a posterior's spread is a factor of sqrt(1 + 1 / 100) (Andrew Gelman et al., Bayesian Data
#: Analysis, 3rd ed., 2013, http://www.stat.columbia.edu/~gelman/book/, section 10.5).
MANY_DRAWS = 100

#: ... and fails if it is worse than those of so many, the fewest that may do (David J. C. MacKay, Information Theory,
#: Inference, and Learning Algorithms, 2003, https://www.inference.org.uk/mackay/itila/, section 29.1).
FEW_DRAWS = 12

#: How often, at most, chance alone lifts any of the numbers of a finding over its threshold.
CHANCE = 0.01


@dataclass(frozen=True)
class Threshold:
    """Where a number passes, and where it fails; in between it is doubtful.

    Args:
        passes: The last value that passes.
        fails: Beyond it a value fails. Larger than ``passes`` where small numbers are good, less where large ones are;
            infinite where no value is a proof that something is wrong.
        source: Who says so.
        estimate: Whether the rule of the paper is about the estimate as it stands: then it fails beyond ``fails``
            whatever its standard error.
    """

    passes: float
    fails: float
    source: str
    estimate: bool = False

    @property
    def sign(self) -> int:
        """1 where small numbers are good, -1 where large ones are."""
        return 1 if self.fails >= self.passes else -1

    def __str__(self) -> str:
        passes, fails = ("<=", ">") if self.sign > 0 else (">=", "<")
        tail = "" if math.isinf(self.fails) else f" / {fails} {self.fails:.3g}"
        return f"{passes} {self.passes:.3g}{tail}"


@dataclass(frozen=True)
class Finding:
    """One number about a fit.

    Args:
        name: What it is.
        level: ``"pass"``, ``"doubtful"`` or ``"fail"``.
        value: The number; the worst one where there are many.
        standard_error: Of ``value``, by the chance in it; ``None`` where it has none, or none is known.
        threshold: What it must be, and who says so.
        advice: What to try, in one sentence.
        detail: Where the worst numbers are, or what else is to be known; may be empty.
    """

    name: str
    level: str
    value: float
    standard_error: float | None
    threshold: Threshold
    advice: str
    detail: str = ""

    @property
    def place(self) -> tuple[float, float]:
        """Where the number stands between passing (0) and failing (1), cut at -1 and 2, and two standard errors.

        A number that cannot fail stands as far beyond its threshold as it is larger, or smaller, than that.
        """
        passes, fails = self.threshold.passes, self.threshold.fails
        unit = fails - passes if math.isfinite(fails) else self.threshold.sign * max(abs(passes), 1.0)
        value = (self.value - passes) / unit
        value = 2.0 if math.isnan(value) else min(2.0, max(-1.0, value))
        error = 2 * (self.standard_error or 0.0) / abs(unit)
        return value, error if math.isfinite(error) else 0.0

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers and texts."""
        return {
            "name": self.name,
            "level": self.level,
            "value": self.value,
            "standard_error": self.standard_error,
            "passes": self.threshold.passes,
            "fails": self.threshold.fails,
            "source": self.threshold.source,
            "advice": self.advice,
            "detail": self.detail,
        }


def levels_of(
    value: Tensor, error: Tensor, threshold: Threshold, *, highest: Tensor | None = None, freedom: float | None = None
) -> Tensor:
    r"""Judge numbers with standard errors: 0 (pass), 1 (doubtful) or 2 (fail) for each.

    A number fails if it is surely beyond ``threshold.fails``, and passes if it may be within ``threshold.passes`` and
    is surely within ``threshold.fails``. *Surely* means by z standard errors, where z is such that, of all n numbers,
    none is that far off by chance but once in a hundred times (Bonferroni). One whose error is unknown is doubtful.

    Args:
        value: Shape ``(n,)``.
        error: Standard errors ``(n,)``.
        threshold: What they must be.
        highest: Where the truth may be as far as another number, that number; minus infinity of what can only show that
            something is wrong.
        freedom: Degrees of freedom of the errors, if these were estimated from few numbers.
    """
    from scipy.stats import norm, t

    tail = 1 - CHANCE / max(1, value.numel())
    z = float(norm.ppf(tail) if freedom is None else t.ppf(tail, freedom))
    sign, passes, fails = threshold.sign, threshold.sign * threshold.passes, threshold.sign * threshold.fails
    low = sign * value - z * error
    high = sign * (value if highest is None else highest) + z * error
    surely_wrong = sign * value > fails if threshold.estimate else low > fails
    known = error.isfinite() & ~value.isnan()
    levels = torch.where((low <= passes) & (high <= fails), 0, 1)
    return torch.where(surely_wrong & known, 2, torch.where(known, levels, 1))


def finding(
    name: str,
    value: Tensor | float,
    error: Tensor | float | None,
    threshold: Threshold,
    advice: str,
    *,
    label: Callable[[int], str] | None = None,
    most: bool = False,
    worst: int = 3,
    detail: str = "",
    highest: Tensor | None = None,
    freedom: float | None = None,
) -> Finding:
    """Judge one number, or many by the worst of them.

    Args:
        name: What they are.
        value: The numbers.
        error: Their standard errors; ``None`` if they have none.
        threshold: What they must be.
        advice: What to try if they are not.
        label: From the index of a number to what it is about.
        most: Whether only most of them together can fail: numbers about data, of which some may be wrong without the
            others being so.
        worst: How many of those that do not pass are listed.
        detail: What else is to be known.
        highest: As for :func:`levels_of`.
        freedom: As there.
    """
    values = torch.as_tensor(value, dtype=torch.float64).reshape(-1)
    errors = torch.zeros_like(values) if error is None else torch.as_tensor(error, dtype=torch.float64).reshape(-1)
    if highest is not None:
        highest = highest.reshape(-1).double()
    levels = levels_of(values, errors, threshold, highest=highest, freedom=freedom)
    badness = (threshold.sign * values).nan_to_num(nan=math.inf)
    # Ordered by level, then by size.
    order = sorted(range(len(values)), key=lambda i: (int(levels[i]), float(badness[i])), reverse=True)
    level = int(levels.max())
    if most and int((levels == 2).sum()) * 2 <= len(levels):
        level = min(level, 1)
    parts = [detail] if detail else []
    if label is not None:
        bad = [i for i in order if levels[i] > 0]
        if bad:
            listed = ", ".join(f"{label(i)}: {values[i]:.3g}" for i in bad[:worst])
            parts.append(f"{len(bad)} of {len(values)} do not pass; worst {listed}")
        elif len(values) > 1:
            parts.append(f"worst of {len(values)}: {label(order[0])}")
    first = order[0]
    return Finding(
        name,
        LEVELS[level],
        float(values[first]),
        None if error is None else float(errors[first]),
        threshold,
        advice,
        "; ".join(parts),
    )
