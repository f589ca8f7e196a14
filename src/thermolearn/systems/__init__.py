"""The catalogue: published systems of the statistical mechanics of learning, theory beside experiment."""
