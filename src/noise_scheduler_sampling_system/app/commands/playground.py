"""The command ``playground``: a page to play with samplers, live or as a folder."""

from __future__ import annotations

import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from ...support.errors import ConfigurationError

__all__ = ["playground"]


def playground(
    model: Annotated[
        str, typer.Option(help="digits (runs in the browser), mnist, module:attribute, or a folder of diffusers.")
    ] = "digits",
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port; 0 chooses a free one.")] = 8321,
    host: Annotated[str, typer.Option(help="The address to listen at.")] = "127.0.0.1",
    allow_host: Annotated[
        list[str] | None, typer.Option(help="A name other than this machine's that a request may have; repeatable.")
    ] = None,
    browser: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
    build: Annotated[
        Path | None, typer.Option(help="Write the page to this folder instead; it needs no server.")
    ] = None,
) -> None:
    """Play with samplers in the browser: plans, digits and errors change with every setting."""
    if build is not None:
        _write(build, model)
        return
    from ...playground import serve

    def started(address: str) -> None:
        typer.echo(f"the playground is at {address}  (Ctrl-C stops it)")
        if browser:
            webbrowser.open(address)

    serve(model, host=host, port=port, hosts=allow_host or (), started=started)


def _write(folder: Path, model: str) -> None:
    if model != "digits":
        raise ConfigurationError(
            f"got {model!r}", where="model", suggestion="leave it out: a page without a server has the digits only"
        )
    from tqdm import tqdm

    from ...playground import build

    with tqdm(total=100, unit="%", bar_format="{l_bar}{bar}| {elapsed} < {remaining}") as bar:

        def progress(_: str, share: float) -> None:
            bar.update(round(100 * share) - bar.n)

        size = build(folder, progress=progress)
    typer.echo(f"wrote {folder / 'index.html'} ({size / 1e6:.1f} MB): open it in a browser")
