"""What the commands share: errors in one line, and outputs checked before any work."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import typer


def check_outputs(outputs: dict[str, Path], inputs: list[Path | None]) -> None:
    """Before any work: every output can be written, and overwrites neither input nor output."""
    import tempfile

    taken = {path.resolve(): "an input" for path in inputs if path is not None}
    for option, path in outputs.items():
        if path.is_dir():
            raise IsADirectoryError(f"{option} {path} is a directory; name a file in it")
        if not path.parent.is_dir():
            raise FileNotFoundError(
                f"{option} {path}: there is no directory {path.parent}; make it first"
            )
        if path.resolve() in taken:
            raise ValueError(f"{option} {path} is also {taken[path.resolve()]}; choose another")
        taken[path.resolve()] = option
        try:
            if path.exists():
                with path.open("ab"):
                    pass
            else:
                with tempfile.TemporaryFile(dir=path.parent):
                    pass
        except OSError as error:
            raise PermissionError(
                f"{option} {path} cannot be written: {error.strerror}; choose another place"
            ) from error


@contextmanager
def one_line_errors(debug: bool) -> Iterator[None]:
    """An error is one line on stderr and exit code 2; a bug of ours says so, with code 1."""
    try:
        yield
    except typer.Exit:
        raise
    except (KeyboardInterrupt, Exception) as error:
        if debug:
            raise
        message = " ".join(str(error).split())
        if isinstance(error, KeyboardInterrupt):
            typer.echo("error: interrupted", err=True)
            raise typer.Exit(130) from None
        if isinstance(error, ValueError | TypeError | OSError):
            typer.echo(f"error: {message}", err=True)
            raise typer.Exit(2) from None
        typer.echo(
            f"error: {type(error).__name__}: {message} (--debug shows where it came from)", err=True
        )
        raise typer.Exit(1) from None
