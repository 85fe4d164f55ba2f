"""Do samples of clips move as their class says?

    python benchmarks/moving_shapes.py                    # trains `--preset video-quickstart` first: 20 TFLOP
    python benchmarks/moving_shapes.py --preset video-32  # larger clips: 24 TFLOP
    python benchmarks/moving_shapes.py --max-steps 300    # a shorter training, with a worse share
    python benchmarks/moving_shapes.py --run runs/mine    # judges a run that is there

64 samples, the classes by turns, at seed 0 and the run's guidance. In each the centre of the shape is measured in the
first and the last frame; a sample fits its class where the centre went at least a twentieth of the picture, within 45
degrees of the class's direction. Beside it: the same of real clips, and of the samples with their labels shuffled.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from judged import make_parser, report
from torch import Tensor

from dfm_core.assembly import Assembler
from dfm_core.model import Model
from dfm_core.training.data import load_batch

DIRECTIONS = {"right": (0.0, 1.0), "left": (0.0, -1.0), "down": (1.0, 0.0), "up": (-1.0, 0.0)}
"""Motion -> (down, across)."""
LEAST_WAY = 0.05
_SHAPE = 0.4


def centres(clips: Tensor) -> Tensor:
    """Centre of the shape in every frame, (B, T, 2): (down, across) as shares of the picture's height and width.

    clips: (B, 3, T, H, W). The shape is what differs from the median colour of the frame's border by more than 0.4 of
    the largest such difference: weak spots of a generated ground do not count.
    """
    border = torch.cat([clips[..., 0, :], clips[..., -1, :], clips[..., 0], clips[..., -1]], dim=-1)
    ground = border.median(-1).values[..., None, None]
    apart = (clips - ground).norm(dim=1)
    largest = apart.amax((-2, -1), keepdim=True)
    weight = torch.where(apart > _SHAPE * largest, apart, 0.0)
    weight = weight / weight.sum((-2, -1), keepdim=True).clamp_min(1e-9)
    rows, columns = ((torch.arange(length) + 0.5) / length for length in clips.shape[-2:])
    return torch.stack([(weight.sum(-1) * rows).sum(-1), (weight.sum(-2) * columns).sum(-1)], dim=-1)


def fits(clips: Tensor, motions: Sequence[str]) -> Tensor:
    """Whether each clip (B, 3, T, H, W) moves as its motion says, (B,) bool. motions: names in DIRECTIONS."""
    found = centres(clips)
    way = found[:, -1] - found[:, 0]
    wanted = torch.tensor([DIRECTIONS[motion] for motion in motions])
    length = way.norm(dim=1)
    return (length >= LEAST_WAY) & ((way * wanted).sum(1) >= length * 0.5**0.5)


def judge(model: Model, num: int) -> dict[str, float]:
    """Shares that move as their class says: of samples, of those with shuffled labels, of held-out real clips."""
    motions = [name.split()[1] for name in model.classes]
    unknown = sorted({*motions} - {*DIRECTIONS})
    if unknown:
        raise SystemExit(f"expected a run whose motions are {', '.join(DIRECTIONS)}, got also {', '.join(unknown)}")
    labels = torch.tensor(model.labels_for(num))
    samples = model.generate(num, seed=0, cfg=model.composition.config.sampling.cfg)
    shuffled = labels[torch.randperm(num, generator=torch.Generator().manual_seed(0))]
    dataset = Assembler(model.composition.config, model.assembler.registry).dataset("validation")
    real = load_batch(dataset, range(num))
    judged = {"samples": (samples, labels), "shuffled": (samples, shuffled), "real": (real["video"], real["label"])}
    return {
        name: float(fits(clips, [motions[label] for label in of.tolist()]).float().mean())
        for name, (clips, of) in judged.items()
    }


def main() -> None:
    arguments = make_parser(__doc__, preset="video-quickstart", num=64).parse_args()
    report(arguments, lambda model: judge(model, arguments.num))


if __name__ == "__main__":
    main()
