"""The command ``playground``: a page to play with samplers, live or as a folder."""

from __future__ import annotations

import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from ...support.errors import ConfigurationError
from ..options import Model, Prompt
from ..output import Json, Output, Quiet, complain

__all__ = ["playground"]


def playground(
    model: Model = "digits",
    prompt: Prompt = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port; 0 chooses a free one.")] = 8321,
    host: Annotated[str, typer.Option(help="The address to listen at.")] = "127.0.0.1",
    allow_host: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Another name by which a request may address this machine; repeatable."),
    ] = None,
    browser: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
    build: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write the page to this folder instead; it needs no server.")
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Play with samplers in the browser: plans, digits and errors change with every setting.

    The digits run in the browser, every other model in this process. Only this machine can reach the page, unless
    --host says otherwise. Ctrl-C stops the server.
    """
    output = Output(as_json, quiet)
    if build is not None:
        _write(build, model, output)
        return
    from ...playground import serve

    if host not in ("127.0.0.1", "localhost", "::1"):
        complain(f"{host} can be reached from other machines, and every reader of the page can run the model")

    def started(address: str) -> None:
        output.say(f"the playground is at {address}  (Ctrl-C stops it)")
        output.result({"address": address})
        if browser:
            webbrowser.open(address)

    serve(model, prompt=prompt, host=host, port=port, hosts=allow_host or (), started=started)


def _write(folder: Path, model: str, output: Output) -> None:
    if model != "digits":
        raise ConfigurationError(
            f"got {model!r}", where="model", suggestion="leave it out: a page without a server has the digits only"
        )
    from tqdm import tqdm

    from ...playground import build

    with tqdm(
        total=100, unit="%", disable=not output.progress, bar_format="{l_bar}{bar}| {elapsed} < {remaining}"
    ) as bar:

        def progress(_: str, share: float) -> None:
            bar.update(round(100 * share) - bar.n)

        size = build(folder, progress=progress)
    output.say(f"wrote {folder / 'index.html'} ({size / 1e6:.1f} MB in its folder): open it in a browser")
    output.result({"page": str(folder / "index.html"), "bytes": size})
