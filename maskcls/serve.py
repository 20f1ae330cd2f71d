"""`python -m maskcls.serve`: a page that classifies photos from the camera or a file."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Annotated

import typer

from maskcls.cli import run

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def main(
    bundle: Annotated[Path, typer.Option("--bundle", help="Folder of an exported classifier.")],
    port: Annotated[int, typer.Option("--port", min=1, max=65535)] = 7860,
    host: Annotated[
        str, typer.Option("--host", help="Address to listen on; browsers allow the camera on loopback alone.")
    ] = "127.0.0.1",
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")] = "auto",
) -> None:
    """Serve a page: webcam or upload, then mask state, gender and age group. Nothing uploaded is kept."""
    from maskcls.serving.predictor import Predictor
    from maskcls.serving.web import import_gradio, serve, url_of

    import_gradio()
    predictor = Predictor(bundle, device)
    if host not in LOOPBACK:
        typer.echo(
            f"Warning: anybody who reaches {host} can use the page; without HTTPS their browsers refuse the camera.",
            err=True,
        )
    typer.echo(f"Serving {bundle} at {url_of(host, port)} (Ctrl-C ends it).")
    page = serve(predictor, host, port)
    try:
        threading.Event().wait()  # Gradio's own wait would end a Ctrl-C or SIGTERM with status 0
    finally:
        page.close(verbose=False)


if __name__ == "__main__":
    run(main)
