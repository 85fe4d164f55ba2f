"""The loss: plain flow matching bit for bit with one stage, masks, label dropout, how a batch may be split."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from dfm_core.batch_shares import BatchShares
from dfm_core.flow import interpolate, masked_velocity_loss, stage_errors, velocity_target
from dfm_core.interfaces.backbone import Backbone, BackboneFacts, Conditioning
from dfm_core.objective import FlowObjective
from dfm_core.plugins import Options
from dfm_core.plugins.registry import default_registry
from dfm_core.preconditioning import VelocityModel
from dfm_core.randomness import BatchRandomness, derive_seed
from dfm_core.stage_space import StageSpace, estimate_statistics
from dfm_core.stages import StageLayout, Stages, StageShape


class TinyBackbone(Backbone):
    """One linear layer a stage, told the time and the label by addition; keeps what it was given."""

    def __init__(self, facts: BackboneFacts) -> None:
        super().__init__(Options(), facts)
        self.layers = nn.ModuleList([nn.Conv2d(s.shape[0], s.shape[0], 3, padding=1) for s in facts.layout])
        self.seen: Conditioning | None = None
        self.visible: Tensor | None = None

    def forward(self, noisy_stages: Stages, t: Tensor, visible: Tensor, conditioning: Conditioning) -> Stages:
        self.seen, self.visible = conditioning, visible
        shift = t[:, :, None, None, None]
        return tuple(layer(x) + shift[:, s] for s, (layer, x) in enumerate(zip(self.layers, noisy_stages, strict=True)))


def make_objective(
    stages: tuple[int, ...], decomposition: str, sampler: str = "progressive", classes: int = 0, **options
) -> FlowObjective:
    from dfm_core.interfaces.autoencoder import AutoencoderFacts
    from dfm_core.interfaces.decomposition import DecompositionFacts
    from dfm_core.interfaces.stage_schedule import StageScheduleFacts
    from dfm_core.interfaces.timestep_sampler import TimestepSamplerFacts

    registry = default_registry()
    autoencoder = registry.create("autoencoder", "pixels", {}, AutoencoderFacts(3))
    split = registry.create("decomposition", decomposition, {}, DecompositionFacts(tuple((s, s) for s in stages), 3))
    schedule = registry.create(
        "stage_schedule", "progressive", {}, StageScheduleFacts(len(stages), (1.0,) * len(stages))
    )
    drawn = registry.create("timestep_sampler", sampler, options, TimestepSamplerFacts(len(stages), schedule.grid()))
    layout = split.layout((3, stages[-1], stages[-1]))
    torch.manual_seed(3)
    model = VelocityModel(TinyBackbone(BackboneFacts(layout, classes)), "none", (1.0,) * len(stages))
    return FlowObjective(model, StageSpace(autoencoder, split, (1.0,) * len(stages)), drawn, classes, 0.1)


def whole(size: int, step: int = 1) -> BatchRandomness:
    return BatchRandomness(seed=7, step=step, start=0, stop=size, total=size)


def test_one_stage_is_plain_flow_matching_bit_for_bit() -> None:
    objective = make_objective((8,), "identity")
    x = torch.rand(6, 3, 8, 8) * 2 - 1
    report = objective({"image": x}, whole(6))

    # Five independent lines: the same draws, the same order of reduction.
    t = torch.sigmoid(torch.randn(6, generator=torch.Generator().manual_seed(derive_seed(7, "timesteps", 1))))
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(derive_seed(7, "noise", 1, 0)))
    x_t = t[:, None, None, None] * x + (1 - t[:, None, None, None]) * noise
    prediction = objective.model.backbone.layers[0](x_t) + t[:, None, None, None]
    expected = ((prediction - (x - noise)) ** 2).flatten(1).mean(1).mean()

    assert torch.equal(report.loss, expected)
    assert report.part_names == ("stage_1",)
    torch.testing.assert_close(report.parts, torch.stack([expected.detach() * 6, torch.tensor(6.0)])[:, None])


def test_loss_is_the_sum_over_trained_stages_and_the_mean_over_the_batch() -> None:
    errors = torch.tensor([[1.0, 10.0], [2.0, 20.0], [3.0, math.nan]])
    trained = torch.tensor([[True, True], [False, True], [True, False]])
    assert masked_velocity_loss(errors, trained).item() == pytest.approx((11 + 20 + 3) / 3)


def test_an_untrained_stage_gets_no_gradient() -> None:
    errors = torch.tensor([[1.0, math.inf]], requires_grad=True)
    masked_velocity_loss(errors, torch.tensor([[True, False]])).backward()
    assert errors.grad is not None
    assert errors.grad.tolist() == [[1.0, 0.0]]


def test_interpolation_goes_from_noise_to_data_with_constant_velocity() -> None:
    noise, data = torch.randn(2, 3, 4, 4, dtype=torch.float64), torch.randn(2, 3, 4, 4, dtype=torch.float64)
    zero, one = torch.zeros(2), torch.ones(2)
    assert torch.equal(interpolate(noise, data, zero), noise)
    assert torch.equal(interpolate(noise, data, one), data)
    a, b = interpolate(noise, data, zero + 0.25), interpolate(noise, data, zero + 0.75)
    torch.testing.assert_close((b - a) / 0.5, velocity_target(noise, data))
    assert stage_errors([data], [data]).tolist() == [[0.0], [0.0]]


def test_every_trained_stage_is_reported_as_its_own_average() -> None:
    objective = make_objective((4, 8, 16), "laplacian", stage_probs=(0.4, 0.3, 0.3))
    report = objective({"image": torch.rand(64, 3, 16, 16)}, whole(64))
    sums, counts = report.parts
    assert counts[0] == 64
    assert 64 > counts[1] > counts[2] > 0
    assert report.loss.item() == pytest.approx(float(sums.sum()) / 64, rel=1e-5)


def test_how_a_batch_is_split_changes_neither_timesteps_nor_dropped_labels() -> None:
    objective = make_objective((4, 8), "laplacian", classes=5, stage_probs=0.5)
    batch = {"image": torch.rand(12, 3, 8, 8), "label": torch.arange(12) % 5}
    objective.label_dropout = 0.5
    objective(batch, whole(12))
    visible, label = objective.model.backbone.visible, objective.model.backbone.seen.label
    parts = []
    for start in (0, 4, 8):
        part = {key: value[start : start + 4] for key, value in batch.items()}
        objective(part, BatchRandomness(7, 1, start, start + 4, 12))
        parts.append((objective.model.backbone.visible, objective.model.backbone.seen.label))
    assert torch.equal(torch.cat([p[0] for p in parts]), visible)
    assert torch.equal(torch.cat([p[1] for p in parts]), label)


def kept_by_hand(objective: FlowObjective, images: Tensor, labels: Tensor, step: int) -> Tensor:
    """Loss of two stages on the first quarter of the rows where both are visible, else on all."""
    total = len(images)
    draw = objective.timestep_sampler.sample(total, torch.Generator().manual_seed(derive_seed(7, "timesteps", step)))
    rows = total // 4 if draw.visible[0, 1] else total
    data = objective.space.decomposition.decompose(images[:rows])
    generator = torch.Generator().manual_seed(derive_seed(7, "noise", step, 0))
    noise = [torch.randn(stage.shape, generator=generator) for stage in data]
    t, visible = draw.t[:rows], draw.visible[:rows]
    noisy = tuple(interpolate(n, x, t[:, s]) for s, (n, x) in enumerate(zip(noise, data, strict=True)))
    velocities = objective.model(noisy, t, visible, Conditioning(labels[:rows]))
    losses = [
        ((v - (x - n)) ** 2).mean() for v, x, n, seen in zip(velocities, data, noise, visible[0], strict=True) if seen
    ]
    return torch.stack(losses).sum()


def test_with_shares_the_first_rows_of_a_batch_are_trained_and_the_others_not_even_encoded() -> None:
    objective = make_objective((4, 8), "laplacian", classes=5, stage_probs=0.5, draw="batch")
    objective.batch_shares = BatchShares((1.0, 0.25))
    images, labels = torch.rand(8, 3, 8, 8) * 2 - 1, torch.arange(8) % 5
    layers = list(objective.model.backbone.layers.parameters())
    kept = set()
    for step in range(8):
        report = objective({"image": images, "label": labels}, whole(8, step))
        gradients = torch.autograd.grad(report.loss, layers, materialize_grads=True)
        rows = len(objective.model.backbone.seen.label)
        kept.add(rows)
        seen = objective.model.backbone.seen.label
        assert ((seen == labels[:rows]) | (seen == 5)).all()
        expected = kept_by_hand(objective, images, labels, step)
        torch.testing.assert_close(report.loss, expected)
        torch.testing.assert_close(gradients, torch.autograd.grad(expected, layers, materialize_grads=True))
        assert report.parts[1, 0] == rows
        broken = torch.cat([images[:rows], torch.full_like(images[rows:], math.nan)])
        assert torch.equal(objective({"image": broken, "label": labels}, whole(8, step)).loss, report.loss)
    assert kept == {2, 8}


def test_with_shares_every_part_of_a_batch_keeps_its_first_rows() -> None:
    objective = make_objective((4, 8), "laplacian", classes=5, stage_probs=0.0, draw="batch")
    objective.batch_shares, objective.label_dropout = BatchShares((1.0, 0.5)), 0.0
    images, labels = torch.rand(8, 3, 8, 8), torch.arange(8) % 5
    for start in (0, 4):
        part = slice(start, start + 4)
        objective({"image": images[part], "label": labels[part]}, BatchRandomness(7, 1, start, start + 4, 8))
        assert torch.equal(objective.model.backbone.seen.label, labels[start : start + 2])


def test_a_tenth_of_the_labels_is_dropped() -> None:
    objective = make_objective((8,), "identity", classes=5)
    dropped = 0
    for step in range(40):
        objective({"image": torch.zeros(100, 3, 8, 8), "label": torch.ones(100, dtype=torch.int64)}, whole(100, step))
        label = objective.model.backbone.seen.label
        assert set(label.tolist()) <= {1, 5}
        dropped += int((label == 5).sum())
    assert abs(dropped - 400) < 4 * math.sqrt(4000 * 0.1 * 0.9)


def test_unlabelled_data_has_no_label() -> None:
    objective = make_objective((8,), "identity")
    objective({"image": torch.zeros(2, 3, 8, 8)}, whole(2))
    assert objective.model.backbone.seen.label is None


def test_statistics_are_those_of_the_stages_over_all_batches() -> None:
    objective = make_objective((4, 8), "laplacian")
    images = torch.rand(10, 3, 8, 8) + 0.5
    space = objective.space
    batches = [{"image": images[:7]}, {"image": images[7:]}]
    measured = estimate_statistics(space.autoencoder, space.decomposition, batches)
    stages = space.decomposition.decompose(images)
    assert measured.num_images == 10
    for index, stage in enumerate(stages):
        assert measured.rms[index] == pytest.approx(float(stage.double().square().mean().sqrt()), rel=1e-6)
        assert measured.std[index] == pytest.approx(float(stage.double().std(correction=0)), rel=1e-6)
    assert measured.scales(False) == measured.scales(False, one_scale=True) == (1.0, 1.0)
    assert measured.scales(True) == measured.std
    assert measured.scales(True, one_scale=True) == measured.std[1:] * 2
    assert measured.sigmas((0.5, 2.0)) == (measured.rms[0] / 0.5, measured.rms[1] / 2.0)
    standardised = StageSpace(space.autoencoder, space.decomposition, measured.scales(True))
    scaled = standardised.to_stages(images)
    assert [round(float(s.double().std(correction=0)), 5) for s in scaled] == [1.0, 1.0]
    torch.testing.assert_close(standardised.to_images(scaled), images, atol=1e-5, rtol=0)


def test_stage_layout_counts_elements() -> None:
    assert StageLayout((StageShape((4, 6), (3, 4, 6)),))[0].numel == 72
