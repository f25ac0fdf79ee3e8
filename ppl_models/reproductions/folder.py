"""ReportFolder: what a reproduction writes, file by file, so that an interrupted one goes on where it was."""

from __future__ import annotations

import json
import math
import os
import platform
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from guides.errors import OptionError
from ppl_models.files import atomic_path
from ppl_models.labels import versions
from ppl_models.study.table_formats import pipe_table

if TYPE_CHECKING:
    import pandas as pd
    from arviz import InferenceData
    from matplotlib.figure import Figure

    from ppl_models.diagnostics import Verdict

__all__ = ["ReportFolder", "file_name"]

CONFIG, INDEX = "config.json", "index.md"


def file_name(text: str) -> str:
    """Turn a name into one for files.

    Example:
        >>> file_name("HVAE K=1, no tempering")
        'hvae-k-1-no-tempering'
    """
    return "-".join(re.findall(r"\w+", text.lower()))


class ReportFolder:
    """Write a self-contained report: config, results of jobs, tables, figures, ArviZ files, verdicts, and an index.

    ===================================== ==============================================================================
    ``config.json``                       what was asked for, and the versions of all that has answered so far
    ``jobs/KEY.json``                     numbers of one job; where it exists, the job is done
    ``tables/NAME.csv``, ``NAME.md``      tables
    ``figures/NAME.png``                  figures
    ``posteriors/NAME.nc``                draws, as ArviZ reads them
    ``verdicts/NAME.json``                verdicts by :func:`ppl_models.diagnostics.check`, or what a study says
    ``models/NAME.pt``                    fitted models and guides, as :func:`ppl_models.training.load` reads them
    ``index.md``                          the report, which shows them all; written last
    ===================================== ==============================================================================

    Every file appears under its name when it is complete. A folder that holds results of the same settings is gone on
    with.

    Args:
        path: The folder; made if it is missing.
        name: The reproduction's name.
        settings: What the numbers of a job depend on.
        scope: What says which jobs there are. It may be another when the folder is gone on with.

    Raises:
        OptionError: If the folder cannot be written to, or holds a report of other settings.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as path:
        ...     folder = ReportFolder(path, name="example", settings={"seed": 0})
        ...     folder.keep("first", {"value": 1.5})
        ...     ReportFolder(path, name="example", settings={"seed": 0}).result("first")
        {'value': 1.5}
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        name: str,
        settings: Mapping[str, Any],
        scope: Mapping[str, Any] | None = None,
    ) -> None:
        self.path, self.name = Path(path).expanduser(), name
        self._sections: list[str] = []
        config = {
            "reproduction": name,
            "settings": dict(settings),
            "scope": dict(scope or {}),
        }
        # As it will be read: tuples become lists.
        config = json.loads(json.dumps(config))
        answering = {k: v for k, v in versions("pyro-ppl", "numpyro", "arviz").items() if k.endswith("_version")}
        answering["machine"] = platform.machine()
        earlier = self._earlier(config)
        config["versions"] = earlier if answering in earlier else [*earlier, answering]
        try:
            self._write_json(self.path / CONFIG, config)
        except OSError as cause:
            raise OptionError(
                f"out must be a folder that files can be written to; got {str(path)!r} ({cause.strerror}). "
                "Name another."
            ) from cause

    def _earlier(self, config: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Check that the folder may be gone on with, and tell the versions that have worked in it."""
        file = self.path / CONFIG
        if not file.is_file():
            return []
        advice = "Name another folder, or delete this one."
        try:
            older = json.loads(file.read_text(encoding="utf-8"))
            found, settings, earlier = older["reproduction"], older["settings"], older["versions"]
        except (ValueError, KeyError, TypeError) as cause:
            raise OptionError(f"out must be a report's folder or a new one; {file} is of something else.") from cause
        if found != self.name:
            raise OptionError(f"out must be a folder of {self.name!r}; got {str(self.path)!r} of {found!r}. {advice}")
        if settings != config["settings"]:
            wrong = sorted(k for k in {*settings, *config["settings"]} if settings.get(k) != config["settings"].get(k))
            told = ", ".join(f"{k}={settings.get(k)!r}" for k in wrong)
            raise OptionError(f"out holds a report of other settings: {str(self.path)!r} has {told}. {advice}")

        return earlier if isinstance(earlier, list) else [earlier]

    # -------------------------------------------------------------------------------------------------------- results

    def result(self, key: str) -> dict[str, Any] | None:
        """Read what a job has found; ``None`` if it is not done."""
        file = self.path / "jobs" / f"{key}.json"
        return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None

    def keep(self, key: str, result: Mapping[str, Any]) -> None:
        """Write what a job has found, after all other files of it: it is done then."""
        self._write_json(self.path / "jobs" / f"{key}.json", result)

    # ---------------------------------------------------------------------------------------------------------- files

    def posterior(self, name: str, data: InferenceData) -> Path:
        """Write draws as ``posteriors/NAME.nc``."""
        path = self.path / "posteriors" / f"{name}.nc"
        with atomic_path(path) as temporary:
            data.to_netcdf(str(temporary), engine="h5netcdf")
        return path

    def verdict(self, name: str, verdict: Verdict | Mapping[str, Any]) -> Path:
        """Write a verdict, or what stands for one, as ``verdicts/NAME.json``."""
        path = self.path / "verdicts" / f"{name}.json"
        return self._write_json(path, verdict) if isinstance(verdict, Mapping) else self._write(path, verdict.to_json())

    def table(self, name: str, table: pd.DataFrame, *, caption: str, listed: bool = True) -> Path:
        """Write a table as ``tables/NAME.csv`` and ``.md``, and put it into the report.

        Args:
            name: Of the files.
            table: Its columns are written, its index is not.
            caption: A sentence or two that stand above it.
            listed: Whether the report shows its rows, or only where they are.
        """
        path = self._write(self.path / "tables" / f"{name}.csv", table.to_csv(index=False))
        text = _markdown(table)
        self._write(self.path / "tables" / f"{name}.md", text)
        rows = f"{text}\n" if listed else ""
        self._sections.append(f"{caption}\n\n{rows}[{name}.csv](tables/{name}.csv)")
        return path

    def draw(self, name: str, figure: Figure) -> Path:
        """Write a figure as ``figures/NAME.png``: what a job draws that :meth:`figure` is to show."""
        path = self.path / "figures" / f"{name}.png"
        with atomic_path(path) as temporary:
            figure.savefig(temporary, dpi=100)
        return path

    def figure(self, name: str, figure: Figure | None = None, *, caption: str) -> Path:
        """Put a figure into the report, and write it as ``figures/NAME.png`` if no job has drawn it."""
        path = self.path / "figures" / f"{name}.png" if figure is None else self.draw(name, figure)
        self._sections.append(f"![{caption}](figures/{name}.png)\n\n*{caption}*")
        return path

    def text(self, text: str) -> None:
        """Put a heading or a paragraph into the report."""
        self._sections.append(text)

    def index(self, title: str, *, of: Collection[str] | None = None) -> Path:
        """Write the report with all that was put into it, and links to draws, verdicts and models.

        Args:
            title: Its heading.
            of: Names of those that belong to this report, where the folder may hold others; all by default.
        """
        sections = [f"# {title}", *self._sections]
        for part, what in (("posteriors", "Draws, for ArviZ"), ("verdicts", "Verdicts"), ("models", "Fitted models")):
            files = sorted((self.path / part).glob("[!.]*")) if (self.path / part).is_dir() else []
            files = [each for each in files if of is None or each.stem in of]
            if files:
                sections.append(f"## {what}\n\n" + "\n".join(f"- [{f.name}]({part}/{f.name})" for f in files))
        sections.append(f"What was asked for, and the versions of all that has answered: [{CONFIG}]({CONFIG}).")
        return self._write(self.path / INDEX, "\n\n".join(sections) + "\n")

    @property
    def files(self) -> tuple[Path, ...]:
        """All files that are complete, the report first and jobs last."""
        parts = [self.path / INDEX, self.path / CONFIG]
        for part in ("tables", "figures", "posteriors", "verdicts", "models", "jobs"):
            parts += sorted((self.path / part).glob("[!.]*")) if (self.path / part).is_dir() else []
        return tuple(path for path in parts if path.is_file())

    def _write_json(self, path: Path, content: Mapping[str, Any]) -> Path:
        return self._write(path, json.dumps(_plain(content), indent=1, allow_nan=False) + "\n")

    @staticmethod
    def _write(path: Path, text: str) -> Path:
        with atomic_path(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
        return path


def _plain(value: Any) -> Any:
    """JSON has neither infinity nor NaN."""
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _markdown(table: pd.DataFrame) -> str:
    """A pipe table; numbers to the right and with four digits, missing ones empty."""

    def cell(value: Any) -> str:
        if isinstance(value, bool):
            return "yes" if value else "no"
        if value is None or (isinstance(value, float) and math.isnan(value)):
            return ""
        return f"{value:.4g}" if isinstance(value, float) else str(value)

    rows = [list(map(cell, row)) for row in table.itertuples(index=False)]
    return pipe_table(list(map(str, table.columns)), rows, right=[table[each].dtype.kind in "if" for each in table])
