"""I3D (Carreira and Zisserman 2017): Inception-v1 with batch normalisation, every filter inflated to three dimensions.

The RGB stream for the 400 classes of Kinetics, with the parameter names under which its weights circulate in PyTorch.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CLASSES = 400
POOLED = 1024
FEWEST_FRAMES = 9
"""Two places in time are left of nine frames, as many as the last pooling needs."""
_EPSILON = 1e-3


def padded(x: Tensor, kernel: tuple[int, int, int], stride: tuple[int, int, int]) -> Tensor:
    """Clips (B, C, T, H, W) with TensorFlow's SAME padding: ⌈length / stride⌉ places; an odd zero goes to the end."""
    pads: list[int] = []
    for length, reach, step in zip(reversed(x.shape[2:]), reversed(kernel), reversed(stride), strict=True):
        missing = max((-(-length // step) - 1) * step + reach - length, 0)
        pads += [missing // 2, missing - missing // 2]
    return F.pad(x, pads)


class Unit3D(nn.Module):
    """Convolution without bias, batch normalisation, ReLU; `kernel` along all three axes."""

    def __init__(self, channels: int, width: int, kernel: int = 1, stride: int = 1) -> None:
        super().__init__()
        self._kernel, self._stride = (kernel,) * 3, (stride,) * 3
        self.conv3d = nn.Conv3d(channels, width, kernel, stride, bias=False)
        self.bn = nn.BatchNorm3d(width, eps=_EPSILON)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, T, H, W) -> (B, width, T', H', W')."""
        return F.relu(self.bn(self.conv3d(padded(x, self._kernel, self._stride))), inplace=True)


def pooled(x: Tensor, kernel: tuple[int, int, int], stride: tuple[int, int, int]) -> Tensor:
    """Maximum with SAME padding; what is pooled comes after a ReLU, so the zeros never win."""
    return F.max_pool3d(padded(x, kernel, stride), kernel, stride)


class Mixed(nn.Module):
    """An Inception block: 1×1, 3×3, another 3×3 where GoogLeNet had 5×5, and a pooling. Fig. 3 of the paper.

    widths: of the first branch, of the narrow and the wide convolution of the second and of the third, of the fourth.
    """

    def __init__(self, channels: int, widths: tuple[int, int, int, int, int, int]) -> None:
        super().__init__()
        self.b0 = Unit3D(channels, widths[0])
        self.b1a, self.b1b = Unit3D(channels, widths[1]), Unit3D(widths[1], widths[2], 3)
        self.b2a, self.b2b = Unit3D(channels, widths[3]), Unit3D(widths[3], widths[4], 3)
        self.b3b = Unit3D(channels, widths[5])

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, T, H, W) -> (B, sum of the last widths, T, H, W)."""
        branches = [self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(pooled(x, (3, 3, 3), (1, 1, 1)))]
        return torch.cat(branches, 1)


class Logits(nn.Module):
    """A 1×1×1 convolution with bias, and nothing after it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv3d = nn.Conv3d(POOLED, CLASSES, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 1024, T, H, W) -> (B, 400, T, H, W)."""
        logits: Tensor = self.conv3d(x)
        return logits


class I3D(nn.Module):
    """Clips (B, 3, T, 224, 224) in [-1, 1] of at least nine frames to logits, or to what they are made of."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv3d_1a_7x7 = Unit3D(3, 64, 7, stride=2)
        self.Conv3d_2b_1x1 = Unit3D(64, 64)
        self.Conv3d_2c_3x3 = Unit3D(64, 192, 3)
        self.Mixed_3b = Mixed(192, (64, 96, 128, 16, 32, 32))
        self.Mixed_3c = Mixed(256, (128, 128, 192, 32, 96, 64))
        self.Mixed_4b = Mixed(480, (192, 96, 208, 16, 48, 64))
        self.Mixed_4c = Mixed(512, (160, 112, 224, 24, 64, 64))
        self.Mixed_4d = Mixed(512, (128, 128, 256, 24, 64, 64))
        self.Mixed_4e = Mixed(512, (112, 144, 288, 32, 64, 64))
        self.Mixed_4f = Mixed(528, (256, 160, 320, 32, 128, 128))
        self.Mixed_5b = Mixed(832, (256, 160, 320, 32, 128, 128))
        self.Mixed_5c = Mixed(832, (384, 192, 384, 48, 128, 128))
        self.logits = Logits()

    def maps(self, x: Tensor) -> Tensor:
        """Feature maps (B, 1024, ⌈T/8⌉, ⌈H/32⌉, ⌈W/32⌉) of clips (B, 3, T, H, W)."""
        x = pooled(self.Conv3d_1a_7x7(x), (1, 3, 3), (1, 2, 2))
        x = pooled(self.Conv3d_2c_3x3(self.Conv3d_2b_1x1(x)), (1, 3, 3), (1, 2, 2))
        x = pooled(self.Mixed_3c(self.Mixed_3b(x)), (3, 3, 3), (2, 2, 2))
        x = self.Mixed_4f(self.Mixed_4e(self.Mixed_4d(self.Mixed_4c(self.Mixed_4b(x)))))
        found: Tensor = self.Mixed_5c(self.Mixed_5b(pooled(x, (2, 2, 2), (2, 2, 2))))
        return found

    def features(self, x: Tensor) -> Tensor:
        """Averages (B, 1024) of the maps over two neighbours in time and all places, then over time."""
        maps = self.maps(x)
        return F.avg_pool3d(maps, (2, *maps.shape[3:]), stride=1).mean((2, 3, 4))

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, 400), averaged over time. They are linear in the features, so their mean is that of the maps'."""
        logits: Tensor = self.logits(self.features(x)[:, :, None, None, None]).flatten(1)
        return logits
