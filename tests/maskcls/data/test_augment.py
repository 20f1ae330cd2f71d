"""Views: pure, independent of each other, in units that do something."""

from __future__ import annotations

import hashlib
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import albumentations
import cv2
import numpy as np
import pytest

from maskcls.data import augment
from maskcls.data.augment import STRENGTHS, Augmenter
from maskcls.errors import CallError
from maskcls.recipe import Recipe

STRONG = dict.fromkeys(STRENGTHS, 0.5) | {"rotate_degrees": 20.0, "hue_degrees": 30.0, "shift": 0.2}


def photo(size: int = 48) -> np.ndarray:
    """Blocks of many colours, so that every augmentation shows; read-only, as the pixel store is."""
    blocks = np.random.default_rng(5).integers(40, 215, (6, 6, 3), dtype=np.uint8)
    rgb = cv2.resize(blocks, (size, size), interpolation=cv2.INTER_NEAREST)
    rgb.setflags(write=False)
    return rgb


def alone(name: str, strength: float, probability: float = 1.0) -> dict[str, float]:
    return {"probability": probability, name: strength}


def test_a_view_is_a_pure_function_of_photo_view_strengths_and_seed() -> None:
    rgb, augmenter = photo(), Augmenter(STRONG, seed=3)
    wanted = [augmenter.view(rgb, "p/mask1.jpg", view).tobytes() for view in range(8)]
    backwards = {view: augmenter.view(rgb, "p/mask1.jpg", view).tobytes() for view in reversed(range(8))}
    assert [backwards[view] for view in range(8)] == wanted
    assert len(set(wanted)) == 8
    assert Augmenter(STRONG, seed=4).view(rgb, "p/mask1.jpg", 0).tobytes() != wanted[0]
    assert augmenter.view(rgb, "p/mask2.jpg", 0).tobytes() != wanted[0]


def test_threads_and_pickling_change_nothing() -> None:
    rgb, augmenter = photo(), Augmenter(STRONG, seed=3)
    wanted = [augmenter.view(rgb, "a/1", view) for view in range(20)]
    copies = [pickle.loads(pickle.dumps(augmenter)) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        shares = pool.map(lambda i: [(v, copies[i].view(rgb, "a/1", v)) for v in range(i, 20, 4)], range(4))
        got = dict(pair for share in shares for pair in share)
    assert all(np.array_equal(got[view], wanted[view]) for view in range(20))


@pytest.mark.slow
def test_a_fresh_process_gives_the_same_views() -> None:
    code = f"import runpy; print(runpy.run_path({__file__!r})['digest_of_views']())"
    command, seeds = [sys.executable, "-c", code], {"PYTHONHASHSEED": "1"}
    fresh = subprocess.run(command, capture_output=True, text=True, check=True, env=seeds).stdout
    assert fresh == f"{digest_of_views()}\n"


def digest_of_views() -> str:
    augmenter = Augmenter(STRONG, seed=3)
    return hashlib.sha256(b"".join(augmenter.view(photo(), "p/ü.jpg", v).tobytes() for v in range(6))).hexdigest()


def test_transforms_fire_independently() -> None:
    """Seeded alike, they would fire all together or not at all; a photo's views would hang together."""
    augmenter = Augmenter(Recipe().augmentation, seed=0)
    n, n_transforms = 600, len(augmenter.transforms)
    fired = np.zeros((n, n_transforms))
    for view in range(n):
        augmenter.view(photo(16), "p/mask1.jpg", view)
        fired[view] = [bool(transform.params) or _flipped(transform) for transform in augmenter.transforms]
    assert n_transforms == 5
    assert np.all(abs(fired.mean(axis=0) - 0.5) < 0.1)
    between = np.asarray(np.corrcoef(fired.T))[np.triu_indices(n_transforms, 1)]
    following = np.asarray(np.corrcoef(fired[:-1].T, fired[1:].T))[:n_transforms, n_transforms:]
    assert abs(between).max() < 0.2
    assert abs(following).max() < 0.2


def _flipped(transform: albumentations.BasicTransform) -> bool:
    return bool(transform.params.get("shape"))


def test_no_strength_no_change() -> None:
    for strengths in ({}, dict.fromkeys(STRENGTHS, 0.0), {**STRONG, "flip": 0.0, "probability": 0.0}):
        augmenter = Augmenter(strengths, seed=0)
        assert augmenter.transforms == []
        assert all(np.array_equal(augmenter.view(photo(), "a", view), photo()) for view in range(5))


@pytest.mark.parametrize(("name", "strength"), [(n, STRONG[n]) for n in STRENGTHS if n not in ("flip", "probability")])
def test_each_strength_alone_changes_the_photo_and_makes_one_transform(name: str, strength: float) -> None:
    augmenter = Augmenter(alone(name, strength), seed=0)
    assert len(augmenter.transforms) == 1
    views = [augmenter.view(photo(), "a", view) for view in range(4)]
    assert np.mean([abs(view.astype(int) - photo()) for view in views]) > 1
    assert len({view.tobytes() for view in views}) == 4
    assert all(view.shape == photo().shape and view.dtype == np.uint8 for view in views)


def test_flip_mirrors_and_has_its_own_probability() -> None:
    always, half = Augmenter({"flip": 1.0}, 0), Augmenter({"flip": 0.5}, 0)
    assert np.array_equal(always.view(photo(), "a", 0), photo()[:, ::-1])
    mirrored = sum(np.array_equal(half.view(photo(), "a", view), photo()[:, ::-1]) for view in range(200))
    assert 70 < mirrored < 130


def test_units_of_the_limits() -> None:
    """Saturation 0.2 is a fifth of 0..255; 90 degrees of hue are 45 of OpenCV's; 0.2 on 0..255 would do nothing."""
    (hue,) = Augmenter(alone("hue_degrees", 90), 0).transforms
    assert hue.hue_shift_limit == (-45, 45)
    (colour,) = Augmenter({"probability": 1, "saturation": 0.2, "value": 0.1}, 0).transforms
    assert colour.sat_shift_limit == (-51, 51)
    assert colour.val_shift_limit == (-25.5, 25.5)
    (noise,) = Augmenter(alone("noise", 0.03), 0).transforms
    assert noise.std_range == (0, 0.03)
    (affine,) = Augmenter({"probability": 1, "shift": 0.1, "scale": 0.2, "rotate_degrees": 15}, 0).transforms
    assert affine.rotate == (-15, 15)
    assert affine.scale == {"x": (0.8, 1.2), "y": (0.8, 1.2)}
    assert affine.translate_percent == {"x": (-0.1, 0.1), "y": (-0.1, 0.1)}


def test_noise_has_the_strength_that_is_asked_for() -> None:
    grey = np.full((64, 64, 3), 128, np.uint8)
    augmenter = Augmenter(alone("noise", 0.1), seed=0)
    deviations = [augmenter.view(grey, "a", view).std() / 255 for view in range(100)]
    assert max(deviations) < 0.11
    assert np.mean(deviations) == pytest.approx(0.05, abs=0.01)


def test_affine_fills_with_the_photo_not_with_black() -> None:
    bright = np.full((64, 64, 3), 200, np.uint8)
    augmenter = Augmenter({"probability": 1, "shift": 0.3, "scale": 0.3, "rotate_degrees": 45}, seed=0)
    assert min(augmenter.view(bright, "a", view).min() for view in range(10)) >= 199


def test_unknown_augmentation_is_refused() -> None:
    with pytest.raises(CallError, match=r"There is no augmentation shear\. Augmentations: flip, probability, shift"):
        Augmenter({"shear": 1.0}, seed=0)


def test_an_argument_that_the_library_does_not_know_is_an_error() -> None:
    with pytest.raises(CallError, match=r"albumentations\.GaussNoise does not take .*var_limit"):
        augment._made(albumentations.GaussNoise, {"var_limit": (1, 2)})


def test_strengths_are_the_recipes() -> None:
    assert set(Recipe().augmentation) == set(STRENGTHS)
