"""The built-in backbones: names, options and addresses. Imports no torch."""

from __future__ import annotations

from typing import Literal, NamedTuple, Self

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from dfm_core.plugins import BackboneSpec, Options


class Dimensions(NamedTuple):
    """Size of a transformer: blocks, features a token, attention heads."""

    depth: int
    width: int
    heads: int


# S to XL: Peebles and Xie 2023, table 1. Ti: the width and heads of DeiT-Ti.
SIZES: dict[str, Dimensions] = {
    "Ti": Dimensions(12, 192, 3),
    "S": Dimensions(12, 384, 6),
    "B": Dimensions(12, 768, 12),
    "L": Dimensions(24, 1024, 16),
    "XL": Dimensions(28, 1152, 16),
}


class TransformerOptions(Options):
    """What transformers of images and of clips can both be told."""

    size: Literal["Ti", "S", "B", "L", "XL"] = Field(
        "Ti", description="Blocks × width × heads: Ti 12×192×3, S 12×384×6, B 12×768×12, L 24×1024×16, XL 28×1152×16."
    )
    depth: int | None = Field(None, ge=1, description="Number of blocks; null takes the size's.")
    width: int | None = Field(None, ge=4, description="Features a token; null takes the size's.")
    heads: int | None = Field(None, ge=1, description="Attention heads; null takes the size's.")
    mlp_ratio: float = Field(4.0, gt=0, description="Width of a block's MLP over the width of a token.")
    positions: Literal["rope+sincos", "rope"] = Field(
        "rope+sincos",
        description="Rotary positions in attention, with or without absolute sin-cos positions beside them.",
    )
    qk_norm: bool = Field(False, description="Normalise queries and keys (RMS), for stability at scale.")
    token_grid: int | None = Field(
        None,
        ge=1,
        description="Tokens along the short side; null takes the most that divide every stage, up to 16 (clips: 8).",
    )
    patch_size: int | None = Field(
        None, ge=1, description="Patch of the finest stage, instead of token_grid; the other stages' follow from it."
    )

    @property
    def dimensions(self) -> Dimensions:
        """Blocks, width and heads: the size's, with whatever was given explicitly."""
        size = SIZES[self.size]
        return Dimensions(self.depth or size.depth, self.width or size.width, self.heads or size.heads)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        _, width, heads = self.dimensions
        if width % (4 * heads):
            possible = [count for count in range(1, width // 4 + 1) if width % (4 * count) == 0]
            raise ValueError(
                f"width {width} with {heads} heads: the features of a head must be a multiple of 4 (sine and cosine on "
                f"two axes); heads that fit this width: {', '.join(map(str, possible)) or 'none, use a multiple of 4'}"
            )
        if self.token_grid is not None and self.patch_size is not None:
            raise ValueError("token_grid and patch_size both fix the token grid: give one of them")
        return self


class DiTOptions(TransformerOptions):
    """Options of `dit`."""


class ClipOptions(TransformerOptions):
    """What a transformer can be told of clips beside that."""

    attention: Literal["full", "factorised"] = Field(
        "full",
        description="Tokens attend to all tokens, or by turns to those of their frame and to those of their place.",
    )
    temporal_patch: int | None = Field(
        None,
        ge=1,
        description="Frames in a patch of the finest stage; the other stages' follow from it. null takes the most "
        "tokens that all stages have in common: one a frame where their frame counts are equal.",
    )
    rope_split: tuple[NonNegativeInt, NonNegativeInt, NonNegativeInt] | None = Field(
        None,
        description="Frequencies of time, height and width in a head, in sum half its features; null gives time a "
        "quarter and the rest to both axes of the frame alike.",
    )

    @property
    def axes(self) -> tuple[int, int, int]:
        """Frequencies of time, height and width: those given, or a quarter for time and the rest for the frame."""
        if self.rope_split is not None:
            return self.rope_split
        pairs = self._pairs
        # Rounded to what leaves an even rest.
        time = pairs // 4 + pairs // 4 % 2
        return time, (pairs - time) // 2, (pairs - time) // 2

    @property
    def given_of_clips(self) -> tuple[str, ...]:
        """Which of the options that say nothing of images differ from their defaults."""
        own = [name for name in ClipOptions.model_fields if name not in TransformerOptions.model_fields]
        return tuple(name for name in own if getattr(self, name) != ClipOptions.model_fields[name].default)

    @property
    def too_small(self) -> str:
        """Why heads of this size hold no positions on three axes; empty where they do."""
        if self.rope_split is not None or self._pairs >= 4:
            return ""
        return (
            f"heads of {2 * self._pairs} features are too small for three axes: give them 8 or more, or say "
            f"rope_split, such as {[0, self._pairs // 2, self._pairs // 2]} for none along time"
        )

    @property
    def _pairs(self) -> int:
        """Half the features of a head."""
        _, width, heads = self.dimensions
        return width // heads // 2

    @model_validator(mode="after")
    def _axes_fit(self) -> Self:
        if sum(self.axes) != self._pairs:
            raise ValueError(
                f"rope_split {list(self.axes)} has {sum(self.axes)} frequencies in sum, expected {self._pairs}: "
                f"half the {2 * self._pairs} features of a head"
            )
        if self.attention == "factorised" and self.dimensions.depth < 2:
            raise ValueError("attention=factorised takes blocks of two kinds by turns: use a depth of 2 or more")
        return self


class VideoDiTOptions(ClipOptions):
    """Options of `video_dit`."""

    @model_validator(mode="after")
    def _heads_are_large_enough(self) -> Self:
        if self.too_small:
            raise ValueError(self.too_small)
        return self


class PyramidDiTOptions(ClipOptions):
    """Options of `pyramid_dit`."""

    patch_size: int = Field(2, ge=1, description="Patch of every stage: a coarser stage has fewer tokens.")
    temporal_patch: int | None = Field(
        None, ge=1, description="Frames in a patch of every stage of clips; null takes one."
    )


class GrowingDiTOptions(DiTOptions):
    """Options of `dit_growing`."""

    token_grid: int | None = Field(
        None, ge=1, description="Tokens along the short side while all stages are visible, instead of patch_size."
    )
    patch_size: int | None = Field(
        None,
        ge=1,
        description="Patch of the finest visible stage, whichever that is; null takes the smallest that fits all "
        "stages and gives the finest at most 16 tokens along its short side.",
    )


class DiTExpertsOptions(ClipOptions):
    """Options of `dit_experts`."""

    frozen: tuple[PositiveInt, ...] = Field(
        (), description="Stages (from 1) whose network is not trained; another run has trained it (--init-from)."
    )


SPECS = [
    BackboneSpec(
        name="dit",
        summary="Diffusion transformer over one token grid; own patches, timestep embedding and head for each stage.",
        factory="dfm_plugins.backbones.dit:DiT",
        options=DiTOptions,
        reference="Peebles and Xie 2023 (DiT); paper section 3.4, figure 2c, appendix A.1",
    ),
    BackboneSpec(
        name="video_dit",
        summary="The transformer of dit over the tokens of all frames of a clip, with rotary positions in time too.",
        factory="dfm_plugins.backbones.video_dit:VideoDiT",
        options=VideoDiTOptions,
        reference="Paper section 3.4; Ma et al. 2024 (Latte, interleaved) for factorised attention",
        media=frozenset({"video"}),
    ),
    BackboneSpec(
        name="dit_growing",
        summary="The transformer of dit with one patch throughout: fewer tokens while fewer stages are visible.",
        factory="dfm_plugins.backbones.dit_growing:GrowingDiT",
        options=GrowingDiTOptions,
        reference="Paper section 4.2, compute allocation, and table 1e",
    ),
    BackboneSpec(
        name="dit_experts",
        summary="A diffusion transformer for each stage of images or clips, which sees the stages before it.",
        factory="dfm_plugins.backbones.dit_experts:DiTExperts",
        options=DiTExpertsOptions,
        reference="Ho et al. 2022, Cascaded Diffusion Models; paper section 4.4",
        media=frozenset({"image", "video"}),
    ),
    BackboneSpec(
        name="pyramid_dit",
        summary="One diffusion transformer for stages that are generated alone, each with its own token grid.",
        factory="dfm_plugins.backbones.pyramid_dit:PyramidDiT",
        options=PyramidDiTOptions,
        reference="Jin et al. 2024, Pyramidal Flow Matching",
        media=frozenset({"image", "video"}),
        joint_stages=False,
    ),
]
