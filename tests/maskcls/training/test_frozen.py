"""Kept features change nothing but the time: the same curve with and without them, to the bit on the CPU in float32."""

from __future__ import annotations

import dataclasses
import errno
import os
import shutil
import time
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import torch

from maskcls.data.augment import Augmenter
from maskcls.stores.arrays import StoreInfo
from maskcls.stores.features import FeatureStores, list_stores, prune
from maskcls.training.fit import Fit
from maskcls.training.frozen import FLOP_PER_S, FrozenStages
from tests.maskcls.training.kept_features import FOR_THE_SHAPE, KEPT, N_TRAIN, VIEWS, computed, curve, drawn, known
from tests.maskcls.training.small import data


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


OF_EACH_KIND: list[dict[str, Any]] = [
    {},
    {"sampler": "oversample", "views": 3, "epoch_photos": 40},
    {"augment_flip": 0.0, "augment_probability": 0.0, "views": 0},
    {"ema_decay": 0.9, "head": "mlp", "head_width": 8, "head_dropout": 0.5},
    {"task_split": "shared_heads", "age_regression": 0.1},
    {"task_split": "mask_gender_ages", "members.mask3.frozen_stages": 2, "epochs": 1},
    {"mix": "mixup"},
    {"views": 0},
]


@pytest.mark.parametrize(
    ("frozen_stages", "values"),
    [
        pytest.param(
            frozen_stages,
            values,
            id="-".join((str(frozen_stages), *values)),
            marks=[] if frozen_stages == 3 or not values else pytest.mark.soak,
        )
        for frozen_stages in (1, 3, 5)
        for values in OF_EACH_KIND
    ],
)
def test_the_same_curve_with_and_without_kept_features(
    frozen_stages: int, values: dict[str, Any], tmp_path: Path
) -> None:
    recipe = KEPT.override({"frozen_stages": frozen_stages, "epochs": 2, **values})
    without = curve(Fit(recipe, known()))
    first = Fit(recipe, known(), stores=FeatureStores(tmp_path, shared=True))
    assert curve(first) == without
    live = {
        "mix": "photos are mixed before they go through the frozen stages",
        "views": "every draw is a new view (views = 0)",
    }
    why = next((live[name] for name in live if values == {name: values.get(name)}), None)
    assert first.frozen_features == (f"{why}; for validation: kept" if why else "kept")
    assert list_stores(tmp_path)
    again = Fit(recipe, known(), stores=FeatureStores(tmp_path, shared=True))
    assert curve(again) == without


def test_what_is_kept_is_computed_once_for_all_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, kept = computed(monkeypatch), FeatureStores(tmp_path, shared=True)
    recipe = KEPT.override({"sampler": "weighted", "views": 3})
    curve(Fit(recipe.override({"epochs": 1}), known(), stores=kept))
    first = sum(calls) - FOR_THE_SHAPE
    assert first == drawn(recipe.override({"epochs": 1})), "what is drawn, and nothing else"
    calls.clear()
    curve(Fit(recipe.override({"lr_head": 5e-3, "epochs": 4, "head": "linear"}), known(), stores=kept))
    assert first + sum(calls) - FOR_THE_SHAPE == drawn(recipe.override({"epochs": 4})), "what had not been drawn before"
    calls.clear()
    curve(Fit(recipe, known(), stores=kept))
    assert sum(calls) == FOR_THE_SHAPE


def test_another_split_of_the_people_shares_what_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, kept = computed(monkeypatch), FeatureStores(tmp_path, shared=True)
    recipe = KEPT.override({"views": 1, "epochs": 1, "sampler": "none"})
    curve(Fit(recipe, known(), stores=kept))
    calls.clear()
    other = dataclasses.replace(known(), train=np.arange(18, 90), validation=np.arange(18))
    curve(Fit(recipe, other, stores=kept))
    not_trained_on_before = 90 - N_TRAIN
    assert sum(calls) - FOR_THE_SHAPE == not_trained_on_before + len(other.validation)


def test_a_store_says_how_many_photos_it_holds_by_now(tmp_path: Path) -> None:
    recipe = KEPT.override({"epochs": 1})
    fit = Fit(recipe, known(), stores=FeatureStores(tmp_path, shared=True))
    assert not list_stores(tmp_path)
    curve(fit)
    assert [(info.photos, info.held) for info in list_stores(tmp_path) if "view" in info.source] == [
        (len(known().labels), N_TRAIN)
    ]
    assert sum(info.held or 0 for info in list_stores(tmp_path)) == drawn(recipe)


@pytest.mark.parametrize(
    "values",
    [{"augmentation_seed": 1}, {"augment_rotate_degrees": 7.0}, {"frozen_stages": 4}, {"image_size": 40}, {"seed": 1}],
    ids=lambda values: next(iter(values)),
)
def test_another_prefix_or_view_has_stores_of_its_own(tmp_path: Path, values: dict[str, Any]) -> None:
    """The seed counts here, for weights are random in this recipe."""
    kept = FeatureStores(tmp_path, shared=True)
    first = KEPT.override({"epochs": 1})
    for recipe in (first, first.override(values)):
        photos = known()
        size = recipe.image_size
        pixels = np.random.default_rng(0).integers(0, 255, (len(photos.labels), size, size, 3), np.uint8)
        curve(Fit(recipe, dataclasses.replace(photos, pixels=pixels), stores=kept))
    of_the_first = 2 if values != {"augmentation_seed": 1} and values != {"augment_rotate_degrees": 7.0} else 1
    assert len(list_stores(tmp_path)) == 2 + of_the_first


def test_photos_that_changed_have_stores_of_their_own(tmp_path: Path) -> None:
    kept = FeatureStores(tmp_path, shared=True)
    for digest in ("before", "after"):
        curve(Fit(KEPT.override({"epochs": 1}), dataclasses.replace(data(), pixels_digest=digest), stores=kept))
    assert len(list_stores(tmp_path)) == 4


@pytest.mark.parametrize(
    "damage",
    [
        "a byte",
        "a checksum's byte",
        "shorter",
        "no file",
        "no checksums",
        "no claims",
        "no manifest",
        "a manifest of nothing",
    ],
)
def test_a_damaged_store_is_noticed_and_built_again(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    kept = FeatureStores(tmp_path, shared=True)
    before = curve(Fit(KEPT, known(), stores=kept))
    for info in list_stores(tmp_path):
        store = tmp_path / "features" / info.name
        {
            "a byte": lambda: flip(store / "features.bin", info),  # noqa: B023
            "a checksum's byte": lambda: flip(store / "checksums.u32", info),  # noqa: B023
            "shorter": lambda: os.truncate(store / "features.bin", info.n_bytes // 2),  # noqa: B023
            "no file": (store / "features.bin").unlink,
            "no checksums": (store / "checksums.u32").unlink,
            "no claims": (store / "claims").unlink,
            "no manifest": (store / "manifest.json").unlink,
            "a manifest of nothing": lambda: (store / "manifest.json").write_text("{}"),  # noqa: B023
        }[damage]()
    assert curve(Fit(KEPT, known(), stores=kept)) == before
    assert "are damaged and are computed again" in caplog.text
    assert len(list_stores(tmp_path)) == VIEWS + 1
    caplog.clear()
    assert curve(Fit(KEPT, known(), stores=kept)) == before
    assert "damaged" not in caplog.text, "what was damaged is right again"


def flip(file: Path, info: StoreInfo) -> None:
    """Change a byte of the first row that is there."""
    row = int(np.flatnonzero(np.fromfile(file.with_name("checksums.u32"), np.uint32))[0])
    content = bytearray(file.read_bytes())
    content[row * len(content) // info.photos + 1] ^= 1
    file.write_bytes(content)


def test_stores_that_would_not_fit_or_not_pay_are_not_made(tmp_path: Path) -> None:
    recipe = KEPT.override({"epochs": 1, "views": 4})
    small = Fit(recipe, known(), stores=FeatureStores(tmp_path, budget_gb=1e-6, shared=True))
    assert "--feature-store-gb allows 1e-06 GB" in small.model_fits[0].training_cache.reason
    once = Fit(recipe, known(), stores=FeatureStores(tmp_path))
    assert "they would not pay: of 72 draws none comes twice" in once.model_fits[0].training_cache.reason
    for values in (
        {"epochs": 9},
        {"sampler": "weighted"},
    ):  # another epoch draws them again; so does a sampler that draws some often
        twice = Fit(recipe.override({**values, "views": 1}), known(), stores=FeatureStores(tmp_path))
        assert twice.model_fits[0].training_cache.features is not None
    assert curve(small) == curve(once)


def test_what_would_take_longer_to_read_than_to_compute_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("maskcls.training.frozen.READ_BYTES_PER_S", 1e3)
    kept = FeatureStores(tmp_path, shared=True)
    slow = Fit(KEPT, known(), stores=kept)
    assert "ms to read a photo's" in slow.frozen_features
    assert slow.frozen_features.startswith("they would not pay: ")
    before = curve(slow)
    assert not list_stores(tmp_path)
    monkeypatch.undo()
    assert curve(Fit(KEPT, known(), stores=kept)) == before


def test_whether_features_are_kept_depends_on_no_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A trial decides as others do that share its features, and as it did before it was resumed."""
    with monkeypatch.context() as hurried:
        hurried.setattr(time, "perf_counter", lambda: 0.0)
        quick = Fit(KEPT, known(), stores=FeatureStores(tmp_path, shared=True))
    assert quick.frozen_features == "kept"
    frozen = quick.model_fits[0].frozen
    assert frozen is not None
    assert frozen.seconds_per_photo == pytest.approx(2 * multiplications(frozen) / FLOP_PER_S["cpu"], rel=1e-6)


def multiplications(frozen: FrozenStages) -> int:
    """Of the convolutions that one photo goes through, counted by their shapes; this backbone has nothing else."""
    counted: list[int] = []

    def count(layer: torch.nn.Module, given: object, maps: torch.Tensor) -> None:
        assert isinstance(layer, torch.nn.Conv2d)
        counted.append(maps.numel() * layer.weight[0].numel())

    for layer in frozen.model.backbone.modules():
        if isinstance(layer, torch.nn.Conv2d):
            layer.register_forward_hook(count)
    frozen.compute(np.array([0]), torch.float32, block=1)
    return sum(counted)


@pytest.mark.slow
def test_loader_processes_make_the_views_whose_features_are_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here: list[int] = []
    real, process = Augmenter.view, os.getpid()

    def noted(augmenter: Augmenter, rgb: Any, key: str, view: int) -> Any:
        if os.getpid() == process:
            here.append(view)
        return real(augmenter, rgb, key, view)

    monkeypatch.setattr(Augmenter, "view", noted)
    recipe = KEPT.override({"task_split": "mask_gender_ages", "epochs": 2, "members.mask3.frozen_stages": 0})
    helped = Fit(recipe, known(), loader_workers=2, stores=FeatureStores(tmp_path / "helped", shared=True))
    found = curve(helped)
    assert here == []
    assert found == curve(Fit(recipe, known(), stores=FeatureStores(tmp_path / "alone", shared=True)))
    assert len(here) > 0


def test_where_one_view_finds_no_room_it_is_computed_live(tmp_path: Path) -> None:
    """The bound is one fit's stores, but another fit's are in use: one view and the validation photos have room."""
    probe = Fit(KEPT, known(), stores=FeatureStores(tmp_path / "probe", shared=True))
    curve(probe)
    total = sum(info.n_bytes for info in list_stores(tmp_path / "probe"))
    one_view = max(info.n_bytes for info in list_stores(tmp_path / "probe"))
    kept = FeatureStores(tmp_path / "cache", budget_gb=(total + 1.1 * one_view) * 1e-9, shared=True)
    first = Fit(KEPT, known(), stores=kept)
    curve(first)
    other = KEPT.override({"augmentation_seed": 3})
    second = Fit(other, known(), stores=kept)
    assert curve(second) == curve(Fit(other, known()))
    assert len(list_stores(tmp_path / "cache")) == VIEWS + 1 + 1, (
        "one view of the second fit; its validation photos are the first one's"
    )
    assert "in use by other runs" in second.frozen_features
    assert sum(info.n_bytes for info in list_stores(tmp_path / "cache")) <= total + 1.1 * one_view
    del first


def test_none_in_use_is_removed(tmp_path: Path) -> None:
    kept = FeatureStores(tmp_path, shared=True)
    using = Fit(KEPT, known(), stores=kept)
    curve(using)
    curve(Fit(KEPT.override({"augmentation_seed": 3}), known(), stores=kept))
    in_use = {info.name for info in list_stores(tmp_path) if info.in_use}
    assert len(in_use) == VIEWS + 1
    removed = prune(tmp_path, 0)
    assert len(removed) == VIEWS
    assert {info.name for info in list_stores(tmp_path)} == in_use
    del using


@pytest.mark.parametrize(
    "how", ["no folder can be made", "a full disk", "a disk just full", "a disk that fills up", "a disk that fails"]
)
def test_a_cache_that_cannot_be_written_is_reported_and_training_goes_on(
    tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    if how == "a full disk":
        monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(10, 10, 0))  # type: ignore[attr-defined]
    elif how == "a disk just full":
        monkeypatch.setattr(os, "posix_fallocate", lambda *call: raising(OSError(errno.ENOSPC, "no more")))
    elif how.startswith("a disk that"):
        answer = OSError(errno.ENOSPC if how.endswith("up") else errno.EIO, "no more")
        real, writes = os.pwrite, iter(range(9))
        monkeypatch.setattr(os, "pwrite", lambda *call: real(*call) if next(writes, 9) < 8 else raising(answer))
    else:
        (tmp_path / "features").write_text("a file where the folder should be")
    fit = Fit(KEPT, known(), stores=FeatureStores(tmp_path, shared=True))
    assert curve(fit) == curve(Fit(KEPT, known()))
    said = f"he cache for frozen features, {tmp_path}, takes none: "
    assert caplog.text.count(f"T{said}") == 1
    assert "Training goes on, more slowly" in caplog.text
    assert said in fit.frozen_features
    assert said in fit.cache_trouble
    assert not list((tmp_path / "features").glob(".building-*"))


def test_a_cache_that_may_only_be_read_serves_what_it_has(
    unprivileged: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    kept = FeatureStores(unprivileged, shared=True)
    curve(Fit(KEPT.override({"epochs": 1}), known(), stores=kept))
    for path in (*unprivileged.rglob("*"), unprivileged):
        path.chmod(0o555 if path.is_dir() else 0o444)
    calls = computed(monkeypatch)
    numbers = curve(Fit(KEPT, known(), stores=kept))
    live, calls[:] = sum(calls), []
    assert numbers == curve(Fit(KEPT, known()))
    assert 0 < live < sum(calls)
    assert "may only be read, and what it has not is computed whenever it is needed. Training goes on" in caplog.text


def raising(error: OSError) -> NoReturn:
    raise error


def test_bfloat16_is_kept_in_half_the_room(tmp_path: Path) -> None:
    recipe = KEPT.override({"precision": "bfloat16", "epochs": 1})
    fit = Fit(recipe, known(), stores=FeatureStores(tmp_path, shared=True))
    numbers = curve(fit)
    training, validation = sorted(list_stores(tmp_path), key=lambda info: "as it is" in info.source)
    assert "view 0" in training.source
    assert training.n_bytes / training.photos < 0.6 * validation.n_bytes / validation.photos
    assert numbers == curve(Fit(recipe, known()))
