"""AutoGluon MultiModal on the same photos, split and weights, as `tests.benchmarks.anytime` measures it.

    PYTHON -P tests/benchmarks/auto_gluon.py JOB OUT

PYTHON is that of an environment of its own, into which `pip install autogluon.multimodal` was done: it needs other
versions than this project, of which nothing is imported here. The job has `train` and `validation`, each with `files`
and `labels`, the `weights` as files of safetensors by the model's name, `image_size` in px, `seconds`, and
`unseen_files`. AutoGluon's own preset of hyperparameter search runs for these seconds; what it may choose from for a
backbone is replaced by the models of the weights, because its own ones would be downloaded. Its classes of the unseen
files go into OUT.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

PRESET = "medium_quality_hpo"
"""Its search for models of the size that two cores train; the others take transformers of 50 to 200 million weights."""
MODEL = "model.timm_image"


def as_checkpoint(name: str, weights: str, folder: Path) -> str:
    """A folder as AutoGluon reads local weights of timm from: config.json and pytorch_model.bin."""
    import timm
    import torch
    from safetensors.torch import load_file

    model = timm.create_model(name, checkpoint_path=weights, num_classes=0).eval()  # the files have no classifier
    n_features = model(torch.zeros(1, 3, 96, 96)).shape[1]  # of some models not `num_features`
    folder.mkdir(parents=True)
    torch.save(load_file(weights), folder / "pytorch_model.bin")
    config = {"architecture": name, "num_features": n_features, "pretrained_cfg": model.pretrained_cfg}
    (folder / "config.json").write_text(json.dumps(config, default=str))
    return str(folder)


def main(job_file: Path, out: Path) -> None:
    """Search, and predict the unseen files with what was found."""
    import pandas as pd
    from autogluon.multimodal import MultiModalPredictor
    from ray import tune

    job = json.loads(job_file.read_text())
    tables = [
        pd.DataFrame({"image": job[side]["files"], "label": job[side]["labels"]}) for side in ("train", "validation")
    ]
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = [as_checkpoint(name, file, Path(folder) / name) for name, file in job["weights"].items()]
        predictor = MultiModalPredictor(
            label="label", problem_type="multiclass", eval_metric="f1_macro", path=f"{folder}/model"
        )
        predictor.fit(
            train_data=tables[0],
            tuning_data=tables[1],
            time_limit=job["seconds"],
            presets=PRESET,
            hyperparameters={
                "model.names": ["timm_image"],
                f"{MODEL}.checkpoint_name": tune.choice(checkpoints),
                f"{MODEL}.image_size": job["image_size"],
            },
        )
        found = predictor.predict(pd.DataFrame({"image": job["unseen_files"]}), as_pandas=True)
    out.write_text(json.dumps([int(label) for label in found]))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
