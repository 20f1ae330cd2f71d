"""A page for one photo at a time: webcam or file, then mask state, gender and age group with their probabilities.

A photo travels inside the event and is decoded from memory: nothing is written, on the server's disk or elsewhere. The
page loads nothing from the network: no fonts, no analytics, no sharing.
"""

from __future__ import annotations

import base64
import os
import socket
from importlib import resources
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from maskcls.data.decoding.decode import decode_bytes
from maskcls.errors import CallError, DataError, RunError
from maskcls.labels import CLASS_NAMES
from maskcls.serving.bundle import Bundle
from maskcls.serving.predictor import Predictor
from maskcls.tasks import task

if TYPE_CHECKING:
    import gradio as gr

SHOWN = {"mask3": "Mask", "gender2": "Gender", "age3": "Age group"}
FONTS = ("ui-sans-serif", "system-ui", "sans-serif")  # the system's own, so that the page loads none
INTRODUCTION = """# Mask, gender, age
Take a portrait or choose one, and see what {answers} of it. The photo is looked at once and kept nowhere."""
NOTHING_YET = "Waiting for a photo."
CSS = """
.gradio-container { width: 100% !important; max-width: 1060px !important; margin: 0 auto !important;
  padding-top: 24px !important; }
.answer p { font-size: 1.15em; min-height: 3em; }"""


def import_gradio() -> Any:
    """Import Gradio with its telemetry off. Raises RunError, with what to do, if it is not installed."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    try:
        import gradio
    except ModuleNotFoundError as error:
        if error.name != "gradio":
            raise
        raise RunError(
            "The page needs Gradio, which is not installed. Install it with: pip install 'maskcls[web]'"
        ) from None
    from huggingface_hub import constants

    # The variable is read when the hub's client is imported, which the models have done before.
    constants.HF_HUB_DISABLE_TELEMETRY = True
    return gradio


def url_of(host: str, port: int) -> str:
    """The page's address for a browser."""
    return f"http://{_bracketed(host)}:{port}/"


def marginals(probabilities: NDArray[np.float64]) -> dict[str, dict[str, float]]:
    """Sum the probabilities (18,) of the classes to those of each label, by its name, for each task of SHOWN."""
    return {
        name: dict(
            # (18,) probabilities -> (k,): each class adds to its label.
            zip(task(name).label_names, np.bincount(task(name).labels, weights=probabilities).tolist(), strict=True)
        )
        for name in SHOWN
    }


def classify(predictor: Predictor, photo: str) -> tuple[str, dict[str, dict[str, float]]]:
    """Classify a photo in a data URL: a sentence with the likeliest class, and `marginals`. Raises DataError."""
    try:
        content = base64.b64decode(photo.partition(",")[2], validate=True)  # behind `data:image/jpeg;base64,`
    except ValueError:  # of text that is not ASCII, too
        raise DataError("The photo did not arrive whole. Send it again.") from None
    probabilities = predictor.at_once(decode_bytes(content, "The photo").rgb)  # (18,)
    best = int(probabilities.argmax())
    return f"Most likely **{CLASS_NAMES[best]}** ({probabilities[best]:.0%})", marginals(probabilities)


def introduction(bundle: Bundle) -> str:
    """The page's introduction, which says whether one classifier predicts or several together."""
    n = len(bundle.classifiers)
    return INTRODUCTION.format(
        answers="the classifier makes" if n == 1 else f"{n} classifiers, their probabilities averaged, make"
    )


def build_page(predictor: Predictor) -> gr.Blocks:
    """Build the page without serving it."""
    gr = import_gradio()

    def answer(event: gr.EventData) -> list[Any]:  # type: ignore[name-defined]
        try:
            sentence, by_task = classify(predictor, event.photo)
        except DataError as error:
            return [str(error), *(None for _ in SHOWN)]  # None empties a label
        return [sentence, *by_task.values()]

    answer.__annotations__["event"] = gr.EventData  # Gradio goes by the annotation, and its name is not known out there
    with gr.Blocks(title="Mask, gender, age", analytics_enabled=False) as page:
        gr.Markdown(introduction(predictor.bundle))
        with gr.Row():
            with gr.Column(scale=5):
                photo = gr.HTML(
                    html_template=_asset("photo.html"), css_template=_asset("photo.css"), js_on_load=_asset("photo.js")
                )
            with gr.Column(scale=4):
                sentence = gr.Markdown(NOTHING_YET, elem_classes="answer")
                labels = [gr.Label(label=title, elem_id=name, show_heading=False) for name, title in SHOWN.items()]
        photo.submit(answer, outputs=[sentence, *labels], show_progress="minimal", api_visibility="private")
    return page


def serve(predictor: Predictor, host: str, port: int) -> gr.Blocks:
    """Serve the page in a thread, until the returned page's `.close()`. Raises CallError if the port is taken."""
    _check_free(host, port)
    gr = import_gradio()
    page = build_page(predictor)
    page.launch(
        server_name=_bracketed(host),  # Gradio makes an address for a browser of it
        server_port=port,
        share=False,  # no tunnel to Gradio's servers
        quiet=True,
        prevent_thread_lock=True,
        ssr_mode=False,
        run_history=False,
        footer_links=[],
        max_file_size=1,  # bytes: the page never uses Gradio's own upload route, which writes to disk
        theme=gr.themes.Soft(font=FONTS, font_mono=FONTS),
        css=CSS,
    )
    return page


def _asset(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _bracketed(host: str) -> str:
    """The host as it stands in a URL: an IPv6 address in brackets (RFC 3986, 3.2.2)."""
    return f"[{host}]" if ":" in host else host


def _check_free(host: str, port: int) -> None:
    try:
        with socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET):
            pass
    except OSError as error:
        reason = str(error.strerror).partition(" (")[0]  # Python repeats the address in brackets
        raise CallError(
            f"{_bracketed(host)}:{port} cannot be served on: {reason}. Name another --port or --host."
        ) from None
