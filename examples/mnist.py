"""HVAE, IWAE and a VAE on MNIST, with equal time for each: python examples/mnist.py."""

from ppl_models.reproductions import reproduce_mnist

if __name__ == "__main__":
    report = reproduce_mnist(out="ppl-models-mnist", minutes=2)
    print(report.tables["results"].to_string(index=False))
    print(report.tables["goals"].to_string(index=False))
    print(report.folder / "index.md")
