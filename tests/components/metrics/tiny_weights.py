"""Random weights on disk: a whole FID Inception and I3D, tiny DINOv2, CLIP and VideoMAE as transformers saves them."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from dfm_plugins.metrics import i3d
from dfm_plugins.metrics.inception import empty_network


def save_inception(path: Path) -> Path:
    """Weights of random sign that keep activations alive, as .pth."""
    return _save_random(empty_network().state_dict(), path)


def save_i3d(path: Path) -> Path:
    """As those of the Inception."""
    return _save_random(i3d.empty_network().state_dict(), path)


def _save_random(state: dict[str, torch.Tensor], path: Path) -> Path:
    generator = torch.Generator().manual_seed(0)
    for name, value in state.items():
        if name.endswith(("conv.weight", "conv3d.weight", "fc.weight")):
            fan = value[0].numel()
            state[name] = torch.randn(value.shape, generator=generator).mul_((2 / fan) ** 0.5)
        else:
            ones = name.endswith(("bn.weight", "running_var"))
            state[name] = torch.ones_like(value) if ones else torch.zeros_like(value)
    torch.save(state, path)
    return path


def save_videomae(folder: Path) -> Path:
    """16 features, four frames of 16 pixels."""
    from transformers import VideoMAEConfig, VideoMAEModel

    config = VideoMAEConfig(
        image_size=16,
        patch_size=8,
        num_frames=4,
        tubelet_size=2,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        VideoMAEModel(config).save_pretrained(folder)
    return folder


def save_dinov2(folder: Path) -> Path:
    """16 features, patches of 14."""
    from transformers import Dinov2Config, Dinov2Model

    config = Dinov2Config(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, mlp_ratio=2, image_size=28, patch_size=14
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        Dinov2Model(config).save_pretrained(folder)
    return folder


def save_clip(folder: Path, words: list[str]) -> Path:
    """Embeddings of 8 numbers, images of 16 pixels, a tokenizer that knows whole words only."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import CLIPConfig, CLIPModel, PreTrainedTokenizerFast

    vocabulary = {word: index for index, word in enumerate(["<pad>", "<unk>", "<end>", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", eos_token="<end>")
    sizes = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**sizes, "vocab_size": len(vocabulary), "max_position_embeddings": 16, "eos_token_id": 2, "pad_token_id": 0}
    config = CLIPConfig(text_config=text, vision_config={**sizes, "image_size": 16, "patch_size": 8}, projection_dim=8)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        CLIPModel(config).save_pretrained(folder)
    fast.save_pretrained(folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder
