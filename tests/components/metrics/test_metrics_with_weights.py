"""Metrics whose networks come from files: shapes, resizing, known answers, the laws, files that will not do."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from metric_inputs import batch_of, noisy, score, smooth_images
from numpy.typing import NDArray
from tiny_weights import save_clip, save_dinov2, save_inception
from torch import Tensor, nn

from dfm_core.conformance import laws_of
from dfm_core.errors import ConfigError, DFMError, UsageError
from dfm_core.interfaces.metric import ImageBatch, Metric, MetricFacts
from dfm_core.plugins.registry import Registry
from dfm_plugins.metrics import inception
from dfm_plugins.metrics.dinov2 import MEAN, STD, normalised
from dfm_plugins.metrics.inception import inception_score, resized
from dfm_plugins.metrics.inception_network import Convolution, MixedA, MixedB, MixedC, MixedD, MixedE, average_pool
from dfm_plugins.metrics.precision_recall import neighbour_distances, share_inside

REGISTRY = Registry.discover({})
FACTS = MetricFacts((32, 32), 3, ("cat", "dog"))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Random weights of every network."""
    pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("weights")
    return {
        "inception": save_inception(folder / "inception.pth"),
        "dinov2": save_dinov2(folder / "dinov2"),
        "clip": save_clip(folder / "clip", ["a", "photo", "of", "cat", "dog"]),
    }


# Branches of the blocks, as the names of the published weights have them: convolutions in a row, and the pooling, side
# by side as Szegedy et al. 2016 draw them. ":2": a stride of 2, without padding.
BRANCHES: dict[str, tuple[nn.Module, list[str]]] = {
    "A": (MixedA(8, 16), ["1x1", "5x5_1 5x5_2", "3x3dbl_1 3x3dbl_2 3x3dbl_3", "mean _pool"]),
    "B": (MixedB(8), ["3x3:2", "3x3dbl_1 3x3dbl_2 3x3dbl_3:2", "max:2"]),
    "C": (
        MixedC(8, 16),
        ["1x1", "7x7_1 7x7_2 7x7_3", "7x7dbl_1 7x7dbl_2 7x7dbl_3 7x7dbl_4 7x7dbl_5", "mean _pool"],
    ),
    "D": (MixedD(8), ["3x3_1 3x3_2:2", "7x7x3_1 7x7x3_2 7x7x3_3 7x7x3_4:2", "max:2"]),
    "E": (
        MixedE(8, largest=False),
        [
            *("1x1", "3x3_1 3x3_2a", "3x3_1 3x3_2b"),
            *("3x3dbl_1 3x3dbl_2 3x3dbl_3a", "3x3dbl_1 3x3dbl_2 3x3dbl_3b", "mean _pool"),
        ],
    ),
    "E of the end": (
        MixedE(8, largest=True),
        [
            *("1x1", "3x3_1 3x3_2a", "3x3_1 3x3_2b"),
            *("3x3dbl_1 3x3dbl_2 3x3dbl_3a", "3x3dbl_1 3x3dbl_2 3x3dbl_3b", "max _pool"),
        ],
    ),
}


@pytest.mark.parametrize("name", list(BRANCHES))
def test_an_inception_block_is_its_branches(name: str) -> None:
    """Against the table above, with weights of NumPy: another order of branches or kernels is another FID."""
    block, branches = BRANCHES[name]
    generator = torch.Generator().manual_seed(0)
    block = block.eval().double()
    for values in block.state_dict().values():
        if values.is_floating_point():
            values.copy_(torch.rand(values.shape, generator=generator, dtype=torch.float64) - 0.3)
    for part in block.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_var.abs_()  # type: ignore[union-attr, operator]
    x = torch.rand(1, 8, 9, 9, generator=generator, dtype=torch.float64)

    def unit(values: NDArray[np.float64], layer: str, stride: int) -> NDArray[np.float64]:
        state = {key: value.numpy() for key, value in block.get_submodule(f"branch{layer}").state_dict().items()}
        kernel = state["conv.weight"]
        margins = [(0, 0) if stride == 2 else (side // 2, side // 2) for side in kernel.shape[2:]]
        padded = np.pad(values, [(0, 0), *margins])
        windows = np.lib.stride_tricks.sliding_window_view(padded, kernel.shape[2:], axis=(1, 2))[:, ::stride, ::stride]
        result = np.einsum("chwij,ocij->ohw", windows, kernel)
        scale = state["bn.weight"] / np.sqrt(state["bn.running_var"] + 1e-3)
        shift = state["bn.bias"] - state["bn.running_mean"] * scale
        return np.maximum(result * scale[:, None, None] + shift[:, None, None], 0)

    def pooled(values: NDArray[np.float64], way: str, stride: int) -> NDArray[np.float64]:
        margin = [(0, 0), *[(0, 0) if stride == 2 else (1, 1)] * 2]
        windows = np.lib.stride_tricks.sliding_window_view(
            np.pad(values, margin, constant_values=np.nan), (3, 3), axis=(1, 2)
        )[:, ::stride, ::stride]
        reduced: NDArray[np.float64] = (np.nanmean if way == "mean" else np.nanmax)(windows, axis=(-2, -1))
        return reduced

    expected = []
    for branch in branches:
        values = x[0].numpy()
        for step in branch.split():
            layer, _, stride = step.partition(":")
            values = (pooled if layer in ("mean", "max") else unit)(values, layer, int(stride or 1))
        expected.append(values)
    with torch.no_grad():
        found = block(x)[0].numpy()
    np.testing.assert_allclose(found, np.concatenate(expected), rtol=1e-9, atol=1e-9)


@pytest.fixture
def small_inception(monkeypatch: pytest.MonkeyPatch) -> None:
    """Images of 75 pixels, the least that the network takes: sixteen times quicker."""
    monkeypatch.setattr(inception, "SIDE", 75)


def create(name: str, facts: MetricFacts = FACTS, **options: object) -> Metric:
    metric: Metric = REGISTRY.create("metric", name, {key: _plain(value) for key, value in options.items()}, facts)
    return metric


def _plain(value: object) -> object:
    return str(value) if isinstance(value, Path) else value


def test_the_inception_is_the_fid_variant(files: dict[str, Path]) -> None:
    """As many parameters as the port has: 23 834 568 of the classifier without its auxiliary head, 8 more classes."""
    metric = create("fid", path=files["inception"])
    network = inception.empty_network()
    assert sum(part.numel() for part in network.parameters()) == 23_834_568 + 8 * 2049
    features = metric.features(batch_of(smooth_images(2, 0)))["features"]
    assert features.shape == (2, 2048)
    assert bool((features >= 0).all())
    assert features.std() > 0
    assert metric.variant["file"] == "inception.pth"
    assert metric.variant["resize"] == "tensorflow"
    assert len(str(metric.variant["digest"])) == 16


def test_the_last_block_pools_by_the_maximum_and_the_others_leave_padding_out() -> None:
    network = inception.empty_network()
    assert [network.Mixed_7b.largest, network.Mixed_7c.largest] == [False, True]
    ones = torch.ones(1, 1, 4, 4)
    assert torch.equal(average_pool(ones), ones)  # counted padding would darken the edge


def test_the_batch_norm_is_that_of_the_graph() -> None:
    """Its ε is 0.001, not PyTorch's 0.00001: x / √(0.003 + 0.001) · 2 + 0.5, then ReLU."""
    layer = Convolution(1, 1).eval()
    state = {"weight": 2.0, "bias": 0.5, "running_mean": 0.0, "running_var": 0.003}
    layer.bn.load_state_dict({name: torch.tensor([value]) for name, value in state.items()}, strict=False)
    torch.nn.init.ones_(layer.conv.weight)
    found = layer(torch.tensor([0.1, -0.1]).reshape(1, 1, 1, 2)).flatten().tolist()
    assert found == pytest.approx([0.1 / 0.004**0.5 * 2 + 0.5, 0], rel=1e-6)


def legacy_bilinear(image: np.ndarray, side: int) -> np.ndarray:
    """`resize_bilinear` of TensorFlow 1 without align_corners, pixel by pixel."""
    height, width = image.shape
    result = np.zeros((side, side))
    for row in range(side):
        for column in range(side):
            y, x = row * height / side, column * width / side
            top, left = int(y), int(x)
            bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
            upper = image[top, left] + (image[top, right] - image[top, left]) * (x - left)
            lower = image[bottom, left] + (image[bottom, right] - image[bottom, left]) * (x - left)
            result[row, column] = upper + (lower - upper) * (y - top)
    return result


def test_images_are_resized_as_the_original_graph_did(small_inception: None) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 20, 130))
    images = torch.from_numpy(pixels).float()[None] / 127.5 - 1
    expected = np.stack([(legacy_bilinear(channel.astype(float), 75) - 128) / 128 for channel in pixels])
    np.testing.assert_allclose(resized(images, "tensorflow")[0], expected, atol=1e-5)
    other = torch.nn.functional.interpolate(images, (75, 75), mode="bilinear", align_corners=False)
    assert torch.equal(resized(images, "pytorch"), other)


def test_fid_and_is_measure(files: dict[str, Path], small_inception: None) -> None:
    real, samples = smooth_images(12, 0), smooth_images(12, 1)
    fid = create("fid", path=files["inception"], resamples=2)
    near, far = (score(fid, real, images)["fid"] for images in (samples, noisy(samples, 0.8)))
    assert 0 < near < far
    (first, second) = fid.warnings(12, 12)
    assert "12 samples for features of 2048 dimensions" in first
    assert "12 reference images" in second
    metric = create("is", path=files["inception"], splits=3)
    (value,) = score(metric, real, samples).values()
    assert value >= 1
    grey = create("fid", MetricFacts((32, 32), 1), path=files["inception"])
    assert grey.features(batch_of(real[:1, :1]))["features"].shape == (1, 2048)


def test_logits_of_the_inception_score_are_without_bias(files: dict[str, Path]) -> None:
    """As in the original code. A bias that prefers one class would make all images of that class, and the score 1."""
    metric = create("is", path=files["inception"], splits=1)
    network = metric.extractor.network  # type: ignore[attr-defined]
    network.fc.bias[3] = 1e6
    network.fc.weight.zero_()[torch.arange(4), torch.arange(4)] = 100
    features = torch.eye(4, 2048)
    assert metric.against({})({"features": features})["is"] == pytest.approx(4)
    assert metric.variant["splits"] == 1


def test_inception_score_of_known_distributions() -> None:
    sure = torch.eye(4, dtype=torch.float64).clamp_min(1e-12).log()
    assert inception_score(sure) == pytest.approx(4)
    assert inception_score(sure[:1].repeat(5, 1)) == pytest.approx(1)
    unsure = torch.full((6, 4), 0.25, dtype=torch.float64).log()
    assert inception_score(unsure) == pytest.approx(1)


def test_fdd(files: dict[str, Path]) -> None:
    metric = create("fdd", path=files["dinov2"], resolution=28)
    real = smooth_images(24, 0)
    assert metric.features(batch_of(real))["features"].shape == (24, 16)
    assert score(metric, real, real)["fdd"] == pytest.approx(0, abs=1e-5)
    assert score(metric, real, noisy(real, 0.5))["fdd"] > 1e-3
    variant = {key: value for key, value in metric.variant.items() if key != "digest"}
    architecture = {"network": "DINOv2", "width": 16, "layers": 1, "patch": 14}
    assert variant == {**architecture, "file": "dinov2", "resolution": 28}


def test_what_dinov2_gets_has_the_mean_and_spread_of_imagenet() -> None:
    """As the model cards say, of values in [0, 1]: 0.485, 0.456, 0.406 become 0, and 0.714, 0.68, 0.631 become 1."""
    for values, expected in (([0.485, 0.456, 0.406], 0.0), ([0.714, 0.68, 0.631], 1.0)):
        image = 2 * torch.tensor(values)[None, :, None, None].expand(1, 3, 4, 4) - 1
        torch.testing.assert_close(normalised(image, 8, MEAN, STD), torch.full((1, 3, 8, 8), expected))


def test_clip_similarity(files: dict[str, Path]) -> None:
    """Against the model's own logits, which are the cosines times a scale."""
    from transformers import AutoTokenizer, CLIPModel

    metric = create("clip_similarity", path=files["clip"])
    images, labels = smooth_images(4, 0, side=16), torch.tensor([0, 1, 1, 0])
    found = metric.features(ImageBatch(images, labels, (0, 1, 2, 3)))["similarity"]
    model, tokenizer = CLIPModel.from_pretrained(files["clip"]).eval(), AutoTokenizer.from_pretrained(files["clip"])
    tokens = tokenizer(["a photo of a cat", "a photo of a dog"], return_tensors="pt", padding=True)
    mean, std = (torch.tensor(values)[:, None, None] for values in ((0.4815, 0.4578, 0.4082), (0.2686, 0.2613, 0.2758)))
    with torch.no_grad():
        logits = model(
            pixel_values=((images + 1) / 2 - mean) / std,
            input_ids=tokens["input_ids"],
            attention_mask=tokens["attention_mask"],
        ).logits_per_image
    cosines = 100 * logits / model.logit_scale.exp()
    torch.testing.assert_close(found, cosines[torch.arange(4), labels].detach(), atol=0.02, rtol=0)
    variant = {key: value for key, value in metric.variant.items() if key not in ("digest", "file")}
    architecture = {"network": "CLIP", "width": 8, "layers": 1, "patch": 8}
    assert variant == {**architecture, "resolution": 16, "prompt": "a photo of a {}"}
    with pytest.raises(UsageError, match="expected labelled images"):
        metric.features(batch_of(images))


def test_embeddings_of_either_transformers() -> None:
    from types import SimpleNamespace

    from dfm_plugins.metrics.clip import _embedding

    embedding = torch.ones(2, 3)
    assert _embedding(embedding) is embedding
    assert _embedding(SimpleNamespace(pooler_output=embedding)) is embedding


def brute_force_radius(features: Tensor, neighbours: int) -> list[float]:
    return [sorted(math.dist(a, b) for b in features.tolist())[neighbours] for a in features.tolist()]


def test_precision_and_recall_by_brute_force() -> None:
    generator = torch.Generator().manual_seed(0)
    real, made = (torch.randn(count, 3, generator=generator) for count in (30, 20))
    radii = neighbour_distances(real, 3)
    assert radii.tolist() == pytest.approx(brute_force_radius(real, 3), rel=1e-5)
    inside = [
        any(math.dist(point, centre) <= radius for centre, radius in zip(real.tolist(), radii.tolist(), strict=True))
        for point in made.tolist()
    ]
    assert share_inside(made, real, radii) == sum(inside) / 20


def test_missing_modes_cost_recall_and_strange_images_precision(files: dict[str, Path]) -> None:
    metric = create("precision_recall", network="dinov2", path=files["dinov2"])
    generator = torch.Generator().manual_seed(0)
    modes = torch.tensor([-1.0, 1.0])[torch.arange(80) % 2][:, None]
    real, samples = (modes + 0.1 * torch.randn(80, 2, generator=generator) for _ in range(2))
    measure = metric.against({"features": real})
    both, one_mode = (measure({"features": part}) for part in (samples, samples[::2]))
    strange = measure({"features": torch.cat([samples[:40], samples[:40] + 9])})
    assert both["precision"] > 0.9
    assert both["recall"] > 0.85
    assert one_mode["precision"] > 0.9
    assert one_mode["recall"] < 0.55
    assert 0.4 < strange["precision"] < 0.6
    with pytest.raises(UsageError, match="expected more than 3 images of either set, got 3"):
        measure({"features": samples[:3]})


@pytest.mark.parametrize("law", [pytest.param(law, id=law.name) for law in laws_of("metric")])
@pytest.mark.parametrize("name", ["fdd", "clip_similarity"])
def test_laws_with_small_networks(name: str, law: object, files: dict[str, Path]) -> None:
    metric = create(name, path=files["dinov2" if name == "fdd" else "clip"], resamples=0)
    if law.requires is None or REGISTRY.get("metric", name).spec.compares:  # type: ignore[attr-defined]
        law.check(metric)  # type: ignore[attr-defined]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fid", "is"])
def test_laws_with_the_inception(name: str, files: dict[str, Path], small_inception: None) -> None:
    metric = create(name, path=files["inception"], resamples=0)
    for law in laws_of("metric"):
        if law.requires is None or name == "fid":
            law.check(metric)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("fid", {"path": "nowhere.pth"}, r"fid\.path: expected a file of weights, .*nowhere\.pth is none"),
        ("is", {"path": "text.pth"}, r"is\.path: .*text\.pth cannot be read as a state dict"),
        ("fid", {"path": "other.pth"}, r"fid\.path: the weights in .*other\.pth are not those of this network"),
        ("fdd", {"path": "nowhere"}, r"fdd\.path: expected a folder with config\.json and weights"),
        ("fdd", {"path": "empty"}, r"fdd\.path: .*empty has no weights; expected model\.safetensors"),
        ("clip_similarity", {"path": "nowhere"}, r"clip_similarity\.path: expected a folder"),
        ("clip_similarity", {"path": "x", "prompt": "cat"}, r"expected a text with one \{\} for the name"),
        ("precision_recall", {"network": "inception"}, "inception needs a path to its weights"),
        ("precision_recall", {"network": "i3d"}, "i3d needs a path to its weights"),
        ("precision_recall", {"path": "x"}, "the classifier is trained on the reference and has no file"),
    ],
)
def test_files_that_will_not_do(
    name: str, options: dict[str, str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text.pth").write_text("no weights")
    torch.save({"a": torch.ones(2)}, "other.pth")
    Path("empty").mkdir()
    Path("empty", "config.json").write_text("{}")
    with pytest.raises(ConfigError, match=message):
        create(name, **options)


def test_images_that_a_network_cannot_take(files: dict[str, Path]) -> None:
    for name, path in (("fid", files["inception"]), ("fdd", files["dinov2"])):
        with pytest.raises(UsageError, match=f"metric {name}: expected images of 1 or 3 channels, got 4"):
            create(name, MetricFacts((32, 32), 4), path=path)
    with pytest.raises(UsageError, match="the images have no classes"):
        create("clip_similarity", MetricFacts((32, 32), 3), path=files["clip"])


@pytest.mark.parametrize(
    ("size", "network", "message"),
    [
        (
            (8, 32, 32),
            "inception",
            r"clips are measured, which network inception does not take; .*=classifier or i3d or",
        ),
        (
            (32, 32),
            "i3d",
            r"images are measured, which network i3d does not take; .*=classifier or inception or dinov2",
        ),
    ],
)
def test_precision_and_recall_of_the_other_medium(size: tuple[int, ...], network: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        create("precision_recall", MetricFacts(size, 3), network=network, path="nowhere")


def test_a_pickle_that_runs_code_is_refused(tmp_path: Path) -> None:
    class Code:
        def __reduce__(self) -> tuple[object, ...]:
            return (print, ("it ran",))

    torch.save({"a": Code()}, tmp_path / "code.pth")
    with pytest.raises(DFMError, match="cannot be read as a state dict of tensors"):
        create("fid", path=tmp_path / "code.pth")
