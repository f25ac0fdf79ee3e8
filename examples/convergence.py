"""The published seeds study, done again and put right: python examples/convergence.py."""

from ppl_models.reproductions import reproduce_convergence

if __name__ == "__main__":
    report = reproduce_convergence(out="ppl-models-convergence")
    print(report.tables["headline"].to_string(index=False))
    print(report.tables["goals"].to_string(index=False))
    print(report.folder / "index.md")
