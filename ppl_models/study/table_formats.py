"""Tables as text: Markdown, CSV and LaTeX; and the words and digits of numbers in them."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from guides.errors import choose

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["COUNTS", "FORMATS", "TEXT_COLUMNS", "format_table", "number", "pipe_table", "readable"]

#: Metrics that count epochs, with the digits behind the point of their numbers.
COUNTS = {"exceeds": 1, "time_to_threshold": 0}

_MARKDOWN = re.compile(r"([\\|`*<>])")
_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "−∞": r"$-\infty$",
    "−": r"$-$",
    "∞": r"$\infty$",
    "±": r"$\pm$",
}


def number(value: float, digits: int = 3) -> str:
    """Write a number for people: a fixed number of digits, powers of ten for huge ones, and nothing for NaN.

    Example:
        >>> number(-2.83188), number(4.6e18), number(float("inf")), number(float("nan"))
        ('−2.832', '4.6e+18', '∞', '')
    """
    if math.isnan(value):
        return ""
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    text = f"{value:.{digits}f}" if abs(value) < 1e6 else f"{value:.4g}"
    # Not "-0.000".
    return re.sub(r"^-(?=[0.]*$)", "", text).replace("-", "−", 1) if text.startswith("-") else text


def readable(table: pd.DataFrame) -> pd.DataFrame:
    """Turn a table of numbers into one of texts: intervals beside their numbers, columns that say nothing left out.

    Args:
        table: Of :func:`metrics_table`, :func:`compare_models`, :func:`runs_table` or :func:`parameters_table`.
    """
    import pandas as pd

    shown: dict[str, list[str]] = {}
    for name in table.columns:
        if name in ("low", "high", "mean_all", "n", "n_used") or name.endswith("_se"):
            continue
        digits = [COUNTS.get(metric, 3) for metric in table.get("metric", [""] * len(table))]
        cells = [_cell(name, value, each) for value, each in zip(table[name], digits, strict=True)]
        if f"{name}_se" in table:
            cells = [
                f"{cell} ± {number(error)}" if cell and not math.isnan(error) else cell
                for cell, error in zip(cells, table[f"{name}_se"], strict=True)
            ]
        shown[_HEADINGS.get(name, str(name))] = cells
        if name == ("std" if "std" in table else "difference"):
            shown["interval"] = [
                "" if math.isnan(low) or math.isnan(high) else f"[{number(low, each)}, {number(high, each)}]"
                for low, high, each in zip(table["low"], table["high"], digits, strict=True)
            ]
        if name == "median" and "n_used" in table:
            shown["runs"] = [f"{used} of {n}" for used, n in zip(table["n_used"], table["n"], strict=True)]
        if name == "confidence":
            shown["pairs"] = [str(n) for n in table["n"]]
    result = pd.DataFrame(shown)
    empty = [name for name in ("diverged", "missing", "skipped", "floor", "gap", "message") if name in result]
    return result.drop(columns=[name for name in empty if result[name].isin(("", "0")).all()])


def pipe_table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, right: Sequence[bool]) -> str:
    r"""Write texts as a table of Markdown, what means something there escaped.

    Args:
        columns: Headings.
        rows: Cells.
        right: Which columns stand to the right.

    Example:
        >>> print(pipe_table(["K", "NLL"], [["a|b", "1.5"]], right=[False, True]))
        | K | NLL |
        | --- | ---: |
        | a\|b | 1.5 |
        <BLANKLINE>
    """
    lines = [list(columns), ["---:" if each else "---" for each in right]]
    lines += [[_MARKDOWN.sub(r"\\\1", " ".join(cell.split())) for cell in row] for row in rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _markdown(table: pd.DataFrame) -> str:
    texts = readable(table)
    right = [not _is_text(name) for name in texts.columns]
    return pipe_table(list(texts.columns), texts.itertuples(index=False), right=right)


def _latex(table: pd.DataFrame) -> str:
    texts = readable(table)
    rows = [list(texts.columns), *texts.itertuples(index=False)]
    lines = [" & ".join(_latex_text(cell) for cell in row) for row in rows]
    columns = "".join("l" if _is_text(name) else "r" for name in texts.columns)
    body = "".join(f"{line} \\\\\n" for line in lines[1:])
    return "\n".join(
        [
            "% \\usepackage{booktabs}",
            f"\\begin{{tabular}}{{{columns}}}",
            "\\toprule",
            f"{lines[0]} \\\\",
            "\\midrule",
            f"{body}\\bottomrule",
            "\\end{tabular}\n",
        ]
    )


def _latex_text(text: str) -> str:
    names = "|".join(map(re.escape, _LATEX))  # the longer first
    return re.sub(names, lambda found: _LATEX[found[0]], " ".join(text.split()))


def _csv(table: pd.DataFrame) -> str:
    return table.to_csv(index=False, lineterminator="\n")


#: How a table may be written: for people, or, as CSV, with all columns and digits.
FORMATS: dict[str, Callable[[pd.DataFrame], str]] = {"markdown": _markdown, "csv": _csv, "latex": _latex}


def format_table(table: pd.DataFrame, format: str = "markdown") -> str:
    r"""Write a table of a study as text.

    Args:
        table: Of :func:`metrics_table`, :func:`compare_models`, :func:`runs_table` or :func:`parameters_table`.
        format: ``"markdown"``, ``"latex"`` (with the package booktabs), or ``"csv"``, which has all columns and digits.

    Raises:
        OptionError: If the format is unknown.

    Example:
        >>> import pandas as pd
        >>> print(format_table(pd.DataFrame({"model": ["vae_2"], "toy": [68620]}), "latex"))
        % \usepackage{booktabs}
        \begin{tabular}{lr}
        \toprule
        model & toy \\
        \midrule
        vae\_2 & 68,620 \\
        \bottomrule
        \end{tabular}
    """
    return FORMATS[choose("format", format, FORMATS)](table)


_HEADINGS = {
    "std": "sd",
    "n_diverged": "diverged",
    "n_missing": "missing",
    "n_better": "better in",
    "p_holm": "p (Holm)",
    "smallest_p": "smallest p",
    "test_loss": "test loss",
    "nll": "NLL",
}
#: Columns of words.
TEXT_COLUMNS = ("dataset", "model", "other", "metric", "status", "message")


def _is_text(name: str) -> bool:
    return name in TEXT_COLUMNS


def _cell(name: str, value: Any, digits: int) -> str:
    if isinstance(value, str):
        return value
    if name == "seed":
        return str(value)
    if name == "confidence":
        return "" if math.isnan(value) else f"{100 * value:.1f} %"
    if name in ("p", "p_holm", "smallest_p"):
        return "" if math.isnan(value) else f"{value:.2g}"
    if name == "seconds":
        return number(value, 1)
    if name == "skipped":
        return number(value, 0)
    return f"{value:,}" if isinstance(value, int) else number(value, digits)
