"""Images and clips where the other is expected: one error that names what fits, asked of what components declare."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch

import dfm_core as dfm
from dfm_core.assembly import Assembler, with_objects
from dfm_core.comparison.config import ComparisonConfig
from dfm_core.comparison.plan import make_plan
from dfm_core.config.resolve import ConfigRequest, resolve_config
from dfm_core.errors import CompositionError, UsageError
from dfm_core.evaluation.evaluation import EvaluationSettings, evaluate_model
from dfm_core.images import save_png, to_pixels
from dfm_core.interfaces.backbone import Backbone
from dfm_core.media import check_metrics_fit, measured_medium, measured_size
from dfm_core.plugins.registry import Registry, default_registry
from dfm_core.training.distributed import World

CLIPS: dict[str, Any] = {"stages": ["4x8x8", "4x16x16"], "dataset": "moving_shapes", "backbone": "video_dit"}


def assembler(objects: dict[str, Any] | None = None, **values: Any) -> Assembler:
    registry = default_registry()
    config = resolve_config(ConfigRequest(values={"device": "cpu", **values}), registry).config
    return Assembler(with_objects(config, objects or {}), registry, objects)


def refusal(**values: Any) -> str:
    with pytest.raises(CompositionError) as caught:
        assembler(**values).check_media()
    return str(caught.value)


def test_clips_for_components_of_images() -> None:
    assert refusal(stages=["4x8x8", "4x16x16"]).splitlines() == [
        "the stages 4x8x8,4x16x16 are those of clips (frames × height × width), which not every component takes:",
        "dataset 'shapes' is for images; for clips: moving_shapes, video_folder (--dataset)",
        "backbone 'dit' is for images; for clips: video_dit, dit_experts, pyramid_dit (--backbone)",
    ]


def test_images_for_components_of_clips() -> None:
    lines = refusal(stages=[8, 16], dataset="moving_shapes", backbone="video_dit").splitlines()
    assert lines[0] == "the stages 8,16 are those of images (height × width; --frames 8 would make clips of 8 frames):"
    assert lines[1] == (
        "dataset 'moving_shapes' is for clips; for images: shapes, folder, webdataset, hugging_face (--dataset)"
    )
    assert (
        lines[2]
        == "backbone 'video_dit' is for clips; for images: dit, dit_growing, dit_experts, pyramid_dit (--backbone)"
    )
    assert len(lines) == 3


def test_what_fits_together_passes() -> None:
    assembler().check_media()
    assembler(**CLIPS).check_media()
    assembler(**{**CLIPS, "dataset": {"name": "webdataset", "options": {"path": "latents"}}}).check_media()


def test_every_door_is_guarded() -> None:
    values: dict[str, Any] = {"stages": ["4x8x8", "4x16x16"], "device": "cpu"}
    with pytest.raises(CompositionError, match="backbone 'dit' is for images"):
        dfm.build(**values, dataset="moving_shapes")
    with pytest.raises(CompositionError, match="dataset 'shapes' is for images"):
        dfm.train(**values, backbone="video_dit", quiet=True)
    with pytest.raises(CompositionError, match="dataset 'shapes' is for images"):
        assembler(**values).dataset()


NETWORK = """
from dfm_core.plugins import BackboneSpec, Options, hookimpl

DFM_PLUGIN_API = 1


@hookimpl
def dfm_backbones():
    address = "dfm_plugins.backbones.video_dit:VideoDiT"
    clips = frozenset({"video"})
    return [BackboneSpec("flat", "Of images.", address), BackboneSpec("deep", "Of clips.", address, media=clips)]
"""


def test_components_of_other_plugins_are_asked_what_they_declare(tmp_path: Path) -> None:
    (tmp_path / "acme.py").write_text(NETWORK)
    registry = Registry.discover({}, files=[tmp_path / "acme.py"])

    def made(name: str) -> Assembler:
        values = {**CLIPS, "backbone": name, "device": "cpu"}
        return Assembler(resolve_config(ConfigRequest(values=values), registry).config, registry)

    made("acme/deep").check_media()
    with pytest.raises(
        CompositionError, match=r"'acme/flat' is for images; for clips: video_dit, dit_experts, pyramid_dit, acme/deep"
    ):
        made("acme/flat").check_media()


class Anything(Backbone):
    """Declares nothing, as objects do."""

    def forward(self, noisy_stages: Any, t: Any, visible: Any, conditioning: Any) -> Any:
        return tuple(noisy_stages)


def test_an_object_is_not_asked() -> None:
    made = assembler({"backbone": Anything}, **{**CLIPS, "backbone": "dit"})
    made.check_media()


def test_images_are_clips_of_one_frame() -> None:
    made = assembler(stages=["1x8x8", "1x16x16"], backbone="video_dit")
    made.check_media()
    dataset = made.dataset()
    assert dataset.facts.size == (16, 16)
    assert torch.as_tensor(dataset.load(0, 0)["image"]).shape == (3, 16, 16)
    assert assembler(**CLIPS).dataset().facts.size == (4, 16, 16)


def test_training_a_model_of_clips_on_images() -> None:
    network = {"name": "video_dit", "options": {"depth": 1, "width": 32, "heads": 2}}
    model = dfm.build(frames=1, stages=[8, 16], backbone=network, device="cpu", flow={"statistics_images": 4})
    assert [tuple(stage.shape) for stage in model.composition.layout] == [(3, 1, 8, 8), (3, 1, 16, 16)]
    assert model.generate(2).shape == (2, 3, 1, 16, 16)


def test_shards_of_images_in_a_run_of_clips(tmp_path: Path) -> None:
    save_png(tmp_path / "0.png", to_pixels(torch.zeros(3, 16, 16)))
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.add(tmp_path / "0.png", "0.png")
    choice = {"name": "webdataset", "options": {"path": str(tmp_path / "a.tar"), "cache": str(tmp_path / "cache")}}
    with pytest.raises(UsageError, match="of clips it reads latents only"):
        assembler(**{**CLIPS, "dataset": choice}).dataset()


TINY = {"depth": 1, "width": 32, "heads": 2}
SMALL_CLIPS = {**CLIPS, "backbone": {"name": "video_dit", "options": TINY}, "flow": {"statistics_images": 2}}
SMALL_IMAGES = {"stages": [8, 16], "backbone": {"name": "dit", "options": TINY}}


def test_metrics_of_images_for_clips_and_the_reverse(tmp_path: Path) -> None:
    model = dfm.build(**SMALL_CLIPS, device="cpu")
    with pytest.raises(CompositionError) as caught:
        evaluate_model(model, tmp_path, EvaluationSettings(metrics={"fid": {}, "spectrum": {}, "is": {}}), World())
    assert str(caught.value).splitlines() == [
        "clips of 4x16x16 are measured, which not every metric takes:",
        "metric 'fid' is for images",
        "metric 'is' is for images",
        "for clips: swd, spectrum, fd, motion, frame_fid, fvd, precision_recall (--metrics)",
    ]
    assert not list(tmp_path.iterdir())
    for base, names in ((SMALL_IMAGES, ["motion"]), (SMALL_CLIPS, ["fid"])):
        metrics = [{"name": name, "options": {"path": "x"} if name == "fid" else {}} for name in names]
        asked = {"base": base, "variants": {"a": {}}, "budget": {"steps": 1}, "evaluation": {"metrics": metrics}}
        with pytest.raises(CompositionError, match=f"metric '{names[0]}' is for"):
            make_plan(ComparisonConfig.model_validate(asked), default_registry())


def test_a_comparison_of_clips_has_their_metrics() -> None:
    settings = {"base": SMALL_CLIPS, "variants": {"a": {}}, "budget": {"steps": 1}}
    plan = make_plan(ComparisonConfig.model_validate(settings), default_registry())
    assert [metric.name for metric in plan.metrics] == ["swd", "spectrum", "fd", "motion"]


def test_a_clip_of_one_frame_is_measured_as_an_image() -> None:
    assert measured_size((1, 16, 24)) == measured_size((16, 24)) == (16, 24)
    assert [measured_medium(size) for size in ((1, 8, 8), (8, 8), (2, 8, 8))] == ["image", "image", "video"]
    check_metrics_fit(["swd", "fid"], (1, 16, 16), default_registry())
