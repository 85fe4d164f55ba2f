"""Probability paths that ship: names, options and addresses. No torch."""

from __future__ import annotations

from pydantic import Field

from dfm_core.plugins import Options, PathSpec


class CascadedOptions(Options):
    """Options of the cascaded path."""

    condition_noise: float = Field(
        0.025, ge=0, lt=1, description="Share of fresh noise in a finished stage while the next one is generated."
    )


class PyramidalOptions(Options):
    """Options of the pyramidal path."""

    gamma: float = Field(
        1 / 3, gt=0, le=1 / 3, description="Correlation between the noise of neighbouring pixels where a stage begins."
    )


SPECS = [
    PathSpec(
        name="straight",
        summary="A straight line from noise to data in every stage.",
        factory="dfm_plugins.paths.straight:Straight",
        reference="Lipman et al. 2023, Flow Matching for Generative Modeling; paper eq. 3",
    ),
    PathSpec(
        name="cascaded",
        summary="Straight lines; a finished stage is noised a little before it conditions the next.",
        factory="dfm_plugins.paths.cascaded:Cascaded",
        options=CascadedOptions,
        reference="Ho et al. 2022, Cascaded Diffusion Models; paper section 4.4",
        partners={
            "decomposition": "downsampled",
            "stage_schedule": {"name": "progressive", "options": {"thresholds": [1.0]}},
        },
    ),
    PathSpec(
        name="pyramidal",
        summary="From an enlarged noisy coarser picture to a less noisy finer one, stage after stage.",
        factory="dfm_plugins.paths.pyramidal:Pyramidal",
        options=PyramidalOptions,
        reference="Jin et al. 2024, Pyramidal Flow Matching (arXiv 2410.05954)",
        one_scale=True,
        partners={"decomposition": "downsampled", "stage_schedule": "consecutive", "timestep_sampler": "consecutive"},
    ),
]
