"""The built-in backbones: names, options and addresses. Imports no torch."""

from __future__ import annotations

from typing import Literal, NamedTuple

from pydantic import Field, PositiveInt, model_validator

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


class DiTOptions(Options):
    """Options of `dit`."""

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
        None, ge=1, description="Tokens along the short side; null takes the most, up to 16, that divide every stage."
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
    def _fits_together(self) -> DiTOptions:
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


class PyramidDiTOptions(DiTOptions):
    """Options of `pyramid_dit`."""

    patch_size: int = Field(2, ge=1, description="Patch of every stage: a coarser stage has fewer tokens.")


class DiTExpertsOptions(DiTOptions):
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
        name="dit_experts",
        summary="A diffusion transformer for each stage, which sees the stages before it.",
        factory="dfm_plugins.backbones.dit_experts:DiTExperts",
        options=DiTExpertsOptions,
        reference="Ho et al. 2022, Cascaded Diffusion Models; paper section 4.4",
    ),
    BackboneSpec(
        name="pyramid_dit",
        summary="One diffusion transformer for stages that are generated alone, each with its own token grid.",
        factory="dfm_plugins.backbones.pyramid_dit:PyramidDiT",
        options=PyramidDiTOptions,
        reference="Jin et al. 2024, Pyramidal Flow Matching",
        joint_stages=False,
    ),
]
