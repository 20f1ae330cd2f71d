"""The model card of a run's bundle: README.md beside an export, written from what the run knows and nothing else.

Its parts are those of Mitchell et al., "Model Cards for Model Reporting" (FAT* 2019).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from maskcls.data.dataset import FaceDataset
from maskcls.labels import CLASS_NAMES
from maskcls.serving.bundle import Bundle
from maskcls.text import counted
from tune.report.group_record import GROUPS, groups_of
from tune.report.origin import energy
from tune.runs.folder import SearchRun
from tune.runs.study import records
from tune.selection.record import read_choice

_CANNOT = """\
- It estimates from one portrait whether a mask is worn, and guesses gender and age group by looks. It does not know who
  somebody is, their gender or their age.
- It knows two genders and three age groups, because its training photos were labelled so. Near 30 and 60 years, looks
  say little about the group.
- It was trained on upright portraits of one person. It answers for any picture, also where there is no face.
- How it does on people, cameras or masks unlike those of its training photos is not known."""
_INTENDED = """\
- Counting, in aggregate, how masks are worn in portraits like those it was trained on; teaching and research on such
  classifiers.
- **Not** for deciding about a person: access, checks, sanctions, hiring, prices. Not for telling who somebody is. Not
  for gender or age as facts about a person. It is no safety device."""

_OF_THE_BAG = "; of the bag in best/, which averages this model with others"
"""Beside the holdout's score: a card is of a single model."""


def model_card(run: SearchRun, bundle: Bundle, faces: FaceDataset) -> str:
    """Return the card in Markdown, with the Hub's header."""
    (classifier,) = bundle.classifiers
    recipe = classifier.recipe
    parts = [
        "---",
        "library_name: timm",
        "pipeline_tag: image-classification",
        "tags:",
        *(f"- {tag}" for tag in ("image-classification", "timm", "maskcls")),
        "---",
        f"# {run.name}: mask, gender and age group of a portrait",
        f"{recipe.backbone} at {classifier.geometry.image_size} px with a linear head of 18 classes, found by a search "
        f"({counted(len(records(run)), 'trial')}) and exported by maskcls.",
        '```python\nimport timm\n\nmodel = timm.create_model("local-dir:FOLDER", pretrained=True).eval()\n```',
        "The softmax of its logits gives the probabilities. "
        + _preprocessing(classifier.geometry.face_crop)
        + " Classes, in their order: "
        + "; ".join(CLASS_NAMES)
        + ".",
        *_uses(),
        "## Scores",
        *_scores(run, bundle),
        "## Training",
        *_training(run, faces, bundle, recipe.model_dump()),
    ]
    return "\n\n".join(_joined_header(parts)) + "\n"


def _joined_header(parts: Sequence[str]) -> list[str]:
    """The header's lines without blank ones in between."""
    end = list(parts).index("---", 1) + 1
    return ["\n".join(parts[:end]), *parts[end:]]


def _uses() -> list[str]:
    return ["## Intended use, and what it is not for", _INTENDED, "## What it cannot do", _CANNOT]


def _preprocessing(face_crop: str) -> str:
    cut = " In training, photos were cut to the face first (OpenCV's Haar cascade)." if face_crop != "none" else ""
    return (
        "In training and for the scores, photos were resized by OpenCV (area) and cut to the middle square; timm's own "
        f"transform resizes a little differently, so that predictions may differ slightly.{cut}"
    )


def _scores(run: SearchRun, bundle: Bundle) -> list[str]:
    """Scores with intervals, by side and by group; what is known only."""
    lines: list[str] = []
    choice = read_choice(run.record())
    is_winner = choice is not None and choice.winner_id == bundle.scores.get("trial")
    validation = bundle.scores.get("validation")
    rows = []
    if isinstance(validation, dict):
        rows.append(f"| validation people, who chose its epoch: too good | {validation['f1']:.3f} | |")
    if choice is not None and is_winner and choice.winner is not None:
        of = counted(len(choice.winner.repeats), "repeat")
        rows.append(
            f"| mean of {of} of its recipe on other people | {choice.winner.mean:.3f} | {choice.winner.interval} |"
        )
        if choice.holdout is not None:
            whose = _OF_THE_BAG if choice.is_bag else ""
            rows.append(
                f"| holdout, {choice.holdout.people_text}, who took no part{whose} | {choice.holdout.f1:.3f} | "
                f"{choice.holdout.interval} |"
            )
    lines += ["\n".join(["| macro F1 of 18 classes on | | 95 % interval over people |", "|---|---|---|", *rows])]
    known = bundle.scores.get(GROUPS) or groups_of(run, bundle.folder)  # an earlier version's bundle has none
    return [*lines, *(text for one in known for text in _by_group(one)), _calibration(bundle), *_decision(bundle)]


def _by_group(one: Mapping[str, Any]) -> list[str]:
    rows = [
        f"| {each['by'].replace('_', ' ')}: {each['group']} | {each['people']:,} | {_score(each['f1'], 2)} | "
        f"{_score([None if share is None else 100 * share for share in each['wrong']['class']], 0)} | "
        f"{each['verdict']} |"
        for each in one[GROUPS]
    ]
    heading = ["| group | people | macro F1 | wrong class, % | against the others |", "|---|---|---|---|---|"]
    size = f"{counted(one['people'], 'person', 'people')}, {counted(one['photos'], 'photo')}"
    return [f"By group, {one['on']} ({size}), with 95 % intervals over people:", "\n".join([*heading, *rows])]


def _score(numbers: Sequence[float | None], digits: int) -> str:
    """A score with its interval, as in `0.47 [0.39, 0.55]`, if it has one."""
    value, low, high = (None if number is None else f"{number:.{digits}f}" for number in numbers)
    return (value or "–") if low is None else f"{value} [{low}, {high}]"


def _calibration(bundle: Bundle) -> str:
    fitted = bundle.calibration
    if fitted is None:
        return "The probabilities are not calibrated."
    return (
        f"The probabilities are calibrated by a temperature of {fitted.temperature:.2f}, which is in the weights. It "
        f"was fitted on {fitted.fitted_on}, and there took the expected calibration error from "
        f"{fitted.error_before:.3f} to {fitted.error_after:.3f}."
    )


def _decision(bundle: Bundle) -> list[str]:
    """How the class is named, where it is not the likeliest one."""
    rule = bundle.decision
    if rule is None:
        return []
    prior = ", ".join(f"{value:.4g}" for value in rule.log_prior)
    return [
        "The scores are of classes that a decision rule names, because macro F1 counts rare classes as much as "
        f"frequent ones: argmax(T log p - tau log prior), with T = {bundle.temperature:g}, tau = {rule.tau:g} and the "
        f"logarithms {prior} of the classes' shares among the training photos. The weights give p, whose likeliest "
        f"class may be another one. The rule was fitted on {rule.fitted_on}; there macro F1 rose from "
        f"{rule.f1_before:.3f} to {rule.f1_after:.3f} for people on whom it was not fitted."
    ]


def _training(run: SearchRun, faces: FaceDataset, bundle: Bundle, recipe: dict[str, Any]) -> list[str]:
    search, split, people = run.record(), faces.split, faces.photos["person"].nunique()
    sides = ", ".join(f"{len(split.side(side)):,} {side}" for side in ("train", "validation", "holdout"))
    chosen = ("frozen_stages", "sampler", "loss", "epochs", "batch_size", "lr_head", "lr_body", "seed")
    values = ", ".join(f"{key}={recipe[key]}" for key in chosen if key in recipe)
    return [
        f"{counted(len(faces.photos), 'photo')} of {counted(people, 'person', 'people')}, split by people: {sides}. "
        f"Digest of photos and labels: {faces.digest}, of the split: {split.digest}. Neither photos nor names are part "
        "of this export.",
        f"Weights before training: {bundle.classifiers[0].weights_origin}. Recipe: {values}.",
        energy(search.sessions),
        "Versions: " + ", ".join(f"{name} {number}" for name, number in bundle.manifest["versions"].items()) + ".",
    ]


def write_card(folder: Path, run: SearchRun, bundle: Bundle, faces: FaceDataset) -> None:
    """Write the card into the folder of an export."""
    (folder / "README.md").write_text(model_card(run, bundle, faces), encoding="utf-8")
