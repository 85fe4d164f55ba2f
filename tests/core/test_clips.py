"""Clips from files: any part, frame by frame as decoding everything gives it; files that are wrong; written clips."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from clip_files import SIZE, add_silence, numbered, numbers_of, write_video
from PIL import Image
from torch import Tensor

from dfm_core.clips import contact_sheet, count_frames, is_clip, read_clip, write_gif, write_mp4
from dfm_core.errors import DataError, PluginError, ShortSampleError, UnreadableSampleError, UsageError

av = pytest.importorskip("av")

FRAMES = 40
VARYING = np.cumsum([1 + index % 3 + 20 * (index % 10 == 5) for index in range(FRAMES)]).tolist()
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "one key frame": ("a.mp4", {"key_frames": 250}),
    "b-frames": ("a.mp4", {"b_frames": 3}),
    "open groups": ("a.mp4", {"b_frames": 3, "x264-params": "open-gop=1:scenecut=0"}),
    "intra refresh": ("a.mp4", {"x264-params": "intra-refresh=1"}),
    "mpeg4": ("a.mp4", {"codec": "mpeg4", "b_frames": 2}),
    "matroska": ("a.mkv", {"b_frames": 2}),
    "vp9": ("a.webm", {"codec": "libvpx-vp9"}),
    "vp8": ("a.webm", {"codec": "libvpx"}),
    "neither length nor index": ("a.webm", {"codec": "libvpx-vp9", "container_options": {"live": "1"}}),
    "longer sound": ("a.webm", {"codec": "libvpx-vp9", "seconds_of_audio": 5}),
    "varying rate": ("a.mp4", {"b_frames": 2, "times": VARYING}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_any_part_is_what_decoding_everything_gives(kind: str, tmp_path: Path) -> None:
    name, options = KINDS[kind]
    path = write_video(tmp_path / name, FRAMES, **options)
    whole = read_clip(path)
    assert numbers_of(whole) == [*range(FRAMES)]
    firsts = []
    for place in range(16):
        part = read_clip(path, 4, start=place / 15)
        firsts.append(numbers_of(part)[0])
        assert torch.equal(part, whole[:, firsts[-1] : firsts[-1] + 4])
    if kind not in ("varying rate", "longer sound"):
        assert firsts == sorted(firsts)
        assert (firsts[0], firsts[-1]) == (0, FRAMES - 4)
    assert len(set(firsts)) > 8


class Counting:
    """A container that counts the frames that are decoded."""

    decoded = 0
    packets = 0

    def __init__(self, container: Any) -> None:
        self.container = container

    def __getattr__(self, name: str) -> Any:
        return getattr(self.container, name)

    def __enter__(self) -> Counting:
        self.container.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.container.__exit__(*error)

    def demux(self, stream: Any) -> Iterator[Any]:
        for packet in self.container.demux(stream):
            Counting.packets += 1
            yield CountingPacket(packet)


class CountingPacket:
    def __init__(self, packet: Any) -> None:
        self.packet, self.pts = packet, packet.pts

    def decode(self) -> list[Any]:
        frames = self.packet.decode()
        Counting.decoded += len(frames)
        return frames


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> type[Counting]:
    opened = av.open
    monkeypatch.setattr(av, "open", lambda *given, **named: Counting(opened(*given, **named)))
    monkeypatch.setattr(Counting, "decoded", 0)
    monkeypatch.setattr(Counting, "packets", 0)
    return Counting


@pytest.mark.parametrize(("ending", "codec"), [("mp4", "libx264"), ("webm", "libvpx-vp9")])
def test_a_part_costs_no_more_than_its_group(
    ending: str, codec: str, tmp_path: Path, counting: type[Counting], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_video(tmp_path / f"long.{ending}", 600, codec=codec, key_frames=12, b_frames=2)
    for place in range(20):
        monkeypatch.setattr(Counting, "decoded", 0)
        clip = read_clip(path, 8, start=place / 19)
        assert numbers_of(clip) == list(range(numbers_of(clip)[0], numbers_of(clip)[0] + 8))
        assert 8 <= counting.decoded <= 12 + 8 + 5, "one group at most before it, and what the decoder holds back"
    assert counting.packets < 20 * 50, "nor is the whole file read"


def test_frames_are_taken_at_the_rate_that_is_asked_for(tmp_path: Path) -> None:
    video = write_video(tmp_path / "a.mp4", 40, rate=24)
    assert numbers_of(read_clip(video, 8, frame_rate=12)) == [*range(0, 16, 2)]
    assert numbers_of(read_clip(video, 5, frame_rate=10)) == [0, 2, 5, 7, 10]
    assert numbers_of(read_clip(video, 6, frame_rate=48)) == [0, 0, 1, 1, 2, 2]
    assert numbers_of(read_clip(video, 20, frame_rate=12, start=1.0)) == [*range(1, 40, 2)]
    assert numbers_of(read_clip(video, frame_rate=12)) == [*range(0, 40, 2)]
    rounded = write_video(tmp_path / "b.webm", 40, rate=30, codec="libvpx-vp9")  # its times are in milliseconds
    assert numbers_of(read_clip(rounded, frame_rate=30)) == [*range(40)]
    for place in range(10):
        numbers = numbers_of(read_clip(rounded, 8, frame_rate=30, start=place / 9))
        assert numbers == [*range(numbers[0], numbers[0] + 8)]
    slow = write_video(tmp_path / "c.mp4", 4, times=[0, 24, 48, 72], rate=24)
    assert numbers_of(read_clip(slow, 4, frame_rate=2)) == [0, 0, 1, 1]
    with pytest.raises(UnreadableSampleError, match=r"a\.mp4: it has 20 frames at 12 frames a second, expected .* 21"):
        read_clip(video, 21, frame_rate=12)


def test_sizes_and_where_the_crop_lies(tmp_path: Path) -> None:
    video = write_video(tmp_path / "a.mp4", 6)
    assert read_clip(video).shape == (3, 6, *SIZE)
    left, right = (read_clip(video, 2, (32, 32), position=(0.5, across)) for across in (0.0, 1.0))
    assert left.shape == (3, 2, 32, 32)
    whole = read_clip(video, 2)
    assert torch.equal(left, whole[..., :32])
    assert torch.equal(right, whole[..., -32:])
    assert left.dtype == torch.float32
    assert 0.5 < float(whole.abs().max()) <= 1


def test_pixels_become_square(tmp_path: Path) -> None:
    wide = read_clip(write_video(tmp_path / "wide.mp4", 2, wide=2))
    assert wide.shape == (3, 2, SIZE[0], 2 * SIZE[1])
    assert numbers_of(wide) == [0, 1]


@pytest.mark.skipif(not hasattr(av.VideoStream, "set_display_rotation"), reason="an old PyAV cannot write it")
def test_clips_are_upright(tmp_path: Path) -> None:
    plain = read_clip(write_video(tmp_path / "a.mp4", 2))
    for degrees in (90, 180, -90):
        turned = read_clip(write_video(tmp_path / f"{degrees}.mp4", 2, turned=degrees))
        assert torch.equal(turned, plain.rot90(degrees // 90, (2, 3))), "counter-clockwise, as FFmpeg counts"


def gif(path: Path, frames: int = 8, **options: Any) -> Path:
    first, *others = [Image.fromarray(numbered(index)) for index in range(frames)]
    first.save(path, save_all=True, append_images=others, **{"duration": 50, **options})
    return path


def folder_of_frames(path: Path, numbers: list[int]) -> Path:
    path.mkdir()
    for number in numbers:
        Image.fromarray(numbered(number)).save(path / f"frame{number}.png")
    return path


def test_gifs_and_folders_of_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)  # they need no PyAV
    animation = gif(tmp_path / "a.GIF")
    assert numbers_of(read_clip(animation)) == [*range(8)]
    assert [numbers_of(read_clip(animation, 5, start=x))[0] for x in (0, 0.3, 0.6, 1)] == [0, 1, 2, 3]
    assert numbers_of(read_clip(animation, 4, frame_rate=10)) == [0, 2, 4, 6]
    uneven = gif(tmp_path / "b.gif", duration=[50, 50, 200, 50, 50, 50, 50, 50])
    assert numbers_of(read_clip(uneven, 8, frame_rate=20)) == [0, 1, 2, 2, 2, 3, 3, 4]
    frames = folder_of_frames(tmp_path / "frames", [9, 10, 100, 2])
    (frames / "notes.txt").touch()
    (frames / ".hidden.png").touch()
    assert numbers_of(read_clip(frames)) == [2, 9, 10, 100]
    assert numbers_of(read_clip(frames, 2, start=0.9, frame_rate=3.0)) == [10, 100], "frames without times: every one"
    assert [is_clip(path) for path in (animation, frames, tmp_path, tmp_path / "x.webm", tmp_path / "x.png")] == [
        *(True, True, False, True, False)
    ]
    Image.new("RGB", (10, 10)).save(frames / "other.png")
    with pytest.raises(UnreadableSampleError, match=r"frames: its frames differ in size"):
        read_clip(frames)
    assert read_clip(frames, 5, (8, 8)).shape == (3, 5, 8, 8)


def test_transparency_is_over_white(tmp_path: Path) -> None:
    image = Image.new("RGBA", (6, 4), (255, 0, 0, 255))
    image.paste((0, 0, 0, 0), (3, 0, 6, 4))
    image.save(tmp_path / "a.gif")
    frame = read_clip(tmp_path / "a.gif")[:, 0]
    assert frame[:, 0].T.tolist() == [[1, -1, -1]] * 3 + [[1, 1, 1]] * 3


def broken_files(folder: Path) -> list[Path]:
    """Write one file a fault."""
    good = write_video(folder / "good.mp4", 24).read_bytes()
    small = write_video(folder / "good.webm", 24, codec="libvpx-vp9").read_bytes()
    (folder / "empty.mp4").touch()
    (folder / "cut.mp4").write_bytes(good[: len(good) // 2])
    (folder / "cut.webm").write_bytes(small[: len(small) // 2])
    (folder / "text.mp4").write_text("this is no video")
    (folder / "header.mp4").write_bytes(bytes(64) + good[64:])
    place = good.index(b"mdat") + 700
    (folder / "overwritten.mp4").write_bytes(good[:place] + bytes(range(256)) + good[place + 256 :])
    (folder / "cut.gif").write_bytes(gif(folder / "good.gif").read_bytes()[:200])
    (folder / "image.gif").write_bytes((folder / "good.gif").read_bytes()[:5])
    (folder / "playlist.mp4").write_text(f"#EXTM3U\n#EXTINF:10,\n{folder / 'good.mp4'}\n#EXT-X-ENDLIST\n")
    (folder / "list.mp4").write_text("ffconcat version 1.0\nfile good.mp4\n")
    with av.open(str(folder / "sound.webm"), "w") as container:
        add_silence(container, container.add_stream("libopus", rate=48_000), 0.5)
    return [path for path in sorted(folder.iterdir()) if path.stem != "good"]


def test_broken_files_are_named(tmp_path: Path) -> None:
    broken = broken_files(tmp_path)
    assert len(broken) == 11
    for path in [*broken, tmp_path / "absent.mp4"]:
        with pytest.raises(UnreadableSampleError) as caught:
            read_clip(path, 24)
        assert str(caught.value).startswith(f"cannot read clip {path}: ")
        assert "Errno" not in str(caught.value)


def test_a_file_that_is_cut_off_is_used_up_to_there(tmp_path: Path) -> None:
    whole = write_video(tmp_path / "a.webm", 48, codec="libvpx-vp9")
    expected, content = read_clip(whole), whole.read_bytes()
    whole.write_bytes(content[: len(content) * 3 // 4])
    for start in (0.0, 0.5, 1.0):
        part = read_clip(whole, 8, start=start)
        first = numbers_of(part)[0]
        assert torch.equal(part, expected[:, first : first + 8])


def test_too_short_and_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    video = write_video(tmp_path / "a.mp4", 7)
    assert read_clip(video, 7, start=0.9).shape[1] == 7
    with pytest.raises(UnreadableSampleError, match=r"a\.mp4: it has 7 frames, expected at least 8$"):
        read_clip(video, 8)
    monkeypatch.setattr("dfm_core.clips.MOST_FRAMES", 6)
    with pytest.raises(UnreadableSampleError, match="expected 1 to 6 frames, got more; say how many"):
        read_clip(video)
    monkeypatch.setattr("dfm_core.clip_sources._MOST_PIXELS", 100)
    with pytest.raises(UnreadableSampleError, match="may be a trap"):
        read_clip(video, 2)
    os.mkfifo(tmp_path / "pipe.mp4")
    with pytest.raises(UnreadableSampleError, match="it is no file"):
        read_clip(tmp_path / "pipe.mp4", 2)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"frames": 0}, "frames: expected at least 1, or None for all, got 0"),
        ({"frames": -2}, "got -2"),
        ({"frame_rate": 1e-9}, r"frame_rate: expected 0\.001 to 1e\+06 frames a second, or None .*, got 1e-09"),
        ({"frame_rate": -1.0}, "frame_rate: .* got -1"),
        ({"frame_rate": float("nan")}, "frame_rate: .* got nan"),
        ({"size": (0, 0)}, r"size: expected height × width of at least 1, .* got \(0, 0\)"),
        ({"start": -0.5}, r"start: expected a share from 0 to 1, got -0\.5"),
        ({"start": 2.0}, "start: .* got 2"),
    ],
)
def test_wrong_requests_are_not_the_fault_of_the_file(wrong: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        read_clip(gif(tmp_path / "a.gif"), **{"frames": 2, **wrong})


def test_a_codec_that_is_unknown_is_said_to_be(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", 2)
    path.write_bytes(path.read_bytes().replace(b"avc1", b"xyz1"))
    with pytest.raises(UnreadableSampleError, match=r"a\.mp4: its codec is unknown to this FFmpeg; convert it"):
        read_clip(path)


def test_frames_are_counted_as_the_file_states_them(tmp_path: Path) -> None:
    paths = write_video(tmp_path / "a.mp4", 17), write_video(tmp_path / "b.webm", 5, codec="libvpx")
    still = gif(tmp_path / "c.gif", 1)
    assert [count_frames(path) for path in (*paths, still)] == [17, 5, 1]
    with pytest.raises(ShortSampleError, match=r"c\.gif: it has 1 frame, expected at least 2$"):
        read_clip(still, 2)


def test_without_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    video = write_video(tmp_path / "a.mp4", 2)
    monkeypatch.setitem(sys.modules, "av", None)
    for call in (lambda: read_clip(video), lambda: write_mp4(tmp_path / "b.mp4", torch.zeros(3, 2, 4, 4))):
        with pytest.raises(PluginError, match=r"pip install 'decomposable-flow-matching\[video\]'"):
            call()


def ramp(channels: int, frames: int, height: int, width: int) -> Tensor:
    """A clip that becomes brighter in time and from left to right."""
    return (torch.linspace(-0.9, 0.5, frames)[:, None, None] + torch.linspace(0, 0.4, width)).expand(
        channels, frames, height, width
    )


@pytest.mark.parametrize("shape", [(3, 5, 16, 24), (3, 4, 17, 31), (1, 2, 9, 8), (3, 1, 1, 1), (3, 2, 720, 48)])
def test_mp4_gives_back_the_clip(shape: tuple[int, int, int, int], tmp_path: Path) -> None:
    clip = ramp(*shape)
    write_mp4(tmp_path / "made" / "a.mp4", clip, 12.5)
    back = read_clip(tmp_path / "made" / "a.mp4")
    assert back.shape == (3, shape[1], shape[2] + shape[2] % 2, shape[3] + shape[3] % 2)
    assert (back[..., : shape[2], : shape[3]] - clip).abs().max() < 0.06
    with av.open(str(tmp_path / "made" / "a.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert float(stream.average_rate) == 12.5
    assert [path.name for path in (tmp_path / "made").iterdir()] == ["a.mp4"]


def test_without_h264_it_is_mpeg4(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(av, "codecs_available", {"mpeg4"})
    write_mp4(tmp_path / "a.mp4", ramp(3, 5, 33, 32))
    assert (read_clip(tmp_path / "a.mp4")[:, :, :33] - ramp(3, 5, 33, 32)).abs().max() < 0.1


def test_gif_gives_back_the_clip_and_its_length(tmp_path: Path) -> None:
    clip = ramp(3, 7, 6, 10)
    write_gif(tmp_path / "a.gif", clip, 12)
    assert (read_clip(tmp_path / "a.gif") - clip).abs().max() < 0.05
    with Image.open(tmp_path / "a.gif") as file:
        durations = [file.seek(index) or file.info["duration"] for index in range(7)]
    assert sum(durations) == 580, "7/12 s in hundredths"
    assert set(durations) == {80, 90}


def test_what_cannot_be_written_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_mp4(tmp_path / "a.mp4", ramp(3, 2, 16, 16))
    before = (tmp_path / "a.mp4").read_bytes()
    monkeypatch.setattr("dfm_core.clips.Fraction", lambda rate: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_mp4(tmp_path / "a.mp4", ramp(3, 2, 16, 16))
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]
    assert (tmp_path / "a.mp4").read_bytes() == before
    for wrong in (torch.zeros(3, 4, 4), torch.zeros(2, 3, 4, 4), torch.zeros(3, 0, 4, 4)):
        with pytest.raises(DataError, match=r"expected a clip \(1 or 3, T, H, W\) of at least one frame"):
            write_gif(tmp_path / "b.gif", wrong)


def test_a_contact_sheet_has_a_row_for_each_clip() -> None:
    clips = torch.stack([torch.full((3, 4, 5, 6), value) for value in (-1.0, 0.0)])
    clips[:, :, -1] = 0.5
    sheet = contact_sheet(clips, padding=1)
    assert sheet.shape == (2 * 6 + 1, 4 * 7 + 1, 3)
    assert sheet[3, [3, 10, 17, 24], 0].tolist() == [0, 0, 0, 191]
    assert sheet[9, [3, 10, 17, 24], 0].tolist() == [128, 128, 128, 191]
    fewer = contact_sheet(list(clips), columns=2, padding=0)
    assert fewer.shape == (10, 12, 3)
    assert fewer[2, [2, 8], 0].tolist() == [0, 191], "the first and the last"
    with pytest.raises(DataError, match=r"clips of one shape, at least one, got \[\(3, 4, 5, 6\), \(3, 2, 5, 6\)\]"):
        contact_sheet([clips[0], clips[0][:, :2]])
    with pytest.raises(DataError, match="at least one"):
        contact_sheet([])
