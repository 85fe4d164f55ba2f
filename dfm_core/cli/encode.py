"""`dfm encode`: pictures or clips to latents, once, so that training need not encode them again and again."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from dfm_core.cli.command import Json, command
from dfm_core.cli.early_checks import check_data, check_device
from dfm_core.cli.flags import ConfigFlags, resolve_flags
from dfm_core.cli.interrupt import INTERRUPTED, termination_as_interrupt
from dfm_core.cli.launch import Nproc, is_first_process, is_launcher, launch
from dfm_core.cli.output import info, output_options, print_json, warning
from dfm_core.config.sizes import write_size
from dfm_core.errors import UsageError

if TYPE_CHECKING:
    from dfm_core.config.run_config import RunConfig
    from dfm_core.encoding import EncodingSettings, Progress
    from dfm_core.latent_shards import LatentShards


@command
def encode(
    flags: ConfigFlags,
    images: Annotated[
        str | None, typer.Argument(help="The images or clips: the same as --data.", metavar="DATA")
    ] = None,
    split: Annotated[Literal["train", "validation"], typer.Option(help="Which part of the data set.")] = "train",
    precision: Annotated[
        Literal["float16", "float32"], typer.Option(help="Type in which latents are stored.")
    ] = "float16",
    flip: Annotated[bool, typer.Option("--flip", help="Store everything a second time, mirrored.")] = False,
    shard_size: Annotated[int, typer.Option(help="Images or clips of a shard.", min=1)] = 1000,
    nproc: Nproc = None,
    json: Json = False,
) -> None:
    """Store images or clips as latents.

    Writes tar shards to the folder --output: the images or clips at the finest stage's size, encoded by --autoencoder.
    The same command goes on with a folder that is not complete.
    """
    if images is not None and flags.data is not None:
        raise UsageError(f"the data is given twice, {images} and --data {flags.data}; give it once")
    if is_launcher(nproc) and nproc is not None:
        raise typer.Exit(launch(nproc))
    config = resolve_flags(dataclasses.replace(flags, data=images or flags.data), check=check_data).config
    if config.output is None:
        raise UsageError("expected a folder for the latents: --output FOLDER")
    check_device(config.device)
    say = info if is_first_process() else ignore
    say("preparing data and autoencoder …")
    from dfm_core.encoding import EncodingSettings

    begin = time.perf_counter()
    try:
        with termination_as_interrupt():
            shards = encode_images(config, EncodingSettings(split, precision, flip, shard_size), say)
    except KeyboardInterrupt:
        if is_first_process():
            print("stopped; finished shards stay, and the same command goes on", flush=True)
        raise typer.Exit(INTERRUPTED) from None
    if is_first_process():
        seconds = time.perf_counter() - begin
        if json:
            print_json(result(Path(config.output), shards, seconds))
        else:
            say_result(Path(config.output), shards, seconds)


def encode_images(config: RunConfig, settings: EncodingSettings, say: Callable[[str], None]) -> LatentShards:
    """Write the shards; with several processes, each its own."""
    from dfm_core.assembly import Assembler
    from dfm_core.devices import resolve_device
    from dfm_core.encoding import Encoding
    from dfm_core.media import media_noun
    from dfm_core.plugins.registry import default_registry
    from dfm_core.training.distributed import joined_world

    with joined_world(resolve_device(config.device)) as world:
        encoding = Encoding(Assembler(config, default_registry()), settings, world.device)
        noun = media_noun(config)
        say(f"{len(encoding.dataset)} {noun} of {write_size(config.stages[-1])} pixels; on {world.device}")
        say(f"latents {write_size(encoding.latent_shape)} of {encoding.autoencoder.key}")
        return encoding.write(Path(str(config.output)), world, warning, reporter(say, noun))


def ignore(message: str) -> None:
    """Say nothing: the first process speaks for all."""


def reporter(say: Callable[[str], None], noun: str) -> Callable[[Progress], None]:
    """Return a function that tells how far this process is when a shard is finished. noun: images or clips."""
    begin, told = time.perf_counter(), 0

    def report(progress: Progress) -> None:
        nonlocal told
        if progress.shards == told:
            return
        told = progress.shards
        speed = progress.images / (time.perf_counter() - begin)
        done = f"shard {progress.shards}/{progress.num_shards}  {progress.images} of {progress.num_images} {noun}"
        say(f"{done}  {speed:.3g} {noun}/s")

    return report


def result(folder: Path, shards: LatentShards, seconds: float) -> dict[str, object]:
    """What lies in the folder now, for JSON."""
    made = {"latents": sum(shards.shards.values()), "shards": len(shards.shards), "unreadable": shards.unreadable}
    return {"folder": str(folder), **made, "autoencoder": shards.autoencoder, "seconds": seconds}


def say_result(folder: Path, shards: LatentShards, seconds: float) -> None:
    """Print what lies in the folder now, and unless --quiet how to train on it."""
    latents, number = sum(shards.shards.values()), len(shards.shards)
    if shards.unreadable:
        noun = "clip" if len(shards.size or ()) == 3 else "image"
        print(f"{shards.unreadable} unreadable {noun}{'s' * (shards.unreadable != 1)} skipped")
    print(f"{latents} latents in {number} shard{'s' * (number != 1)} lie in {folder}; {seconds:.1f} s")
    if not output_options().quiet:
        print(
            f"train on them with:  dfm train --dataset {' or '.join(readers())} --data {folder}  (same --autoencoder)"
        )


def readers() -> list[str]:
    """Names of the data sets that read latents."""
    from dfm_core.plugins.registry import default_registry

    registry = default_registry()
    specs = {name: registry.get("dataset", name).spec for name in registry.names("dataset")}
    return [name for name, spec in specs.items() if "latent" in getattr(spec, "media", ())]
