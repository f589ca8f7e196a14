"""The catalogue: published systems of statistical mechanics, theory beside experiment."""
