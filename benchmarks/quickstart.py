"""How good the quickstart's samples are: does a classifier see the class that was asked for?

    python benchmarks/quickstart.py                 # trains `--preset quickstart` first
    python benchmarks/quickstart.py --run runs/mine # judges a run that is there

A small convolutional classifier is trained on the same drawn shapes and checked on held-out ones (98% or more, or
nothing is concluded); then it names 256 samples, 32 a class, at seed 0 and the preset's guidance.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from judged import make_parser, report
from torch import Tensor, nn

from dfm_core.assembly import Assembler
from dfm_core.interfaces.dataset import Dataset
from dfm_core.model import Model
from dfm_core.training.data import BatchStream, load_batch


def make_classifier(classes: int) -> nn.Module:
    """A convolutional network for 32-pixel pictures."""

    def block(inputs: int, outputs: int) -> list[nn.Module]:
        return [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(), nn.MaxPool2d(2)]

    pooled = [nn.AdaptiveMaxPool2d(2), nn.Flatten(), nn.Linear(4 * 96, classes)]
    return nn.Sequential(*block(3, 24), *block(24, 48), *block(48, 96), *pooled)


def train_classifier(dataset: Dataset, steps: int, seed: int = 0) -> nn.Module:
    """Train on batches of the data set; stops after `steps`."""
    torch.manual_seed(seed)
    classifier = make_classifier(len(dataset.classes))
    optimizer = torch.optim.AdamW(classifier.parameters(), lr=3e-3)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, steps)
    for batch in BatchStream(dataset, 64, seed=seed + 1000).batches(0, steps):
        noisy = batch["image"] + 0.03 * torch.randn_like(batch["image"])  # samples are never quite clean
        loss = F.cross_entropy(classifier(noisy), batch["label"])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rate.step()
    return classifier.eval()


@torch.no_grad()
def agreement(classifier: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Share of the images whose class the classifier names as asked."""
    return float((classifier(images).argmax(1) == labels).float().mean())


def judge(model: Model, num: int, classifier_steps: int) -> dict[str, float]:
    """Accuracy of the classifier on held-out shapes, and its agreement with `num` samples."""
    assembler = Assembler(model.composition.config, model.assembler.registry)
    classifier = train_classifier(assembler.dataset(), classifier_steps)
    held_out = load_batch(assembler.dataset("validation"), range(1024))
    labels = torch.tensor(model.labels_for(num))
    return {
        "classifier": agreement(classifier, held_out["image"], held_out["label"]),
        "agreement": agreement(classifier, model.generate(num, seed=0, batch_size=64), labels),
    }


def main() -> None:
    parser = make_parser(__doc__, preset="quickstart", num=256)
    parser.add_argument("--classifier-steps", type=int, default=900)
    arguments = parser.parse_args()
    report(arguments, lambda model: judge(model, arguments.num, arguments.classifier_steps))


if __name__ == "__main__":
    main()
