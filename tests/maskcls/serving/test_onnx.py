"""One graph for a whole bundle: as torch has it, with any number of photos, and without torch."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from maskcls.errors import CallError, DataError, RunError
from maskcls.serving.bundle import read_bundle
from maskcls.serving.calibration import Calibration
from maskcls.serving.decision import Decision, log_prior
from maskcls.serving.engine import create_engine
from maskcls.serving.export import note_fitted
from maskcls.serving.holdout_uses import bundle_digest
from maskcls.serving.marginals import marginal_table
from maskcls.serving.onnx_graph import BundleGraph
from maskcls.serving.predictor import Predictor
from tests.conftest import Ensemble, new_bundle, random_classifier

CALIBRATION = Calibration(1.6, "drawn photos", 60, 2.1, 1.9, 0.2, 0.1)
DECISION = Decision(0.8, tuple(log_prior(np.repeat(np.arange(18), np.arange(18) * 4)).tolist()), "", 60, 0.4, 0.5)
TINY = {"backbone": "test_resnet", "image_size": 32}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory, photo_kinds: list[Path]) -> list[str]:
    return list(map(str, photo_kinds))


def pixels_of(predictor: Predictor, photos: list[str]) -> dict[Any, np.ndarray]:
    crops = [predictor.crops(photo) for photo in photos]
    return {each: np.stack([crop[each].pixels for crop in crops]) for each in predictor.geometries}


def own_classes(folder: Path, predictor: Predictor, photos: list[str]) -> list[int]:
    """What the graph itself names, as other programs run it."""
    import onnxruntime

    session = onnxruntime.InferenceSession(next(folder.glob("*.onnx")))
    pixels = pixels_of(predictor, photos)
    given = dict(zip((one.name for one in session.get_inputs()), map(pixels.get, predictor.geometries), strict=True))
    (classes,) = session.run(["class"], given)
    assert classes.dtype == np.int64
    return list(classes)


@pytest.mark.parametrize("temperature", [1.0, 1.6])
def test_the_graph_computes_joins_weights_temperature_and_rule_as_numpy_does(
    random_ensemble: Ensemble, temperature: float, photos: list[str], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(random_ensemble.folder, tmp_path / "b"))
    note_fitted(folder, Calibration(temperature, "", 60, 2.1, 1.9, 0.2, 0.1), DECISION if temperature != 1 else None)
    predictor = Predictor(folder, "cpu")
    assert {each.recipe.join for each in predictor.bundle.classifiers} == {"soft", "hard"}
    pixels = pixels_of(predictor, photos)
    with torch.inference_mode():
        found, *by_task, classes = BundleGraph(predictor.bundle)(
            *(torch.from_numpy(pixels[each]) for each in predictor.geometries)
        )
    np.testing.assert_allclose(found.numpy(), predictor.probabilities(photos), rtol=1e-4, atol=1e-6)
    assert classes.tolist() == predictor.classes(predictor.probabilities(photos)).tolist()
    together = torch.cat(by_task, dim=1).numpy()  # (n, 8)
    np.testing.assert_allclose(together, marginal_table(found.numpy()), rtol=1e-5)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, photos: list[str]) -> Path:
    """An ensemble of two sizes, one of them with three heads, with a temperature and a graph."""
    pytest.importorskip("onnxruntime", reason="the extra `onnx`")
    pytest.importorskip("onnxscript", reason="the extra `onnx-export`")
    from maskcls.serving.onnx_export import export_onnx

    parts = (
        random_classifier("shared_heads", weight=0.6, **TINY),
        random_classifier("single", weight=0.4, **{**TINY, "image_size": 48}),
    )
    folder = new_bundle(tmp_path_factory.mktemp("onnx") / "bundle", *parts)
    note_fitted(folder, CALIBRATION, DECISION)
    (folder / "classifier-00000000.onnx").write_bytes(b"of an earlier export")
    compared, reduced = export_onnx(folder, photos, np.arange(len(photos)))
    assert reduced is None
    assert (compared.photos, compared.other_classes) == (len(photos), 0)
    assert 0 <= compared.largest_difference < 1e-5
    return folder


def test_it_predicts_as_torch_does_whatever_the_number_of_photos(exported: Path, photos: list[str]) -> None:
    by_torch, by_graph = Predictor(exported, "cpu"), Predictor(exported, engine="onnx")
    assert by_graph.bundle.classifiers[0].models == []
    expected = by_torch.probabilities(photos)
    found = by_graph.probabilities(photos)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert found.sum(axis=1) == pytest.approx(1, abs=1e-12)
    named = by_torch.classes(expected)
    assert (named != expected.argmax(axis=1)).any(), "by the decision rule"
    assert by_graph.predict(photos)["class"].tolist() == named.tolist()
    assert own_classes(exported, by_torch, photos) == named.tolist(), "the graph's own output"
    assert np.array_equal(by_graph.probabilities(photos[:1])[0], found[0]), "padded: neighbours change nothing"
    for n in (1, 3):
        at_once = by_graph.at_once([by_graph.crops(photo) for photo in photos[:n]])
        np.testing.assert_allclose(at_once, expected[:n], atol=1e-5)
    with pytest.raises(CallError, match="Predict rows with the engine torch"):
        by_graph.of_rows(None, np.arange(1))  # type: ignore[arg-type]


def test_the_bundle_says_what_was_compared_and_keeps_one_graph(exported: Path) -> None:
    manifest = json.loads((exported / "bundle.json").read_text())
    entry = manifest["onnx"]
    assert [file.name for file in exported.glob("*.onnx")] == [entry["file"]]
    assert (entry["temperature"], entry["tau"]) == (1.6, DECISION.tau)
    assert entry["compared_with_torch"]["largest_difference"] < 1e-5
    assert {"torch", "onnx", "onnxruntime"} <= entry["versions"].keys()
    without = {key: value for key, value in manifest.items() if key != "onnx"}
    assert bundle_digest(manifest) == bundle_digest(without), "the holdout counts it once"


def test_a_graph_that_differs_or_loses_too_much_is_not_written(
    exported: Path, photos: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from maskcls.serving import onnx_export

    folder = Path(shutil.copytree(exported, tmp_path / "b"))
    graph = next(exported.glob("*.onnx")).read_bytes()
    monkeypatch.setattr(onnx_export, "build_graph", lambda bundle: graph)  # twenty seconds of torch's
    before = (folder / "bundle.json").read_bytes()
    truth = Predictor(folder, "cpu").probabilities(photos).argmax(axis=1)  # so that torch is always right
    monkeypatch.setattr(onnx_export, "LARGEST_FALL", -1.0)
    with pytest.raises(RunError, match=r"In 8-bit integers macro F1 on 7 photos falls from .* nothing was written"):
        onnx_export.export_onnx(folder, photos, truth, int8_files=photos)
    monkeypatch.setattr(onnx_export, "LARGEST_DIFFERENCE", -1.0)
    with pytest.raises(RunError, match=r"gives other probabilities than torch: on 7 photos the largest difference is"):
        onnx_export.export_onnx(folder, photos, truth)
    assert (folder / "bundle.json").read_bytes() == before
    assert len(list(folder.glob("*.onnx"))) == 1


def test_its_variant_in_8_bits_is_another_graph_that_predicts_nearly_the_same(
    exported: Path, photos: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from maskcls.serving import onnx_export

    folder = Path(shutil.copytree(exported, tmp_path / "b"))
    graph = next(exported.glob("*.onnx")).read_bytes()
    monkeypatch.setattr(onnx_export, "build_graph", lambda bundle: graph)
    monkeypatch.setattr(onnx_export, "LARGEST_FALL", 2.0)
    truth = Predictor(folder, "cpu").probabilities(photos).argmax(axis=1)
    compared, reduced = onnx_export.export_onnx(folder, photos, truth, int8_files=photos)
    assert compared.f1 == compared.f1_graph
    assert reduced is not None
    assert reduced.largest_difference > 10 * compared.largest_difference
    files = {file.name.rpartition("-")[0]: file.stat().st_size for file in folder.glob("*.onnx")}
    assert set(files) == {"classifier", "classifier-int8"}
    found = Predictor(folder, engine="int8").probabilities(photos)
    expected = Predictor(folder, engine="onnx").probabilities(photos)
    assert 1e-6 < np.abs(found - expected).max() < 0.3


def test_an_engine_that_cannot_be_had_says_why(
    exported: Path, random_bundle: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = read_bundle(exported, with_models=False)
    for settings, message in (
        ({"name": "tpu"}, r"There is no engine 'tpu'\. Engines: torch, onnx, int8\."),
        ({"device": "cuda"}, r"--engine onnx runs on the CPU, so --device cuda cannot be used\."),
        ({"flip": True}, r"--tta needs --engine torch"),
        ({"name": "int8"}, r"has no graph in 8-bit integers\. Add it with --int8"),
    ):
        with pytest.raises(CallError, match=message):
            create_engine(bundle, **{"name": "onnx", "device": "auto", "flip": False, **settings})  # type: ignore[arg-type]
    with pytest.raises(CallError, match=r"single has no ONNX graph\. Add one where torch is installed: maskcls export"):
        Predictor(random_bundle("single"), engine="onnx")
    folder = Path(shutil.copytree(exported, tmp_path / "b"))
    note_fitted(folder, None, None)
    with pytest.raises(DataError, match="has another temperature than the bundle. Add the graph again"):
        Predictor(folder, engine="onnx")
    note_fitted(folder, CALIBRATION, None)
    with pytest.raises(DataError, match="has another decision rule than the bundle. Add the graph again"):
        Predictor(folder, engine="onnx")
    note_fitted(folder, CALIBRATION, DECISION)
    graph = next(folder.glob("*.onnx"))
    graph.write_bytes(graph.read_bytes()[:-1] + b"\0\0")
    with pytest.raises(DataError, match=rf"{graph.name} is damaged: .* Copy it again"):
        Predictor(folder, engine="onnx")
    monkeypatch.delitem(sys.modules, "maskcls.serving.onnx_engine")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(RunError, match=r"needs onnxruntime, which is not installed\. .* pip install 'maskcls\[onnx\]'"):
        Predictor(exported, engine="onnx")


WITHOUT_TORCH = """
import sys
for name in ("torch", "torchvision", "timm", "ray", "optuna", "albumentations", "safetensors", "sklearn", "scipy"):
    sys.modules[name] = None
bundle, images, out = sys.argv[1:]
from starlette.testclient import TestClient
from maskcls.serving.predictor import Predictor
from maskcls.serving.web.access import Access
from maskcls.serving.web.app import build_app
from maskcls.serving.web.limits import Limits
app = build_app(Predictor(bundle, engine="onnx"), Limits(), Access("127.0.0.1"))
with TestClient(app, base_url="http://127.0.0.1:7860") as client:
    answer = client.post("/v1/predict", files={"file": open(images.replace("list.txt", "0.jpg"), "rb").read()})
    print(answer.json()["predictions"][0]["class"])
    print(client.get("/v1/model").json()["explains"], client.post("/v1/explain").status_code)
from maskcls import cli, predict
sys.argv = ["maskcls.predict", "--bundle", bundle, "--images", images, "--out", out, "--engine", "onnx"]
cli.run(predict.main)
"""


def test_predict_and_the_service_need_no_torch(exported: Path, photo_kinds: list[Path], tmp_path: Path) -> None:
    """In a process of its own, for this one has imported torch. The weights are not needed either."""
    folder = Path(shutil.copytree(exported, tmp_path / "b", ignore=shutil.ignore_patterns("*.safetensors")))
    shutil.copy(photo_kinds[0], tmp_path / "0.jpg")
    (tmp_path / "list.txt").write_text("".join(f"{photo}\n" for photo in photo_kinds))
    words = (folder, tmp_path / "list.txt", tmp_path / "s.csv")
    done = subprocess.run([sys.executable, "-c", WITHOUT_TORCH, *map(str, words)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    expected = Predictor(exported, "cpu").predict(photo_kinds)["class"].tolist()
    assert int(done.stdout.splitlines()[0]) == expected[0]
    assert done.stdout.splitlines()[1] == "False 404", "a graph has no gradients, so nothing is offered"
    assert [int(row.rpartition(",")[2]) for row in (tmp_path / "s.csv").read_text().splitlines()[1:]] == expected
