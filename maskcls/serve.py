"""`python -m maskcls.serve`: a page and an API that classify photos."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from maskcls import cli
from maskcls.cli import run
from maskcls.errors import RunError
from maskcls.serving.web.access import Access, check_protected, is_loopback
from maskcls.serving.web.limits import Limits
from maskcls.stores.photo_limits import StatedLimits

WEB = ("fastapi", "prometheus_client", "python_multipart", "starlette", "uvicorn")
"""What the extra `web` installs."""

_Auth = Annotated[
    str | None,
    typer.Option(
        "--auth",
        help="USER:PASSWORD that everybody must give; better by the environment, which other users cannot see. "
        "--save-config leaves it out.",
        envvar="MASKCLS_AUTH",
        show_default="none",
    ),
]
_AllowHost = Annotated[
    list[str] | None,
    typer.Option(
        "--allow-host", help="Further name under which it is reached, as behind a proxy.", show_default="none"
    ),
]
_NoFaceCheck = Annotated[
    bool, typer.Option("--no-face-check", help="Do not look for faces, so that no answer warns of none or several.")
]
_BodyMb = Annotated[float, typer.Option("--max-body-mb", min=0.001, help="Of a request's body, as it arrives.")]
_BodiesMb = Annotated[
    float, typer.Option("--max-bodies-mb", min=0.001, help="Of all bodies in memory; beyond, the slowest one ends.")
]
_Megapixels = Annotated[float, typer.Option("--max-megapixels", min=0.001, help="Of a photo, 10**6 px, by its header.")]
_Aspect = Annotated[float, typer.Option("--max-aspect", min=1, help="Longer edge of a photo / shorter edge.")]
_Photos = Annotated[int, typer.Option("--max-photos", min=1, help="In one request.")]
_Queue = Annotated[int, typer.Option("--queue", min=1, help="Photos that may wait; beyond, the answer is 429.")]
_Batch = Annotated[
    int,
    typer.Option(
        "--batch", min=1, help="Photos predicted together. With 1, no answer's last bits depend on other requests."
    ),
]
_RequestS = Annotated[float, typer.Option("--request-s", min=0.001, help="Time for an answer, s; then 503.")]
_BodyS = Annotated[float, typer.Option("--body-s", min=0.001, help="Time for a body to arrive, s; then 408.")]
_HeaderS = Annotated[float, typer.Option("--header-s", min=0.001, help="Time for headers to arrive, s.")]
_Connections = Annotated[
    int, typer.Option("--connections", min=1, help="Open at a time; beyond, the longest idle one is closed.")
]


def main(
    bundle: Annotated[Path, typer.Option("--bundle", help="Folder of an exported classifier.")],
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0: any free one.")] = 7860,
    host: Annotated[
        str, typer.Option("--host", help="Address to listen on; browsers allow the camera on loopback or by HTTPS.")
    ] = "127.0.0.1",
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")] = "auto",
    engine: cli.Engine = "torch",
    abstain: cli.Abstain = 0.0,
    auth: _Auth = None,
    no_auth: Annotated[
        bool, typer.Option("--no-auth", help="Beyond loopback: anybody who reaches the host may use the service.")
    ] = False,
    allow_host: _AllowHost = None,
    no_face_check: _NoFaceCheck = False,
    body_mb: _BodyMb = Limits.body_mb,
    bodies_mb: _BodiesMb = Limits.bodies_mb,
    megapixels: _Megapixels = Limits.megapixels,
    aspect: _Aspect = Limits.aspect,
    photos: _Photos = Limits.photos,
    queue: _Queue = Limits.queue,
    batch: _Batch = Limits.batch,
    request_s: _RequestS = Limits.request_s,
    body_s: _BodyS = Limits.body_s,
    header_s: _HeaderS = Limits.header_s,
    connections: _Connections = Limits.connections,
) -> None:
    """Serve a page and an API: webcam or upload, then mask state, gender and age group. Nothing sent is kept."""
    limits = Limits(
        body_mb, bodies_mb, megapixels, aspect, photos, queue, batch, request_s, body_s, header_s, connections
    )
    check_protected(host, auth, no_auth=no_auth)
    access = Access(host, allow_host or (), auth)
    answers = {"abstain": abstain, "engine": engine}
    _serve(bundle, device, access, limits, (host, port), face_check=not no_face_check, **answers)


def _serve(
    bundle: Path,
    device: str,
    access: Access,
    limits: Limits,
    address: tuple[str, int],
    *,
    face_check: bool,
    **answers: Any,
) -> None:
    try:
        from maskcls.serving.web.app import build_app
        from maskcls.serving.web.server import create_server, listen, url_of
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in WEB:
            raise
        raise RunError(
            f"The service needs {error.name}, which is not installed. Install it with: pip install 'maskcls[web]'"
        ) from None
    from maskcls.serving.predictor import Predictor

    # The decoder has limits of its own, for folders of photos; here it takes what the service takes.
    StatedLimits(limits.megapixels, limits.aspect).apply()
    with listen(*address) as listener:  # before the classifier is loaded, which takes seconds
        app = build_app(Predictor(bundle, device, **answers), limits, access, face_check=face_check)
        server = create_server(app, limits)
        url = url_of(address[0], listener.getsockname()[1])
        if not is_loopback(address[0]):
            typer.echo("Warning: without HTTPS the browsers of other machines refuse the camera.", err=True)
        typer.echo(f"Serving {bundle} at {url} (Ctrl-C ends it).")
        server.run(sockets=[listener])


if __name__ == "__main__":
    run(main)
