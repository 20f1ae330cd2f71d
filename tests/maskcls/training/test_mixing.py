"""Each way of mixing: what a photo is made of is what its shares say, and all of it depends on the seed alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from maskcls.recipe import Recipe
from maskcls.training.mixing import mix

MIXES = ("mixup", "cutmix", "half_cutmix")
S = 16


def photos(n: int) -> torch.Tensor:
    """Photo i holds the value i everywhere, so that a mixture shows its parts."""
    return torch.arange(n, dtype=torch.float32).view(n, 1, 1, 1).expand(n, 3, S, S).clone()


def recipe(kind: str, probability: float = 1.0) -> Recipe:
    return Recipe().override({"mix": kind, "mix_alpha": 1.0, "mix_probability": probability})


def test_every_mix_of_the_recipe_is_covered() -> None:
    assert set(Recipe.model_json_schema()["properties"]["mix"]["enum"]) == {"none", *MIXES}


@pytest.mark.parametrize("n", [8, 7, 2, 1])
@pytest.mark.parametrize("kind", MIXES)
def test_shares_say_what_a_photo_is_made_of(kind: str, n: int) -> None:
    for seed in range(20):
        images = photos(n)
        shares = mix(images, recipe(kind), seed)
        if n == 1:
            assert shares is None
            continue
        assert shares is not None
        torch.testing.assert_close(shares.sum(1), torch.ones(n))
        torch.testing.assert_close(
            images.mean((1, 2, 3)), shares @ torch.arange(n, dtype=torch.float32), atol=1e-4, rtol=1e-4
        )
        if n % 2:
            assert (images[-1] == n - 1).all(), "the odd one stays as it is"


def test_halves_are_cut_down_the_middle() -> None:
    images = photos(4)
    shares = mix(images, recipe("half_cutmix"), 0)
    assert images[0, 0, 0].tolist() == [0.0] * (S // 2) + [3.0] * (S // 2)
    assert shares is not None
    assert shares[0].tolist() == [0.5, 0, 0, 0.5]


def test_cutmix_pastes_a_box_and_mixup_blends() -> None:
    boxes, blends = photos(4), photos(4)
    mix(boxes, recipe("cutmix"), 1)
    mix(blends, recipe("mixup"), 1)
    assert set(boxes[0].unique().tolist()) == {0.0, 3.0}
    assert len(blends[0].unique()) == 1
    assert 0 < blends[0, 0, 0, 0] < 3


@pytest.mark.parametrize("kind", MIXES)
def test_the_seed_alone_decides_and_numpys_generator_is_left_alone(kind: str) -> None:
    np.random.seed(5)
    expected = np.random.rand(2).tolist()
    np.random.seed(5)
    first, second = photos(6), photos(6)
    mix(first, recipe(kind), 3)
    assert np.random.rand() == expected[0]
    mix(second, recipe(kind), 3)
    assert np.random.rand() == expected[1]
    assert torch.equal(first, second)


def test_so_many_batches_are_mixed() -> None:
    mixed = sum(mix(photos(4), recipe("mixup", 0.25), seed) is not None for seed in range(400))
    assert 70 < mixed < 130
    assert mix(photos(4), recipe("none"), 0) is None
