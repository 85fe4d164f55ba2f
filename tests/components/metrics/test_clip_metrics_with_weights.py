"""Metrics of clips whose networks come from files: structure, shapes, resizing, known answers, laws, wrong files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from clip_inputs import in_another_order, moving_clips
from metric_inputs import batch_of, noisy, score
from tiny_weights import save_i3d, save_inception, save_videomae
from torch import Tensor

from dfm_core.conformance import laws_of
from dfm_core.errors import ConfigError, UsageError
from dfm_core.interfaces.metric import Metric, MetricFacts
from dfm_core.plugins.registry import Registry
from dfm_plugins.metrics import i3d, inception
from dfm_plugins.metrics.i3d_network import I3D, Mixed, padded, pooled

REGISTRY = Registry.discover({})
FACTS = MetricFacts((9, 16, 16), 3)
# Of Inception-v1: inputs of each block, and its widths (1×1, 3×3 reduced, 3×3, second 3×3 reduced, second 3×3, pooled).
BLOCKS = [
    (192, 64, 96, 128, 16, 32, 32),
    (256, 128, 128, 192, 32, 96, 64),
    (480, 192, 96, 208, 16, 48, 64),
    (512, 160, 112, 224, 24, 64, 64),
    (512, 128, 128, 256, 24, 64, 64),
    (512, 112, 144, 288, 32, 64, 64),
    (528, 256, 160, 320, 32, 128, 128),
    (832, 256, 160, 320, 32, 128, 128),
    (832, 384, 192, 384, 48, 128, 128),
]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Random weights of every network."""
    folder = tmp_path_factory.mktemp("weights")
    return {"i3d": save_i3d(folder / "i3d.pth"), "inception": save_inception(folder / "inception.pth")}


@pytest.fixture(scope="module")
def videomae(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("transformers")
    return save_videomae(tmp_path_factory.mktemp("weights") / "videomae")


@pytest.fixture(autouse=True)
def small_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The least that the networks take: forty times quicker."""
    monkeypatch.setattr(i3d, "SIDE", 32)
    monkeypatch.setattr(inception, "SIDE", 75)


def create(name: str, facts: MetricFacts = FACTS, **options: object) -> Metric:
    plain = {key: str(value) if isinstance(value, Path) else value for key, value in options.items()}
    metric: Metric = REGISTRY.create("metric", name, plain, facts)
    return metric


def parameters_of_the_paper() -> int:
    """Weights of the inflated convolutions, a scale and a shift of every normalisation, and 400 logits with bias."""

    def unit(channels: int, width: int, kernel: int = 1) -> int:
        return channels * width * kernel**3 + 2 * width

    total = unit(3, 64, 7) + unit(64, 64) + unit(64, 192, 3) + 1024 * 400 + 400
    for channels, one, narrow, wide, narrow_2, wide_2, last in BLOCKS:
        total += unit(channels, one) + unit(channels, narrow) + unit(narrow, wide, 3)
        total += unit(channels, narrow_2) + unit(narrow_2, wide_2, 3) + unit(channels, last)
    return total


def test_the_i3d_is_the_published_one() -> None:
    """12.7 million parameters, 57 convolutions with normalisation, one of logits, and the shapes of the paper."""
    with torch.device("meta"):
        network = I3D().eval()
        clip = torch.empty(2, 3, 16, 224, 224)
        assert sum(part.numel() for part in network.parameters()) == parameters_of_the_paper() == 12_697_264
        assert network.maps(clip).shape == (2, 1024, 2, 7, 7)
        assert network.maps(clip[:, :, :9]).shape == (2, 1024, 2, 7, 7)
        assert network.maps(torch.empty(1, 3, 64, 224, 224)).shape == (1, 1024, 8, 7, 7)
        assert network.features(clip).shape == (2, 1024)
        assert network(clip).shape == (2, 400)
    convolutions = [part for part in network.modules() if isinstance(part, torch.nn.Conv3d)]
    assert len(convolutions) == 3 + 9 * 6 + 1
    assert [part.bias is not None for part in convolutions] == [False] * 57 + [True]
    assert all(part.eps == 1e-3 for part in network.modules() if isinstance(part, torch.nn.BatchNorm3d))


def test_names_are_those_under_which_weights_circulate() -> None:
    with torch.device("meta"):
        names = set(I3D().state_dict())
    for name in ("Conv3d_1a_7x7.conv3d.weight", "Mixed_4f.b2b.bn.running_var", "logits.conv3d.bias"):
        assert name in names


@pytest.mark.parametrize(
    ("length", "reach", "step", "pads"), [(224, 7, 2, (2, 3)), (8, 3, 2, (0, 1)), (7, 3, 2, (1, 1))]
)
def test_padding_is_tensorflows(length: int, reach: int, step: int, pads: tuple[int, int]) -> None:
    clips = torch.ones(1, 1, 1, 1, length)
    expected = F.pad(clips, pads)
    assert torch.equal(padded(clips, (1, 1, reach), (1, 1, step)), expected)
    assert F.max_pool3d(expected, (1, 1, reach), (1, 1, step)).shape[-1] == -(-length // step)


def test_a_block_is_its_four_branches() -> None:
    """Against the branches by hand, with SciPy's correlation for the 3×3×3 convolution."""
    import scipy.ndimage

    generator = torch.Generator().manual_seed(0)
    block = Mixed(2, (1, 1, 1, 1, 1, 1)).eval().double()
    for part in block.parameters():
        part.data = torch.randn(part.shape, generator=generator, dtype=torch.float64)
    x = torch.rand(1, 2, 3, 5, 4, generator=generator, dtype=torch.float64)

    def unit(layer: torch.nn.Module, values: Tensor) -> Tensor:
        weight: Tensor = layer.conv3d.weight.detach()[0]  # type: ignore[union-attr, index, operator]
        parts = [
            scipy.ndimage.correlate(v.numpy(), w.numpy(), mode="constant") for v, w in zip(values, weight, strict=True)
        ]
        scale, shift = (getattr(layer.bn, name).detach()[0] for name in ("weight", "bias"))
        return (torch.from_numpy(sum(parts)) / (1 + 1e-3) ** 0.5 * scale + shift).clamp_min(0)[None]

    largest = torch.from_numpy(scipy.ndimage.maximum_filter(x[0].numpy(), (1, 3, 3, 3), mode="constant"))
    branches = [
        unit(block.b0, x[0]),
        unit(block.b1b, unit(block.b1a, x[0])),
        unit(block.b2b, unit(block.b2a, x[0])),
        unit(block.b3b, largest),
    ]
    with torch.no_grad():
        torch.testing.assert_close(block(x)[0], torch.cat(branches))
    torch.testing.assert_close(pooled(x, (3, 3, 3), (1, 1, 1))[0], largest)


def test_fvd_of_i3d(files: dict[str, Path]) -> None:
    metric = create("fvd", path=files["i3d"], resamples=2)
    real, samples = moving_clips(6, 0, frames=9), moving_clips(6, 1, frames=9)
    assert metric.features(batch_of(real))["features"].shape == (6, 400)
    assert score(metric, real, real)["fvd"] == pytest.approx(0, abs=1e-5)
    assert 0 < score(metric, real, samples)["fvd"] < score(metric, real, noisy(samples, 0.8))["fvd"]
    assert score(metric, real, in_another_order(real))["fvd"] > 1e-3
    assert metric.variant["network"] == "I3D of Kinetics-400"
    assert (metric.variant["features"], metric.variant["resize"]) == ("logits", "tensorflow")
    assert metric.variant["file"] == "i3d.pth"
    assert len(str(metric.variant["digest"])) == 16
    assert "6 samples for features of 400 dimensions" in metric.warnings(6, 6)[0]


def test_precision_and_recall_see_clips_as_fvd_does(files: dict[str, Path], videomae: Path) -> None:
    clips = moving_clips(6, 0, frames=9)
    for network, path in (("i3d", files["i3d"]), ("videomae", videomae)):
        metric = create("precision_recall", network=network, path=path)
        fvd = create("fvd", network=network, path=path)
        assert metric.features_key == fvd.features_key
        assert torch.equal(metric.features(batch_of(clips))["features"], fvd.features(batch_of(clips))["features"])
        assert score(metric, clips, clips) == {"precision_recall": 1.0, "precision": 1.0, "recall": 1.0}
        assert metric.variant["neighbours"] == 3
    with pytest.raises(UsageError, match="precision_recall: expected more than 3 clips of either set, got 3"):
        score(metric, clips[:3], clips)


def test_features_of_i3d_without_the_last_layer(files: dict[str, Path]) -> None:
    """The logits are the last layer of the pooled features; grey clips are shown as RGB."""
    clips = moving_clips(2, 0, frames=9)
    pooled_features = create("fvd", path=files["i3d"], features="pooled").features(batch_of(clips))["features"]
    assert pooled_features.shape == (2, 1024)
    metric = create("fvd", path=files["i3d"])
    state = torch.load(files["i3d"], weights_only=True)
    weight, bias = state["logits.conv3d.weight"].flatten(1), state["logits.conv3d.bias"]
    logits = metric.features(batch_of(clips))["features"]
    torch.testing.assert_close(logits, pooled_features @ weight.T + bias, rtol=1e-4, atol=1e-4)
    grey = create("fvd", MetricFacts((9, 16, 16), 1), path=files["i3d"])
    expected = metric.features(batch_of(clips[:, :1].expand(-1, 3, -1, -1, -1)))["features"]
    torch.testing.assert_close(grey.features(batch_of(clips[:, :1]))["features"], expected)


def test_pooling_over_time_weighs_neighbours() -> None:
    """Of three places in time, pairs are averaged and then their mean: a quarter, a half, a quarter."""
    network = I3D()
    maps = torch.tensor([1.0, 2.0, 4.0])[None, None, :, None, None].expand(1, 1, 3, 2, 2)
    network.maps = lambda x: maps  # type: ignore[method-assign]
    assert float(network.features(maps)) == pytest.approx(0.25 + 1.0 + 1.0)


def test_frames_are_resized_as_the_original_code_did() -> None:
    """A ramp over eight pixels at four times the size: pixel i lies at i/4 of them, of PyTorch's at i/4 − 3/8."""
    clips = (torch.arange(8.0) / 8)[None, None, None, None, :].expand(1, 3, 2, 8, 8).contiguous()
    tensorflow, pytorch = (i3d.resized(clips, way) for way in ("tensorflow", "pytorch"))
    assert tensorflow.shape == pytorch.shape == (1, 3, 2, 32, 32)
    places = torch.arange(32.0)
    torch.testing.assert_close(tensorflow[0, 1, 1, 5], (places / 4).clamp(max=7) / 8)
    torch.testing.assert_close(pytorch[0, 1, 1, 5], ((places + 0.5) / 4 - 0.5).clamp(0, 7) / 8)


def test_fvd_of_videomae(videomae: Path) -> None:
    """Against the model itself, on the frames that it was given."""
    from transformers import VideoMAEModel

    metric = create("fvd", MetricFacts((8, 16, 16), 3), network="videomae", path=videomae)
    clips = moving_clips(12, 0)
    found = metric.features(batch_of(clips))["features"]
    assert found.shape == (12, 16)
    mean, std = (torch.tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    pixels = ((clips[:, :, [0, 2, 5, 7]].transpose(1, 2) + 1) / 2 - mean) / std
    with torch.no_grad():
        expected = VideoMAEModel.from_pretrained(videomae).eval()(pixel_values=pixels).last_hidden_state.mean(1)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-3)
    assert score(metric, clips, clips)["fvd"] == pytest.approx(0, abs=1e-5)
    assert score(metric, clips, in_another_order(clips))["fvd"] > 1e-4
    variant = {key: value for key, value in metric.variant.items() if key not in ("digest", "file")}
    assert variant == {
        **{"network": "VideoMAE", "width": 16, "layers": 1, "patch": 8},
        **{"frames a patch": 2, "frames": 4, "resolution": 16},
    }
    few = create("fvd", MetricFacts((2, 16, 16), 3), network="videomae", path=videomae)
    assert few.features(batch_of(clips[:, :, :2]))["features"].shape == (12, 16)


def test_frame_fid_is_the_fid_of_the_frames(files: dict[str, Path]) -> None:
    facts = MetricFacts((2, 16, 16), 3)
    metric = create("frame_fid", facts, path=files["inception"], resamples=0)
    fid = create("fid", MetricFacts((16, 16), 3), path=files["inception"])
    real, samples = moving_clips(3, 0, frames=2), moving_clips(3, 1, frames=2)
    assert metric.features(batch_of(real))["features"].shape == (3, 2, 2048)
    found = score(metric, real, samples)["frame_fid"]
    frames = [clips.transpose(1, 2).flatten(0, 1) for clips in (real, samples)]
    assert found == pytest.approx(score(fid, *frames)["fid"], rel=1e-4)
    assert score(metric, real, in_another_order(samples))["frame_fid"] == pytest.approx(found, rel=1e-4)
    assert "4 samples of 2 frames for features of 2048 dimensions" in metric.warnings(4, 4)[0]
    assert metric.warnings(1025, 1025) == []
    some = create("frame_fid", facts, path=files["inception"], frames=1)
    assert some.variant["frames"] == 1
    assert some.features(batch_of(real[:1]))["features"].shape == (1, 1, 2048)


@pytest.mark.parametrize("law", [pytest.param(law, id=law.name) for law in laws_of("metric")])
def test_laws_with_a_small_videomae(law: object, videomae: Path) -> None:
    law.check(create("fvd", MetricFacts((4, 16, 16), 3), network="videomae", path=videomae, resamples=0))  # type: ignore[attr-defined]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fvd", "frame_fid"])
def test_laws_with_the_large_networks(name: str, files: dict[str, Path]) -> None:
    facts = FACTS if name == "fvd" else MetricFacts((2, 16, 16), 3)
    metric = create(name, facts, path=files["i3d" if name == "fvd" else "inception"], resamples=0)
    for law in laws_of("metric"):
        law.check(metric)


def test_files_that_will_not_do(files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text.pt").write_text("no weights")
    state = torch.load(files["i3d"], weights_only=True)
    torch.save({**state, "logits.conv3d.weight": torch.zeros(157, 1024, 1, 1, 1)}, "charades.pt")
    torch.save({name: value for name, value in state.items() if not name.startswith("Mixed_5c")}, "part.pt")
    for name, message in {
        "nowhere.pt": r"fvd\.path: expected a file of weights, .*nowhere\.pt is none \(nothing is downloaded\)",
        "text.pt": r"fvd\.path: .*text\.pt cannot be read as a state dict of tensors",
        "charades.pt": r"fvd\.path: the weights in .*charades\.pt are not those of this network: .*size mismatch",
        "part.pt": r"are not those of this network: .*Missing key\(s\) in state_dict: \"Mixed_5c",
    }.items():
        with pytest.raises(ConfigError, match=message):
            create("fvd", path=name)
    with pytest.raises(ConfigError, match=r"fvd\.path: expected a folder with config\.json and weights"):
        create("fvd", network="videomae", path="nowhere")
    with pytest.raises(ConfigError, match="features: this is an option of i3d"):
        create("fvd", network="videomae", path="x", features="logits")


def test_old_files_without_counters_are_loaded(files: dict[str, Path], tmp_path: Path) -> None:
    """The published file was written before normalisations counted their batches."""
    state = torch.load(files["i3d"], weights_only=True)
    old = {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}
    torch.save(old, tmp_path / "old.pt")
    assert create("fvd", path=tmp_path / "old.pt").variant["file"] == "old.pt"


def test_clips_that_a_network_cannot_take(files: dict[str, Path]) -> None:
    with pytest.raises(UsageError, match="at least 9 frames for I3D, got 8x16x16; --set fvd.network=videomae"):
        create("fvd", MetricFacts((8, 16, 16), 3), path=files["i3d"])
    with pytest.raises(UsageError, match="metric fvd: expected clips of 1 or 3 channels, got 4"):
        create("fvd", MetricFacts((9, 16, 16), 4), path=files["i3d"])
