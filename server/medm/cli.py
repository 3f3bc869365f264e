"""The command `medm`: the server, and every step of the work on folders, for scripts and farms.

Results go to standard output; progress goes to standard error, as a bar on a terminal and as lines `medm_progress 0.42 phase`
elsewhere. Exit codes: 0 done, 2 bad input, 3 server or model not available, 130 interrupted, 1 anything else.
"""

from __future__ import annotations

import argparse
import json
import sys
import typing
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

import medm
from medm.errors import BadInput, MedmError
from medm.presets import PRESETS, default_models, preset_of
from medm.progress import Progress, part
from medm.settings import RenderSettings

if TYPE_CHECKING:
    from medm.correspondence import Correspondence
    from medm.shot import GBuffer, Shot

# The steps import numpy, torch and the web server only when they run: `medm --help` should not wait for them.


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except MedmError as error:
        print(f"medm: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("medm: interrupted", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="medm", description=medm.__doc__)
    parser.add_argument("--version", action="version", version=f"medm {medm.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    serve = commands.add_parser("serve", help="take jobs from Blender over HTTP")
    serve.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s, this machine only)")
    serve.add_argument("--port", type=int, default=8765, help="port to listen on, 0 for any free one (default: %(default)s)")
    serve.add_argument("--store", type=Path, metavar="DIR", help="folder for shots, jobs and takes (default: the user's data folder)")
    serve.add_argument("--token-file", type=Path, metavar="FILE", help="file with the access token, made if absent (default: DIR/token)")
    serve.add_argument("--stop-when-stdin-closes", action="store_true", help="also stop when standard input ends: never outlive the caller")
    serve.add_argument(
        "--stop-when-unused", action="store_true", help="also stop when no Blender of this machine needs it and no job is left to do"
    )
    serve.set_defaults(run=_serve)

    render = commands.add_parser("render", help="paint a shot", argument_default=argparse.SUPPRESS)
    _add_shot(render)
    render.add_argument("-o", "--out", type=Path, required=True, metavar="TAKE", help="folder of the take")
    _add_settings(render)
    render.set_defaults(run=_render)

    plan = commands.add_parser(
        "plan", help="how a shot would be rendered on this machine, and what memory that takes", argument_default=argparse.SUPPRESS
    )
    _add_shot(plan)
    _add_settings(plan, _PLANNED)
    _add_models(plan)
    plan.set_defaults(run=_plan)

    codes = commands.add_parser("codes", help="which surface point every pixel shows (codes, birth_frame, birth_xy, facts of each code)")
    _add_shot(codes)
    _add_npz(codes)
    codes.add_argument("--coding", choices=_choices("coding"), default=_default("coding"), help="default: %(default)s")
    codes.add_argument(
        "--reidentify", action=argparse.BooleanOptionalAction, default=_default("reidentify"), help="points seen again take their old code"
    )
    codes.add_argument(
        "--distant", type=_distance, default=0, metavar="D", help="rounded coding with equation 11's flows, D frames further"
    )
    codes.add_argument("--anchor", choices=("first", "last"), default="first", help="frame to start from (default: %(default)s)")
    codes.set_defaults(run=_codes)

    occlusion = commands.add_parser("occlusion", help="which pixels have no counterpart in the frame before (occluded)")
    _add_shot(occlusion)
    _add_npz(occlusion)
    occlusion.set_defaults(run=_occlusion)

    evaluate = commands.add_parser("evaluate", help="measure how steady, sharp and true to the light a take is")
    _add_shot(evaluate)
    evaluate.add_argument("take", type=Path, metavar="TAKE", help="folder of the take")
    evaluate.add_argument("--json", action="store_true", help="print a JSON object")
    evaluate.add_argument("--reference", type=Path, metavar="TAKE", help="a take without guidance (w 0, the same noise) to compare with")
    evaluate.add_argument("--estimator", choices=("dis", "none"), default="dis", help="of the flow of the pictures (default: %(default)s)")
    evaluate.add_argument(
        "--flow", type=Path, metavar="DIR", help="instead: folder of .flo files, 0002.flo leading from frame 2 to frame 1"
    )
    evaluate.add_argument("-o", "--out", type=Path, metavar="DIR", help="folder for scan.png and evaluation.json")
    evaluate.set_defaults(run=_evaluate)

    compare = commands.add_parser("compare", help="show and measure takes of a shot side by side")
    _add_shot(compare)
    compare.add_argument("takes", nargs="+", metavar="LABEL=TAKE", help="folders of takes, each with what to call it")
    compare.add_argument("-o", "--out", type=Path, required=True, metavar="DIR", help="folder for contact_sheet.png, scan.png, preview.mp4")
    compare.add_argument("--json", action="store_true", help="print a JSON object")
    compare.set_defaults(run=_compare)

    imports = commands.add_parser("import", help="make a shot of a clip of MPI Sintel or Virtual KITTI 2")
    imports.add_argument("clip", type=Path, metavar="FOLDER", help="training/final/SCENE, or SceneNN/VARIATION")
    imports.add_argument("-o", "--out", type=Path, required=True, metavar="SHOT", help="folder of the shot, empty or not there yet")
    imports.add_argument("--first", type=int, metavar="N", help="number of the first frame (default: the clip's)")
    imports.add_argument("--last", type=int, metavar="N", help="number of the last frame (default: the clip's)")
    imports.add_argument("--camera", type=int, choices=(0, 1), default=0, help="of Virtual KITTI 2: 0 left, 1 right (default: %(default)s)")
    imports.set_defaults(run=_import)

    inspect = commands.add_parser("inspect", help="show a shot's motion, codes and control images, and warn of what would spoil a take")
    _add_shot(inspect)
    inspect.add_argument(
        "-o", "--out", type=Path, required=True, metavar="DIR", help="folder for index.html, numbers.json and the pictures"
    )
    inspect.add_argument("--paint", metavar="NAMES", help="also show what this selection would have painted, as in `medm render --paint`")
    inspect.set_defaults(run=_inspect)

    models = commands.add_parser("models", help="what to paint with").add_subparsers(required=True, metavar="COMMAND")
    models_list = models.add_parser("list", help="the models that are there and those that can be pulled: licence, memory, whether it fits")
    _add_models(models_list)
    models_list.set_defaults(run=_list_models)
    pull = models.add_parser("pull", help="fetch a preset's files from the hub, after showing source, size and licence")
    pull.add_argument("name", metavar="NAME", help="a preset of `medm models list`")
    pull.add_argument("--control", metavar="KINDS", help="of its ControlNets only those for these kinds of control images: lineart,depth")
    pull.add_argument("--reference", action="store_true", help="also the IP-Adapter, which follows a reference picture")
    pull.add_argument("--yes", action="store_true", help="do not ask: agree to the licence and the size")
    _add_models(pull)
    pull.set_defaults(run=_pull_model)
    check = models.add_parser("check", help="whether a model's files are whole and fit each other and this machine")
    check.add_argument("name", metavar="NAME|FOLDER", help="a preset, a diffusers folder or a .safetensors file")
    _add_models(check)
    check.set_defaults(run=_check_model)
    return parser


def _add_shot(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shot", type=Path, metavar="SHOT", help="shot folder, as Blender exports it")


def _add_models(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--models", type=Path, metavar="DIR", help="folder of models, STORE/models for a server (default: MEDM_MODELS, the user's)"
    )


def _add_npz(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="F.npz", help="NumPy file to write")


def _distance(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of frames, 1 or more")
    return int(text)


_PLANNED = ("model", "control", "guidance_scale", "mode", "paint", "w", "harmonisation", "precision", "window")
"""Settings that memory depends on."""


def _add_settings(parser: argparse.ArgumentParser, names: Sequence[str] = tuple(RenderSettings.model_fields)) -> None:
    """One flag for each of these fields of RenderSettings; what is not given is left to the settings' own default."""
    for name in names:
        field = RenderSettings.model_fields[name]
        flag = f"--{name.replace('_', '-')}"
        help_text = " ".join(filter(None, (field.description, f"(default: {_shown(field.default)})"))).replace("%", "%%")
        if field.annotation is bool:
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, help=help_text)
        elif typing.get_origin(field.annotation) is typing.Literal:
            parser.add_argument(flag, choices=_choices(name), help=help_text)
        else:
            parser.add_argument(flag, metavar=name.upper(), help=help_text)


def _shown(value: object) -> str:
    return "the model's own" if value is None else repr(value) if value == "" else str(value)


def _choices(name: str) -> tuple[str, ...]:
    return typing.get_args(RenderSettings.model_fields[name].annotation)


def _default(name: str) -> Any:
    return RenderSettings.model_fields[name].default


def _serve(options: argparse.Namespace) -> None:
    import platformdirs

    from medm.service.server import serve

    if not 0 <= options.port <= 65535:
        raise BadInput(f"--port {options.port}: a port is a number from 0 to 65535")
    serve(
        host=options.host,
        port=options.port,
        store_folder=options.store or platformdirs.user_data_path("medm", appauthor=False) / "server",
        token_file=options.token_file,
        stop_when_stdin_closes=options.stop_when_stdin_closes,
        stop_when_unused=options.stop_when_unused,
    )


def _render(options: argparse.Namespace) -> None:
    from medm.service.documents import read_settings

    settings = read_settings(_given(options))
    preset_of(settings.model).check()

    from medm.shot import Shot

    shot = Shot.open(options.shot)

    from medm.diffusion.rendering import render_take  # brings torch, which takes seconds: refuse what can be refused before

    with _shown_progress() as progress:
        render_take(shot, settings, options.out, progress)
    print(options.out)


def _given(options: argparse.Namespace) -> dict[str, str]:
    return {name: getattr(options, name) for name in RenderSettings.model_fields if hasattr(options, name)}


def _plan(options: argparse.Namespace) -> None:
    from medm.service.documents import read_settings

    settings = read_settings(_given(options))

    from medm.shot import Shot

    shot = Shot.open(options.shot)

    from medm.diffusion.models import best_device
    from medm.diffusion.plan import ModelFacts, plan

    width, height = shot.size
    device = best_device()
    print(plan(len(shot), height, width, ModelFacts.wanted(settings, device, getattr(options, "models", None)), device, settings))


def _codes(options: argparse.Namespace) -> None:
    from medm.correspondence.facts import gather_facts

    if options.distant and options.coding != "rounded":
        raise BadInput("--distant belongs to --coding rounded; sub-pixel codes come back by --reidentify")
    with _shown_progress() as progress:
        shot, gbuffer, found = _analysed(
            options.shot,
            part(progress, 0.0, 0.9),
            coding=options.coding,
            reidentify=options.reidentify,
            distant=options.distant,
            anchor=options.anchor,
        )
        facts = gather_facts(found.codes, gbuffer, shot.cameras, part(progress, 0.9, 1.0))
    of_each_code = ("last_frame", "length", "frames", "mean_footprint", "finest_footprint", "mean_facing")
    _write_npz(options.out, **vars(found.codes), **{name: getattr(facts, name) for name in of_each_code})


def _occlusion(options: argparse.Namespace) -> None:
    with _shown_progress() as progress:
        _, _, found = _analysed(options.shot, progress, coding="rounded")
    _write_npz(options.out, occluded=found.occluded)


def _analysed(folder: Path, progress: Progress, **coding: Any) -> tuple[Shot, GBuffer, Correspondence]:
    import torch

    from medm.correspondence import analyse
    from medm.shot import Shot

    shot = Shot.open(folder)
    gbuffer = shot.gbuffer(part(progress, 0.0, 0.5))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return shot, gbuffer, analyse(shot, gbuffer, progress=part(progress, 0.5, 1.0), device=device, **coding)


def _write_npz(path: Path, **arrays: Any) -> None:
    import numpy as np

    aside = path.with_name(f".{path.name}.part")
    try:
        with aside.open("wb") as file:  # given a name, NumPy would put .npz behind it
            np.savez_compressed(file, **arrays)
        aside.replace(path)
    except OSError as error:
        raise BadInput(f"{path} cannot be written: {error.strerror}") from error
    finally:
        aside.unlink(missing_ok=True)
    print(path)


def _evaluate(options: argparse.Namespace) -> None:
    from medm.evaluate import evaluate, table
    from medm.shot import Shot

    shot = Shot.open(options.shot)
    with _shown_progress() as progress:
        result: dict[str, Any] = evaluate(
            shot,
            options.take,
            progress,
            estimator=options.estimator,
            flow=options.flow,
            reference=options.reference,
            out=options.out,
        )
    if options.json:
        print(json.dumps(result, indent=2))
        return
    print(table({label: result[label] for label in ("take", "beauty", "reference") if result[label]}, line="metric"))
    for name, ratio in (result["ratios"] or {}).items():
        print(f"{name.replace('_', ' ')}, take to reference: {'-' if ratio is None else f'{ratio:.3f}'}")


def _compare(options: argparse.Namespace) -> None:
    from medm.compare import compare
    from medm.evaluate import table
    from medm.shot import Shot

    takes: dict[str, Path] = {}
    for given in options.takes:
        label, _, folder = given.partition("=")  # a folder's name may hold one too
        if not folder or not label or label in takes:
            raise BadInput(f"{given!r} does not name a take; write LABEL=FOLDER, every label once")
        takes[label] = Path(folder)
    shot = Shot.open(options.shot)
    with _shown_progress() as progress:
        metrics = compare(shot, takes, options.out, progress)
    print(json.dumps(metrics, indent=2) if options.json else table(metrics, line="clip"))


def _import(options: argparse.Namespace) -> None:
    from medm.datasets import open_clip
    from medm.datasets.writing import write_shot

    clip = open_clip(options.clip, camera=options.camera, first=options.first, last=options.last)
    with _shown_progress() as progress:
        write_shot(clip, options.out, progress)
    for note in clip.notes:
        print(f"note: {note}", file=sys.stderr)
    print(options.out)


def _inspect(options: argparse.Namespace) -> None:
    from medm.inspection import inspect_shot
    from medm.shot import Shot

    shot = Shot.open(options.shot)
    with _shown_progress() as progress:
        figures = inspect_shot(shot, options.out, progress, options.paint)
    for warning in figures["warnings"]:
        print(f"warning: {warning['message']}")
    print(options.out / "index.html")


def _list_models(options: argparse.Namespace) -> None:
    from medm.library import known_models, licence_of, this_device

    device = this_device()
    print(f"{device.name}: {device.memory_gb:.0f} GB\n")
    print(f"{'model':16} {'':14} {'memory':>7} {'':9} licence, what it is")
    for preset in known_models(options.models):
        there = "there" if preset.available else f"pull: {preset.download_gb:.1f} GB"
        fits = "" if device.fits(preset) else "too large"
        print(f"{preset.name:16} {there:14} {device.needs(preset):4.0f} GB {fits:9} {licence_of(preset)}; {preset.description}")


def _pull_model(options: argparse.Namespace) -> None:
    from medm.hub import fetch, files_of, missing_of

    if options.name not in PRESETS:
        near = get_close_matches(options.name, PRESETS, n=1)
        what = f"did you mean {near[0]}?" if near else f"there are {', '.join(PRESETS)}"
        raise BadInput(f"{options.name!r} cannot be pulled; {what}")
    preset = preset_of(options.name, options.models or default_models())
    kinds = None if options.control is None else [kind.strip() for kind in options.control.split(",")]
    offered = [source.control for source in preset.sources if source.control]
    if kinds is not None and (unknown := [kind for kind in kinds if kind not in offered]):
        raise BadInput(f"{preset.name} has no ControlNet for {', '.join(unknown)}; it has {', '.join(offered) or 'one for all kinds'}")
    if options.reference and not preset.reference:
        raise BadInput(f"{preset.name} has no IP-Adapter")
    if not options.yes and not sys.stdin.isatty():
        raise BadInput("nobody is there to be asked; read the licence in `medm models list` or docs/models.md and give --yes to agree")
    sources = [source for source in preset.sources if source.control is None or kinds is None or source.control in kinds]
    files = files_of([*sources, *(preset.reference if options.reference else ())])
    missing = missing_of(files, preset.folder)
    print(f"{preset.name}: {preset.description}\ninto     {preset.folder}\nfrom     {', '.join(sorted({file.repo for file in files}))}")
    print(f"size     {sum(file.size for file in missing) / 1e9:.2f} GB in {len(missing)} files")
    print(f"licence  {preset.licence}\n         {preset.forbids}")
    if not options.yes and not _agrees("Fetch it under this licence? [y/N] "):
        print("nothing was fetched")
        return
    with _shown_progress() as progress:
        fetch(preset, files, progress)
    print(preset.folder)


def _agrees(question: str) -> bool:
    try:
        return input(question).strip().lower() in ("y", "yes")
    except EOFError:  # Ctrl-D
        print()
        return False


def _check_model(options: argparse.Namespace) -> None:
    from medm.library import check_model_files, licence_of, this_device

    preset = preset_of(options.name, options.models)
    preset.check()
    with _shown_progress() as progress:
        complaints = check_model_files(preset, progress)
    if complaints:
        more = f" (and {len(complaints) - 1} more)" if len(complaints) > 1 else ""
        raise BadInput(f"{preset.folder}: {complaints[0]}{more}")
    device = this_device()
    print(f"{preset.name}: whole, a {preset.family} model in {preset.folder}")
    verdict = f"{'fits' if device.fits(preset) else 'does not fit'} into the {device.memory_gb:.0f} GB of {device.name}"
    print(f"memory   about {device.needs(preset):.0f} GB at {preset.size} x {preset.size}; {verdict}")
    print(f"licence  {licence_of(preset)}\nforbids  {preset.forbids}")


@contextmanager
def _shown_progress() -> Iterator[Progress]:
    """Shows progress on standard error: a bar on a terminal, lines for programs elsewhere."""
    if not sys.stderr.isatty():

        def line(fraction: float, phase: str) -> None:
            print(f"medm_progress {fraction:.4g} {phase}", file=sys.stderr, flush=True)

        yield line
        return

    from tqdm import tqdm  # type: ignore[import-untyped]

    with tqdm(total=1.0, bar_format="{desc:24} {percentage:3.0f}% |{bar}| {elapsed}<{remaining}") as bar:

        def move(fraction: float, phase: str) -> None:
            bar.set_description_str(phase, refresh=False)
            bar.update(fraction - bar.n)

        yield move


if __name__ == "__main__":
    sys.exit(main())
