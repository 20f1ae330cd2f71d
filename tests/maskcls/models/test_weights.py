"""Weights from a folder of files, from nowhere, and what is said when they cannot be had."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from maskcls.errors import CallError, RunError
from maskcls.models import backbones
from maskcls.models.backbones import check_known, create_backbone, normalisation
from maskcls.models.weights import check_reachable, find_weights, has_weights

SHARED = Path(__file__).parents[4] / "shared" / "weights"


def create(name: str, weights: Path | str) -> dict[str, torch.Tensor]:
    return create_backbone(name, weights=str(weights), frozen_stages=0, image_size=64).model.state_dict()


@pytest.mark.parametrize("file", ["resnet10t.safetensors", "resnet10t.c3_in1k.pth"])
def test_weights_are_read_from_a_folder_and_the_head_is_dropped(tmp_path: Path, file: str) -> None:
    torch.manual_seed(1)
    state = timm.create_model("resnet10t", num_classes=3).state_dict()
    save_file(state, tmp_path / file) if file.endswith("safetensors") else torch.save(state, tmp_path / file)
    loaded = create("resnet10t.c3_in1k", tmp_path)
    assert loaded.keys() == {key for key in state if not key.startswith("fc.")}
    assert all(torch.equal(loaded[key], state[key]) for key in loaded)


@pytest.mark.skipif(not SHARED.exists(), reason="needs ../shared/weights")
@pytest.mark.parametrize("name", ["resnet10t", "mobilenetv3_small_100"])
def test_real_weights_are_read(name: str) -> None:
    loaded = create(name, SHARED)
    again = create(name, SHARED)
    assert all(torch.equal(loaded[key], again[key]) for key in loaded)
    random = create(name, "none")
    assert not any(torch.equal(loaded[key], random[key]) for key in loaded if key.endswith("conv.weight"))
    assert loaded.keys() == random.keys()


def test_a_tagged_file_goes_before_an_untagged_one(tmp_path: Path) -> None:
    (tmp_path / "resnet10t.pth").touch()
    assert find_weights("resnet10t.c3_in1k", str(tmp_path)) == tmp_path / "resnet10t.pth"
    (tmp_path / "resnet10t.c3_in1k.pth").touch()
    assert find_weights("resnet10t.c3_in1k", str(tmp_path)) == tmp_path / "resnet10t.c3_in1k.pth"
    assert has_weights("resnet10t", str(tmp_path))
    assert not has_weights("resnet18", str(tmp_path))
    assert has_weights("resnet18", "none")


def test_missing_weights_say_which_file_was_expected(tmp_path: Path) -> None:
    with pytest.raises(
        RunError, match=r"No weights of resnet18.a1_in1k.*resnet18.a1_in1k.safetensors or resnet18.safetensors"
    ):
        check_reachable("resnet18.a1_in1k", str(tmp_path))


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "resnet10t.safetensors").write_bytes((9).to_bytes(8, "little") + b"{no json}")
    with pytest.raises(RunError, match=r"could not be read from .*resnet10t.safetensors"):
        create("resnet10t", tmp_path)


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 102400\n"
NO_WEIGHTS = {
    "a pointer": (POINTER, r"it is a pointer of Git LFS, in whose place `git lfs pull` puts them"),
    "a page": (b"\n<!DOCTYPE html><html>Sign in</html>", r"it is a web page"),
    "nothing": (b"", r"it is empty"),
    "text": (b"no tensors here", r"it does not begin as a (safetensors file|file of torch\.save) does"),
}


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("name", NO_WEIGHTS)
def test_a_file_that_holds_no_weights_is_said_to_be_what_it_is(tmp_path: Path, suffix: str, name: str) -> None:
    content, what = NO_WEIGHTS[name]
    file = tmp_path / f"resnet10t{suffix}"
    file.write_bytes(content)
    with pytest.raises(
        RunError, match=rf"^{file} holds no weights: {what}.*\. Put the real file there .*--weights hub"
    ):
        check_reachable("resnet10t", str(tmp_path))


def test_weights_that_were_cut_off_are_known_by_their_header(tmp_path: Path) -> None:
    file = tmp_path / "resnet10t.safetensors"
    save_file({"a": torch.zeros(9)}, file)
    check_reachable("resnet10t", str(tmp_path))
    file.write_bytes(file.read_bytes()[:20])
    with pytest.raises(RunError, match="holds no weights: it is cut off after 20 bytes"):
        check_reachable("resnet10t", str(tmp_path))


def test_memory_that_is_short_is_not_blamed_on_the_weights_or_the_size(tmp_path: Path) -> None:
    """Position embeddings for 2**40 patches fit into no machine; neither does what a built model may need."""
    save_file({"a": torch.zeros(1)}, tmp_path / "vit_tiny_patch16_224.safetensors")
    for weights in (str(tmp_path), "none"):
        with pytest.raises(RuntimeError, match="can't allocate memory"):
            create_backbone("vit_tiny_patch16_224", weights=weights, frozen_stages=0, image_size=2**24)

    class Hungry(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.empty(2**50, dtype=torch.uint8)

    with pytest.raises(RuntimeError, match="can't allocate memory"):
        backbones._try_out(Hungry(), 64)


def test_a_hub_out_of_reach_is_reported_within_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # the discard port: nobody listens
    with pytest.raises(RunError, match=r"out of reach: the hub does not answer.*--weights DIR.*--weights none"):
        check_reachable("resnet18.a1_in1k", "hub")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet_50", "does not know the backbone 'resnet_50'.*resnet50"),
        ("resnet50.a9", "resnet50 has no weights tagged 'a9'.*a1_in1k"),
    ],
)
def test_unknown_backbones_are_reported_the_nearest(name: str, message: str) -> None:
    with pytest.raises(CallError, match=message):
        check_known(name)


def test_a_model_without_weights_at_the_hub_is_refused() -> None:
    with pytest.raises(CallError, match="timm has no weights for efficientnet_b7"):
        create("efficientnet_b7", "hub")


@pytest.mark.parametrize(("name", "size_px"), [("maxvit_tiny_tf_224", 112), ("levit_128s", 50)])
def test_a_size_that_a_model_cannot_take_is_refused(name: str, size_px: int) -> None:
    with pytest.raises(CallError, match=f"{name} cannot be built for {size_px} px: "):
        create_backbone(name, weights="none", frozen_stages=0, image_size=size_px)


def test_mean_and_std_belong_to_the_weights() -> None:
    assert normalisation("resnet50.a1_in1k") == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert normalisation("vit_base_patch16_224.augreg_in21k_ft_in1k") == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
