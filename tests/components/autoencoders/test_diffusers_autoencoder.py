"""`diffusers` on tiny random models: the laws, the library's own numbers, what is refused and how it says so."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dfm_core.conformance import laws_of
from dfm_core.conformance.law import Law
from dfm_core.errors import CompositionError, ConfigError, PluginError
from dfm_core.interfaces.autoencoder import AutoencoderFacts
from dfm_plugins.autoencoders import pretrained
from dfm_plugins.autoencoders.pretrained import Pretrained
from dfm_plugins.autoencoders.specs import DiffusersOptions

diffusers = pytest.importorskip("diffusers")
tiny = pytest.importorskip("tiny_autoencoders")

LAWS = {law.name: law for law in laws_of("autoencoder")}
FAMILIES = list(tiny.MODELS)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder for each family."""
    root = tmp_path_factory.mktemp("models")
    return {name: tiny.save_tiny(root / name, name) for name in FAMILIES}


def load(folder: Path, channels: int = 3, clips: bool = False, **options: Any) -> Pretrained:
    return Pretrained(DiffusersOptions(path=str(folder), **options), AutoencoderFacts(channels, clips))


def images(height: int = 32, width: int = 48, number: int = 2) -> Tensor:
    return torch.rand(number, 3, height, width, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
@pytest.mark.parametrize("family", FAMILIES)
def test_laws_hold(family: str, law: Law, saved: dict[str, Path]) -> None:
    law.check(load(saved[family]))


@pytest.mark.parametrize("family", FAMILIES)
def test_laws_hold_for_clips(family: str, saved: dict[str, Path]) -> None:
    for law in LAWS.values():
        law.check(load(saved[family], clips=True))


@pytest.mark.parametrize("family", FAMILIES)
def test_factor_and_channels_are_the_model_s(family: str, saved: dict[str, Path]) -> None:
    autoencoder = load(saved[family])
    assert (autoencoder.downsample_factor, autoencoder.channels) == (tiny.FACTORS[family], tiny.CHANNELS[family])
    assert not autoencoder.training
    assert not any(parameter.requires_grad for parameter in autoencoder.parameters())


def test_patches_of_the_video_model(tmp_path: Path) -> None:
    """Wan 2.2 takes patches of 2×2 pixels as channels."""
    config = {"patch_size": 2, "in_channels": 12, "out_channels": 12, "is_residual": True, "scale_factor_spatial": 8}
    autoencoder = load(tiny.save_tiny(tmp_path / "model", "wan", **config))
    assert autoencoder.downsample_factor == 8
    for name in ("encoding_has_the_declared_shape", "decoding_gives_back_the_shape"):
        LAWS[name].check(autoencoder)


def by_hand(family: str, folder: Path, x: Tensor) -> tuple[Tensor, Tensor]:
    """Latents and their decoding as the library's pipelines compute them, each once and in their own words."""
    model = getattr(diffusers, tiny.MODELS[family][0]).from_pretrained(folder).eval()
    config = model.config
    with torch.no_grad():
        if family == "stable_diffusion":  # StableDiffusionPipeline
            z = model.encode(x).latent_dist.mode() * config.scaling_factor
            return z, model.decode(z / config.scaling_factor).sample
        if family == "flux":  # FluxPipeline
            z = (model.encode(x).latent_dist.mode() - config.shift_factor) * config.scaling_factor
            return z, model.decode(z / config.scaling_factor + config.shift_factor).sample
        clip = x[:, :, None]
        if family == "cogvideox":  # CogVideoXPipeline
            z = model.encode(clip).latent_dist.mode() * config.scaling_factor
            return z[:, :, 0], model.decode(1 / config.scaling_factor * z).sample[:, :, 0]
        mean = torch.tensor(config.latents_mean).view(1, config.z_dim, 1, 1, 1)  # WanPipeline
        inverse_std = 1.0 / torch.tensor(config.latents_std).view(1, config.z_dim, 1, 1, 1)
        z = (model.encode(clip).latent_dist.mode() - mean) * inverse_std
        return z[:, :, 0], model.decode(z / inverse_std + mean).sample[:, :, 0]


@pytest.mark.parametrize("family", FAMILIES)
def test_numbers_are_those_of_the_library_s_pipelines(family: str, saved: dict[str, Path]) -> None:
    autoencoder, x = load(saved[family]), images()
    latents, decoded = by_hand(family, saved[family], x)
    assert torch.allclose(autoencoder.encode(x), latents, atol=1e-6)
    assert torch.allclose(autoencoder.decode(latents), decoded, atol=1e-5)
    assert latents.std() > 1e-3  # there is something to compare


def test_mean_and_deviation_beside_a_factor(tmp_path: Path) -> None:
    """As StableDiffusionXLPipeline decodes: latents · std / factor + mean."""
    normal = {"latents_mean": [0.1, 0.2, 0.3, 0.4], "latents_std": [1.0, 2.0, 3.0, 4.0], "scaling_factor": 0.5}
    autoencoder = load(tiny.save_tiny(tmp_path / "model", **normal))
    raw = autoencoder.model.encode(images()).latent_dist.mode()
    mean, std = (torch.tensor(normal[name]).view(1, 4, 1, 1) for name in ("latents_mean", "latents_std"))
    latents = autoencoder.encode(images())
    assert torch.allclose(latents * std / 0.5 + mean, raw, atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_draw_is_around_the_mean(family: str, saved: dict[str, Path]) -> None:
    autoencoder, x = load(saved[family], posterior="sample"), images()
    mean = autoencoder.encode(x)
    noise = torch.randn(mean.shape, generator=torch.Generator().manual_seed(0))
    assert autoencoder.stochastic
    assert not load(saved[family]).stochastic
    assert torch.equal(autoencoder.draw(x, torch.zeros_like(noise)), mean)
    up, down = autoencoder.draw(x, noise) - mean, autoencoder.draw(x, -noise) - mean
    assert torch.allclose(up, -down, atol=1e-5)
    clip = autoencoder._to_model(x)
    spread = (up / noise / autoencoder.scale.reshape(-1, 1, 1)).square().mean()
    assert float(spread) == pytest.approx(float(autoencoder.model.encode(clip).latent_dist.var.mean()), rel=1e-3)


@pytest.mark.parametrize(("precision", "tolerance"), [("bfloat16", 0.1), ("float16", 0.02)])
def test_precision(precision: str, tolerance: float, saved: dict[str, Path]) -> None:
    exact, rough, x = load(saved["flux"]), load(saved["flux"], precision=precision), images()
    latents = rough.encode(x)
    assert latents.dtype == rough.decode(latents).dtype == torch.float32
    assert 0 < float((latents - exact.encode(x)).abs().max()) < tolerance
    assert rough.key == exact.key


def test_slices_and_tiles(saved: dict[str, Path]) -> None:
    exact, x = load(saved["stable_diffusion"]), images(64, 64)
    assert torch.allclose(load(saved["stable_diffusion"], slicing=True).encode(x), exact.encode(x), atol=1e-6)
    tiled = load(saved["stable_diffusion"], tiling=True).encode(x)
    assert tiled.shape == exact.encode(x).shape
    assert not torch.equal(tiled, exact.encode(x))


def test_the_key_names_class_config_and_weights(saved: dict[str, Path], tmp_path: Path) -> None:
    keys = {family: load(folder).key for family, folder in saved.items()}
    assert len(set(keys.values())) == 4
    assert keys["wan"].startswith("AutoencoderKLWan-")
    assert load(saved["flux"], posterior="sample", tiling=True).key == keys["flux"]
    moved = Path(shutil.copytree(saved["flux"], tmp_path / "moved"))
    assert load(moved).key == keys["flux"]
    assert load(tiny.save_tiny(tmp_path / "other", "flux", seed=1)).key != keys["flux"]
    assert load(tiny.save_tiny(tmp_path / "shifted", "flux", shift_factor=0.0)).key != keys["flux"]


def test_the_key_is_that_of_the_values_not_of_the_file(tmp_path: Path) -> None:
    folder = tiny.save_tiny(tmp_path / "half", "flux")
    diffusers.AutoencoderKL.from_pretrained(folder).half().save_pretrained(folder)
    key = load(folder).key
    diffusers.AutoencoderKL.from_pretrained(folder).float().save_pretrained(folder)
    assert load(folder).key == key


def test_a_pickled_copy_is_the_same(saved: dict[str, Path]) -> None:
    autoencoder = load(saved["cogvideox"])
    copy = pickle.loads(pickle.dumps(autoencoder))
    assert copy.key == autoencoder.key
    assert torch.equal(copy.encode(images()), autoencoder.encode(images()))


def test_loading_leaves_the_global_random_state(saved: dict[str, Path]) -> None:
    before = torch.get_rng_state()
    load(saved["stable_diffusion"]).encode(images())
    assert torch.equal(torch.get_rng_state(), before)


def clip_by_hand(family: str, folder: Path, x: Tensor) -> tuple[Tensor, Tensor]:
    """Latents of a clip and their decoding as the pipelines for video compute them."""
    model = getattr(diffusers, tiny.MODELS[family][0]).from_pretrained(folder).eval()
    with torch.no_grad():
        z = model.encode(x).latent_dist.mode()
        decoded = model.decode(z).sample
    if family == "cogvideox":
        return z * model.config.scaling_factor, decoded
    mean, std = (torch.tensor(model.config[name]).view(1, -1, 1, 1, 1) for name in ("latents_mean", "latents_std"))
    return (z - mean) / std, decoded


@pytest.mark.parametrize(("family", "frames", "latent_frames"), [("cogvideox", 9, 3), ("wan", 9, 3)])
def test_clips_are_encoded_as_the_library_s_pipelines_do(
    family: str, frames: int, latent_frames: int, saved: dict[str, Path]
) -> None:
    autoencoder, x = load(saved[family], clips=True), clips(frames)
    latents, decoded = clip_by_hand(family, saved[family], x)
    assert latents.shape[2] == latent_frames
    assert torch.allclose(autoencoder.encode(x), latents, atol=1e-6)
    assert decoded.shape == x.shape
    assert torch.allclose(autoencoder.decode(latents), decoded, atol=1e-5)


def clips(frames: int, number: int = 1) -> Tensor:
    shape = (number, 3, frames, 16, 24)
    return torch.rand(shape, generator=torch.Generator().manual_seed(2)) * 2 - 1


def test_an_even_number_of_latents_is_decoded_to_their_frames(saved: dict[str, Path]) -> None:
    """The library would give four frames for the first latent, too; the clip is the beginning of a longer one."""
    autoencoder = load(saved["cogvideox"], clips=True)
    latents = autoencoder.encode(clips(13))
    assert latents.shape[2] == 4
    decoded = autoencoder.decode(latents)
    assert decoded.shape[2] == 13
    longer = autoencoder.decode(torch.cat([latents, latents[:, :, -1:]], dim=2))
    assert torch.equal(decoded, longer[:, :, :13])


@pytest.mark.parametrize("family", FAMILIES)
def test_clips_of_one_frame_are_images(family: str, saved: dict[str, Path]) -> None:
    autoencoder, x = load(saved[family], clips=True), images()
    latents = autoencoder.encode(x)
    assert torch.equal(autoencoder.encode(x.unsqueeze(2)).squeeze(2), latents)
    assert torch.equal(autoencoder.decode(latents.unsqueeze(2)).squeeze(2), autoencoder.decode(latents))
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(3))
    drawn = autoencoder.draw(x.unsqueeze(2), noise.unsqueeze(2))
    assert torch.equal(drawn.squeeze(2), autoencoder.draw(x, noise))


def test_models_of_images_take_every_frame_on_its_own(saved: dict[str, Path]) -> None:
    autoencoder, x = load(saved["flux"], clips=True), clips(3, number=2)
    latents = autoencoder.encode(x)
    assert (latents.shape, autoencoder.temporal_downsample_factor) == ((2, 16, 3, 4, 6), 1)
    alone = torch.stack([autoencoder.encode(x[:, :, frame]) for frame in range(3)], dim=2)
    assert torch.allclose(latents, alone, atol=1e-5)
    decoded = torch.stack([autoencoder.decode(latents[:, :, frame]) for frame in range(3)], dim=2)
    assert torch.allclose(autoencoder.decode(latents), decoded, atol=1e-5)


@pytest.mark.parametrize(("family", "factor"), [("cogvideox", 4), ("wan", 4), ("flux", 1)])
def test_the_temporal_factor_is_the_model_s(family: str, factor: int, saved: dict[str, Path]) -> None:
    assert load(saved[family], clips=True).temporal_downsample_factor == factor


def test_images_of_other_channels_are_refused(saved: dict[str, Path]) -> None:
    with pytest.raises(CompositionError, match="takes images of 3 channels, the data has 1"):
        load(saved["flux"], channels=1)


def edited(folder: Path, **changes: object) -> Path:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    return folder


def test_folders_that_cannot_be_used(saved: dict[str, Path], tmp_path: Path) -> None:
    def refused(folder: Path) -> str:
        with pytest.raises(ConfigError) as caught:
            load(folder)
        assert str(caught.value).startswith(f"autoencoder.options.path: {folder} ")
        return str(caught.value)

    def copy(name: str) -> Path:
        return Path(shutil.copytree(saved["stable_diffusion"], tmp_path / name))

    assert "is no folder; expected the folder of a model of AutoencoderKL" in refused(tmp_path / "none")
    shutil.copytree(saved["flux"], tmp_path / "pipeline" / "vae")
    assert f"use {tmp_path / 'pipeline' / 'vae'}" in refused(tmp_path / "pipeline")
    unknown = edited(copy("unknown"), _class_name="AutoencoderTiny")
    assert "'AutoencoderTiny'; supported: AutoencoderKL, AutoencoderKLCogVideoX" in refused(unknown)
    weightless = copy("weightless")
    weights = weightless / "diffusion_pytorch_model.safetensors"
    weights.unlink()
    assert "has no weights; expected diffusion_pytorch_model.safetensors" in refused(weightless)
    (weightless / "diffusion_pytorch_model.bin").write_bytes(pickle.dumps({}))
    assert "diffusion_pytorch_model.bin, a pickle, which can run code" in refused(weightless)
    weights.write_bytes(b"cut short")
    assert "cannot be loaded as AutoencoderKL" in refused(weightless)
    other = edited(copy("other"), block_out_channels=[8, 8, 8])
    assert "cannot be loaded as AutoencoderKL" in refused(other)


def test_configs_and_weights_that_do_not_fit(saved: dict[str, Path], tmp_path: Path) -> None:
    broken = Path(shutil.copytree(saved["stable_diffusion"], tmp_path / "broken"))
    (broken / "config.json").write_text("{")
    with pytest.raises(ConfigError, match="cannot read"):
        load(broken)
    deeper = Path(shutil.copytree(saved["stable_diffusion"], tmp_path / "deeper"))
    with pytest.raises(ConfigError, match=r"the weights in .* lack \d+ tensors, first 'decoder\."):
        load(edited(deeper, layers_per_block=2))
    mixed = tiny.save_tiny(tmp_path / "mixed", shift_factor=0.1, latents_mean=[0.0] * 4, latents_std=[1.0] * 4)
    with pytest.raises(ConfigError, match="mixes ways to normalise latents"):
        load(mixed)
    with pytest.raises(ConfigError, match="has 3 latents_mean and 4 latents_std, expected one each for 4 channels"):
        load(tiny.save_tiny(tmp_path / "short", latents_mean=[0.0] * 3, latents_std=[1.0] * 4))


def test_without_the_library(saved: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "diffusers", None)
    with pytest.raises(PluginError, match=r"pip install 'decomposable-flow-matching\[hub\]'"):
        load(saved["flux"])


def test_nothing_is_asked_of_a_network(saved: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise AssertionError("opened a connection")

    monkeypatch.setattr("socket.socket.connect", refuse)
    load(saved["flux"])


def test_families_are_classes_of_the_library() -> None:
    assert all(hasattr(diffusers, name) for name in pretrained.FAMILIES)
