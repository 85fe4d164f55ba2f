"""InceptionV3 as FID has it: the graph of 2015-12-05, with the parameter names of its port to PyTorch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LOGITS = 1008
FEATURES = 2048
_EPSILON = 1e-3


class Convolution(nn.Module):
    """Convolution without bias, batch normalisation, ReLU."""

    def __init__(
        self,
        channels: int,
        width: int,
        kernel: int | tuple[int, int] = 1,
        stride: int = 1,
        padding: int | tuple[int, int] = 0,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, width, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(width, eps=_EPSILON)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> (B, width, H', W')."""
        return F.relu(self.bn(self.conv(x)), inplace=True)


def average_pool(x: Tensor) -> Tensor:
    """3×3 average that leaves the padding out, as TensorFlow's does."""
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


class MixedA(nn.Module):
    """35×35 blocks."""

    def __init__(self, channels: int, pooled: int) -> None:
        super().__init__()
        self.branch1x1 = Convolution(channels, 64)
        self.branch5x5_1 = Convolution(channels, 48)
        self.branch5x5_2 = Convolution(48, 64, 5, padding=2)
        self.branch3x3dbl_1 = Convolution(channels, 64)
        self.branch3x3dbl_2 = Convolution(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = Convolution(96, 96, 3, padding=1)
        self.branch_pool = Convolution(channels, pooled)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> (B, 224 + pooled, H, W)."""
        five = self.branch5x5_2(self.branch5x5_1(x))
        three = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch1x1(x), five, three, self.branch_pool(average_pool(x))], 1)


class MixedB(nn.Module):
    """35×35 to 17×17."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branch3x3 = Convolution(channels, 384, 3, stride=2)
        self.branch3x3dbl_1 = Convolution(channels, 64)
        self.branch3x3dbl_2 = Convolution(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = Convolution(96, 96, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> (B, 480 + channels, H', W')."""
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch3x3(x), double, F.max_pool2d(x, 3, stride=2)], 1)


class MixedC(nn.Module):
    """17×17 blocks, 7×7 convolutions in two factors."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        across, down = (1, 7), (7, 1)
        self.branch1x1 = Convolution(channels, 192)
        self.branch7x7_1 = Convolution(channels, width)
        self.branch7x7_2 = Convolution(width, width, across, padding=(0, 3))
        self.branch7x7_3 = Convolution(width, 192, down, padding=(3, 0))
        self.branch7x7dbl_1 = Convolution(channels, width)
        self.branch7x7dbl_2 = Convolution(width, width, down, padding=(3, 0))
        self.branch7x7dbl_3 = Convolution(width, width, across, padding=(0, 3))
        self.branch7x7dbl_4 = Convolution(width, width, down, padding=(3, 0))
        self.branch7x7dbl_5 = Convolution(width, 192, across, padding=(0, 3))
        self.branch_pool = Convolution(channels, 192)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> (B, 768, H, W)."""
        seven = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        double = self.branch7x7dbl_5(self.branch7x7dbl_4(double))
        return torch.cat([self.branch1x1(x), seven, double, self.branch_pool(average_pool(x))], 1)


class MixedD(nn.Module):
    """17×17 to 8×8."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branch3x3_1 = Convolution(channels, 192)
        self.branch3x3_2 = Convolution(192, 320, 3, stride=2)
        self.branch7x7x3_1 = Convolution(channels, 192)
        self.branch7x7x3_2 = Convolution(192, 192, (1, 7), padding=(0, 3))
        self.branch7x7x3_3 = Convolution(192, 192, (7, 1), padding=(3, 0))
        self.branch7x7x3_4 = Convolution(192, 192, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> (B, 512 + channels, H', W')."""
        seven = self.branch7x7x3_4(self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x))))
        return torch.cat([self.branch3x3_2(self.branch3x3_1(x)), seven, F.max_pool2d(x, 3, stride=2)], 1)


class MixedE(nn.Module):
    """8×8 blocks. largest: pool by the maximum, which the last block of the FID graph does, and no other Inception."""

    def __init__(self, channels: int, largest: bool) -> None:
        super().__init__()
        self.largest = largest
        self.branch1x1 = Convolution(channels, 320)
        self.branch3x3_1 = Convolution(channels, 384)
        self.branch3x3_2a = Convolution(384, 384, (1, 3), padding=(0, 1))
        self.branch3x3_2b = Convolution(384, 384, (3, 1), padding=(1, 0))
        self.branch3x3dbl_1 = Convolution(channels, 448)
        self.branch3x3dbl_2 = Convolution(448, 384, 3, padding=1)
        self.branch3x3dbl_3a = Convolution(384, 384, (1, 3), padding=(0, 1))
        self.branch3x3dbl_3b = Convolution(384, 384, (3, 1), padding=(1, 0))
        self.branch_pool = Convolution(channels, 192)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> (B, 2048, H, W)."""
        three, double = self.branch3x3_1(x), self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        pooled = F.max_pool2d(x, 3, stride=1, padding=1) if self.largest else average_pool(x)
        parts = [
            self.branch1x1(x),
            *(self.branch3x3_2a(three), self.branch3x3_2b(three)),
            *(self.branch3x3dbl_3a(double), self.branch3x3dbl_3b(double)),
            self.branch_pool(pooled),
        ]
        return torch.cat(parts, 1)


class FidInception(nn.Module):
    """Szegedy et al. 2016 without the auxiliary head; 1008 logits, of which 1000 are classes."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = Convolution(3, 32, 3, stride=2)
        self.Conv2d_2a_3x3 = Convolution(32, 32, 3)
        self.Conv2d_2b_3x3 = Convolution(32, 64, 3, padding=1)
        self.Conv2d_3b_1x1 = Convolution(64, 80)
        self.Conv2d_4a_3x3 = Convolution(80, 192, 3)
        self.Mixed_5b, self.Mixed_5c, self.Mixed_5d = MixedA(192, 32), MixedA(256, 64), MixedA(288, 64)
        self.Mixed_6a = MixedB(288)
        self.Mixed_6b, self.Mixed_6c = MixedC(768, 128), MixedC(768, 160)
        self.Mixed_6d, self.Mixed_6e = MixedC(768, 160), MixedC(768, 192)
        self.Mixed_7a = MixedD(768)
        self.Mixed_7b, self.Mixed_7c = MixedE(1280, largest=False), MixedE(2048, largest=True)
        self.fc = nn.Linear(FEATURES, LOGITS)

    def forward(self, x: Tensor) -> Tensor:
        """Features (B, 2048) of images (B, 3, 299, 299) in [-1, 1]: the mean over places before the last layer."""
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(F.max_pool2d(x, 3, stride=2)))
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(F.max_pool2d(x, 3, stride=2))))
        x = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x)))))
        return self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x))).mean((-2, -1))
