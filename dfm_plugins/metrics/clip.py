"""Similarity of images and the names of their classes, from a CLIP model that transformers has saved."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dfm_core.errors import ConfigError, UsageError
from dfm_core.interfaces.metric import Features, ImageBatch, Metric, MetricFacts, Values
from dfm_plugins.metrics.dinov2 import normalised
from dfm_plugins.metrics.specs import ClipOptions
from dfm_plugins.metrics.weights import folder_variant, load_pretrained, transformers_library

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""Of CLIP's training data, in [0, 1]."""


class ClipSimilarity(Metric):
    """Mean of 100 × cosine between the embedding of an image and that of its class's prompt."""

    better = "higher"
    needs_labels = True
    options: ClipOptions

    def __init__(self, options: ClipOptions, facts: MetricFacts) -> None:
        super().__init__(options, facts)
        if not facts.classes:
            raise UsageError("metric clip_similarity: the images have no classes whose names could be compared")
        self.resamples, folder = options.resamples, Path(options.path)
        self.network = load_pretrained(folder, "CLIPModel", "clip_similarity").to(facts.device)
        self._side = int(self.network.config.vision_config.image_size)
        self._texts = self._embed_texts(folder)
        self._variant = folder_variant(folder, "CLIP", self.network.config.vision_config)

    @property
    def variant(self) -> Mapping[str, str | int | float]:
        """Architecture of what sees images, folder, digest of its weights, the size of images, and the prompt."""
        return {**self._variant, "resolution": self._side, "prompt": self.options.prompt}

    @torch.no_grad()
    def _embed_texts(self, folder: Path) -> Tensor:
        """Embeddings (classes, D) of the prompts, of length 1."""
        try:
            tokenizer = transformers_library("clip_similarity").AutoTokenizer.from_pretrained(
                folder, local_files_only=True
            )
            prompts = [self.options.prompt.format(name.replace("_", " ")) for name in self.facts.classes]
            tokens = tokenizer(prompts, padding=True, truncation=True, return_tensors="pt").to(self.facts.device)
        except Exception as error:
            raise ConfigError(f"clip_similarity.path: {folder} has no tokenizer that works: {error}") from error
        wanted = {name: tokens[name] for name in ("input_ids", "attention_mask")}
        return F.normalize(_embedding(self.network.get_text_features(**wanted)), dim=-1)

    @torch.no_grad()
    def features(self, batch: ImageBatch) -> Features:
        """{"similarity": (B,)}. Raises UsageError for images without labels."""
        if batch.labels is None:
            raise UsageError("metric clip_similarity: expected labelled images, got some without labels")
        images = normalised(batch.images, self._side, MEAN, STD)
        embedded = F.normalize(_embedding(self.network.get_image_features(pixel_values=images)), dim=-1)
        return {"similarity": 100 * (embedded * self._texts[batch.labels]).sum(1).cpu()}

    def against(self, reference: Features) -> Callable[[Features], Values]:
        """The mean over the samples alone."""
        return lambda samples: {"clip_similarity": float(samples["similarity"].double().mean())}


def _embedding(output: Any) -> Tensor:
    """The projected embedding: transformers 5 returns it inside an object, 4 as it is."""
    embedding: Tensor = output if isinstance(output, Tensor) else output.pooler_output
    return embedding
