"""HVAE, IAF and one over the other on MNIST, with equal time for each: python examples/hvae_iaf.py."""

from ppl_models.reproductions import reproduce_hvae_iaf

if __name__ == "__main__":
    report = reproduce_hvae_iaf(out="ppl-models-hvae_iaf", minutes=2)
    print(report.tables["results"].to_string(index=False))
    print(report.tables["goals"].to_string(index=False))
    print(report.folder / "index.md")
