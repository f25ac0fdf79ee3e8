"""The published Gaussian study, done again and put right: python examples/gaussian.py."""

from ppl_models.reproductions import reproduce_gaussian

if __name__ == "__main__":
    report = reproduce_gaussian(out="ppl-models-gaussian", dims=[25, 50])
    print(report.tables["headline"].to_string(index=False))
    print(report.tables["goals"].to_string(index=False))
    print(report.folder / "index.md")
