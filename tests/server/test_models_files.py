"""`medm models list`, `pull` and `check` on a machine whose hub is a small one of its own, with tiny models of the real classes."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from transformers import CLIPTokenizer

import tiny_hub
import tiny_models
from medm.cli import main
from medm.diffusion.models import Model
from medm.diffusion.prompts import PromptSchedule
from medm.errors import BadInput, Unavailable
from medm.presets import BUNDLED, PRESETS, Preset, preset_of
from medm.settings import RenderSettings

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def stored(tmp_path_factory) -> Path:
    """sd15, sdxl and z-image-turbo in miniature, laid out as a pulled preset is."""
    root = tmp_path_factory.mktemp("stored")
    sd15 = tiny_models.write(root / "sd15")
    shutil.rmtree(sd15 / "controlnet")
    index = json.loads((sd15 / "model_index.json").read_text()) | {"_class_name": "StableDiffusionPipeline"}
    (sd15 / "model_index.json").write_text(json.dumps({name: part for name, part in index.items() if name != "controlnet"}))
    for seed, kind in enumerate(PRESETS["sd15"].kinds):
        tiny_models.write_controlnet(sd15 / f"controlnet-{kind}", seed)
    tiny_models.write_tiny_autoencoder(sd15 / "vae_tiny")
    for name in ("sd15-lcm", "sd15-hyper"):
        (sd15 / "lora").mkdir(exist_ok=True)
        tiny_models.write_lora(sd15 / f"lora/{name}.safetensors", sd15, seed=len(name))
    tiny_models.write_ip_adapter(sd15 / "ip_adapter", sd15)
    (sd15 / "ip_adapter/ip-adapter.safetensors").rename(sd15 / "ip_adapter/ip-adapter_sd15.safetensors")
    sdxl = tiny_models.write_sdxl_union(root / "sdxl")
    tiny_models.write_tiny_autoencoder(sdxl / "vae_tiny")
    for folder in (sd15 / "tokenizer", sdxl / "tokenizer", sdxl / "tokenizer_2"):
        as_on_the_hub(folder)
    z_image = tiny_models.write_z_image(root / "z-image-turbo")
    tiny_models.write_tiny_autoencoder(z_image / "vae_tiny", 16)
    return root


def as_on_the_hub(folder: Path) -> None:
    """CLIP's tokenizer in the files that older repositories have: a vocabulary and merges."""
    backend = json.loads((folder / "tokenizer.json").read_text())["model"]
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.json").write_text(json.dumps(backend["vocab"]))
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in backend["merges"]]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
    tokens = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
    (folder / "special_tokens_map.json").write_text(json.dumps(tokens))
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 16, "tokenizer_class": "CLIPTokenizer", **tokens}))
    assert CLIPTokenizer.from_pretrained(folder)("a gold sculpture").input_ids == (
        CLIPTokenizer.from_pretrained(BUNDLED.folder / "tokenizer")("a gold sculpture").input_ids
    )


@pytest.fixture
def hub(stored) -> Iterator[tiny_hub.TinyHub]:
    repos: dict[str, dict[str, Path]] = {}
    for preset in PRESETS.values():
        for source in (*preset.sources, *preset.reference):
            repo = repos.setdefault(source.repo, {"README.md": Path(__file__)})
            for there, here in source.files:
                found = sorted((stored / preset.folder / here).glob("*")) if there.endswith("*") else [stored / preset.folder / here]
                for file in found:
                    if file.is_file():
                        repo[there.removesuffix("*") + file.name if there.endswith("*") else there] = file
    with tiny_hub.serve(tiny_hub.TinyHub(repos)) as running:
        yield running


@pytest.fixture
def pull(hub, tmp_path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs `medm models pull` in a process of its own, into tmp_path / "models"."""

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        names = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "cache"), "MEDM_MODELS": str(tmp_path / "models"), **environment}
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_"))}
        return subprocess.run(
            [sys.executable, "-m", "medm.cli", "models", "pull", *arguments],
            env=inherited | names,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
        )

    return run


def installed(name: str, tmp_path: Path) -> Preset:
    return preset_of(name, tmp_path / "models")


def test_a_preset_is_pulled_checked_and_paints(pull, hub, stored, tmp_path, monkeypatch, capsys):
    done = pull("sd15", "--yes")
    assert done.returncode == 0, done.stderr
    for says in ("lllyasviel/control_v11p_sd15_lineart", "CreativeML OpenRAIL-M", "break the law", "size     0.00 GB in 24 files"):
        assert says in done.stdout
    assert done.stdout.splitlines()[-1] == str(tmp_path / "models/sd15")
    assert "medm_progress 1 done" in done.stderr
    folder = tmp_path / "models/sd15"
    for file in sorted(folder.rglob("*")):
        if file.is_file() and file.name != "medm.json":
            assert file.read_bytes() == (stored / "sd15" / file.relative_to(folder)).read_bytes()
    assert {path.name for path in (tmp_path / "models").iterdir()} == {"sd15", ".pulling"}
    assert not list((tmp_path / "models/.pulling").iterdir())

    monkeypatch.setenv("MEDM_MODELS", str(tmp_path / "models"))
    assert main(["models", "check", "sd15"]) == 0
    assert "sd15: whole, a stable-diffusion model" in (said := capsys.readouterr().out) and "about 12 GB at 512 x 512" in said
    assert main(["models", "list"]) == 0
    assert next(line for line in capsys.readouterr().out.splitlines() if line.startswith("sd15 ")).split()[1] == "there"
    model = Model.load(RenderSettings(model="sd15", control="lineart@2:0.8, normal-bae"))
    assert model.has_tiny and [one.kinds for one in model.controls] == [("lineart@2",), ("normal-bae",)]
    conditioning = model.embed(PromptSchedule.parse("gold"), [1], "")
    control = [torch.rand(1, 3, 32, 32)] * 2
    assert model.predict(torch.randn(1, 4, 4, 4), torch.tensor(900), control, conditioning, 7.5).isfinite().all()


def test_a_variant_takes_the_base_that_is_there_and_its_own_sampler(pull, hub, tmp_path):
    assert pull("sd15", "--yes", "--control", "depth").returncode == 0
    assert sorted(path.name for path in (tmp_path / "models/sd15").glob("controlnet*")) == ["controlnet-depth"]
    assert installed("sd15", tmp_path).available  # one ControlNet is enough
    hub.requests.clear()
    assert pull("sd15-hyper", "--yes", "--control", "depth").returncode == 0
    assert [path for command, path, _ in hub.requests if command == "GET" and "/resolve/" in path] == [
        f"ByteDance/Hyper-SD/resolve/{tiny_hub.COMMIT}/Hyper-SD15-4steps-lora.safetensors"
    ]
    settings = RenderSettings(model="sd15-hyper", control="depth")
    model = Model.load(settings, tmp_path / "models")
    assert (model.steps, model.guidance_scale, model.scheduler().config.timestep_spacing) == (4, 1.0, "trailing")
    plain = Model.load(settings.model_copy(update={"model": "sd15"}), tmp_path / "models")
    assert (plain.steps, plain.sampler) == (20, "dpm++")
    weights = [one.network.state_dict()["mid_block.attentions.0.transformer_blocks.0.attn1.to_q.weight"] for one in (model, plain)]
    assert not torch.equal(*weights)  # the LoRA is merged in
    with pytest.raises(Unavailable, match="has no ControlNet for lineart, but for depth"):
        Model.load(settings.model_copy(update={"control": None}), tmp_path / "models")


def test_the_ip_adapter_comes_when_asked_for(pull, tmp_path):
    from PIL import Image

    assert pull("sd15", "--yes", "--control", "lineart", "--reference").returncode == 0
    model = Model.load(RenderSettings(model="sd15"), tmp_path / "models", Image.new("RGB", (32, 32), "red"))
    assert model.reference is not None


@pytest.mark.parametrize("name", ["sdxl", "z-image-turbo"])
def test_the_other_families_are_pulled_and_load(pull, tmp_path, monkeypatch, capsys, name):
    done = pull(name, "--yes")
    assert done.returncode == 0, done.stderr
    monkeypatch.setenv("MEDM_MODELS", str(tmp_path / "models"))
    assert main(["models", "check", name]) == 0, capsys.readouterr().err
    model = Model.load(RenderSettings(model=name))
    assert model.controls and model.has_tiny and model.preset.available


def test_nothing_is_fetched_where_nobody_can_agree(pull, hub, tmp_path):
    done = pull("sd15")
    assert (done.returncode, hub.requests) == (2, [])
    assert "--yes to agree" in done.stderr and done.stderr.count("\n") == 1
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize(("answer", "fetched"), [("y\n", True), ("no\n", False), ("\n", False), ("\x04", False)])
def test_who_is_asked_decides(hub, tmp_path, monkeypatch, capsys, answer, fetched):
    import pty

    environment = os.environ | {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "cache"), "MEDM_MODELS": str(tmp_path / "models")}
    environment.pop("HF_HUB_OFFLINE", None)
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "medm.cli", "models", "pull", "sd15", "--control", "depth"]
    process = subprocess.Popen(command, env=environment, stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    os.write(ours, answer.encode())
    out, err = process.communicate()
    os.close(ours), os.close(theirs)
    assert process.returncode == 0, err
    assert ("nothing was fetched" not in out) == fetched == installed("sd15", tmp_path).available


def test_an_interrupted_pull_goes_on_where_it_was(pull, hub, tmp_path):
    large = tmp_path / "large.safetensors"
    large.write_bytes(os.urandom(2**20) * 24)
    hub.repos["ByteDance/Hyper-SD"]["Hyper-SD15-4steps-lora.safetensors"] = large
    hub.break_after = 2**20 * 21
    done = pull("sd15-hyper", "--yes", "--control", "depth")
    assert done.returncode == 3
    assert "pull again to go on" in done.stderr.splitlines()[-1]
    target = tmp_path / "models/sd15/lora/sd15-hyper.safetensors"
    assert not target.exists() and not installed("sd15-hyper", tmp_path).available
    hub.break_after, hub.down = None, False
    hub.requests.clear()
    assert pull("sd15-hyper", "--yes", "--control", "depth").returncode == 0
    got = [(path.rpartition("/")[2], span) for _, path, span in hub.requests if "/resolve/" in path]
    assert got == [("Hyper-SD15-4steps-lora.safetensors", f"bytes={2 * 10 * 2**20}-")]  # the hub's library keeps blocks of 10 MiB
    assert target.read_bytes() == large.read_bytes()


def test_what_the_hub_has_changed_is_fetched_again_and_what_was_not_fetched_is_not_noted_anew(pull, hub, tmp_path, monkeypatch):
    repo, name = "lllyasviel/control_v11f1p_sd15_depth", "diffusion_pytorch_model.fp16.safetensors"
    assert pull("sd15", "--yes", "--control", "depth").returncode == 0
    folder = tmp_path / "models/sd15"
    weights, config = (folder / f"controlnet-depth/{file}" for file in ("diffusion_pytorch_model.safetensors", "config.json"))
    data = weights.read_bytes()
    changed = tmp_path / "changed.safetensors"
    changed.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))  # of the same size
    hub.repos[repo][name] = changed
    noted = json.loads((folder / "medm.json").read_text())["files"]
    hub.requests.clear()
    assert pull("sd15", "--yes", "--control", "depth").returncode == 0
    assert [path for command, path, _ in hub.requests if command == "GET" and "/resolve/" in path] == [
        f"{repo}/resolve/{tiny_hub.COMMIT}/{name}"
    ]
    assert weights.read_bytes() == changed.read_bytes()
    now = json.loads((folder / "medm.json").read_text())["files"]
    assert {path for path in now if now[path] != noted[path]} == {"controlnet-depth/diffusion_pytorch_model.safetensors"}

    monkeypatch.setattr(tiny_hub, "COMMIT", "f" * 40)
    config.write_text(config.read_text().replace(" ", "\t", 1))
    hub.requests.clear()
    assert pull("sd15", "--yes", "--control", "depth").returncode == 0
    assert "\t" not in config.read_text()  # the hub gives no digest of it, so its commit tells
    assert not [path for _, path, _ in hub.requests if path.endswith("safetensors")]

    record = folder / "medm.json"
    noted = json.loads(record.read_text())["files"]
    del noted["controlnet-depth/diffusion_pytorch_model.safetensors"]  # as if copied by hand
    record.write_text(json.dumps({"files": noted}))
    weights.write_bytes(data)
    assert pull("sd15-lcm", "--yes", "--control", "depth").returncode == 0
    assert "controlnet-depth/diffusion_pytorch_model.safetensors" not in json.loads(record.read_text())["files"]
    assert main(["models", "check", str(folder)]) == 0


def test_what_arrived_before_a_pull_broke_off_is_noted(pull, hub, tmp_path):
    del hub.repos["madebyollin/taesd"]
    hub.repos["madebyollin/taesd"] = {
        "config.json": tmp_path / "large.json",
        "diffusion_pytorch_model.safetensors": tmp_path / "large.json",
    }
    (tmp_path / "large.json").write_bytes(b" " * 2**21)
    hub.break_after = 2**20
    assert pull("sd15", "--yes", "--control", "depth").returncode == 3
    noted = json.loads((tmp_path / "models/sd15/medm.json").read_text())["files"]
    assert "controlnet-depth/config.json" in noted and not [name for name in noted if name.startswith("vae_tiny")]


@pytest.mark.parametrize("name", ["..\\..\\evil.json", "C:evil.json", "../evil.json", "/evil.json", "two\nlines.json", "./evil.json"])
def test_a_file_that_would_leave_its_folder_is_not_fetched(pull, hub, tmp_path, name):
    hub.repos["Tongyi-MAI/Z-Image-Turbo"][f"scheduler/{name}"] = Path(__file__)
    done = pull("z-image-turbo", "--yes")
    assert done.returncode == 3 and "which could land anywhere; it is not fetched" in done.stderr and done.stderr.count("\n") == 1
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_file_that_arrives_damaged_is_not_kept(pull, hub, tmp_path):
    hub.damage = True
    done = pull("sd15", "--yes")
    assert done.returncode == 3 and "arrived damaged" in done.stderr.splitlines()[-1]
    assert not list((tmp_path / "models").rglob("sd15/**/*.safetensors"))


def test_a_hub_without_the_repository_or_none_at_all_is_said_in_one_line(pull, hub):
    del hub.repos["madebyollin/taesd"]
    done = pull("sd15", "--yes")
    assert done.returncode == 3 and "does not give madebyollin/taesd" in done.stderr and done.stderr.count("\n") == 1
    del hub.repos["lllyasviel/control_v11p_sd15_seg"]["config.json"]
    done = pull("sd15", "--yes")
    assert done.returncode == 3 and "control_v11p_sd15_seg has no config.json any more" in done.stderr
    done = pull("sd15", "--yes", HF_ENDPOINT="http://127.0.0.1:9")
    assert done.returncode == 3 and done.stderr.count("\n") == 1
    assert re.fullmatch(r"medm: the hub cannot be reached \(.+\): connect, or copy the model by hand \(docs/models\.md\)\n", done.stderr)
    done = pull("sd15", "--yes", HF_HUB_OFFLINE="1")
    assert done.returncode == 3 and "HF_HUB_OFFLINE is set" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["flux"], "'flux' cannot be pulled; there are sd15, sd15-lcm"),
        (["sd-15"], "'sd-15' cannot be pulled; did you mean sd15?"),
        (["sd15", "--control", "canny"], "sd15 has no ControlNet for canny"),
        (["z-image-turbo", "--reference"], "z-image-turbo has no IP-Adapter"),
    ],
)
def test_what_cannot_be_pulled_is_said_before_the_hub_is_asked(capsys, arguments, says):
    assert main(["models", "pull", *arguments, "--yes"]) == 2
    assert says in capsys.readouterr().err


def checked(folder: Path, capsys) -> str:
    assert main(["models", "check", str(folder)]) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("medm_progress")]
    assert len(said) == 1
    return said[0]


def test_check_finds_what_is_broken(stored, pull, tmp_path, capsys):
    assert pull("sd15", "--yes").returncode == 0
    pulled = tmp_path / "models/sd15"
    weights = pulled / "vae/diffusion_pytorch_model.safetensors"
    good = weights.read_bytes()
    weights.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    assert "vae/diffusion_pytorch_model.safetensors is damaged: its digest is another" in checked(pulled, capsys)
    weights.write_bytes(good[:-10])
    assert f"has {len(good) - 10} bytes, not {len(good)}" in checked(pulled, capsys)
    weights.write_bytes(good)
    (pulled / "controlnet-depth/config.json").unlink()
    assert "controlnet-depth/config.json is missing" in checked(pulled, capsys)

    own = shutil.copytree(stored / "sd15", tmp_path / "own")
    assert main(["models", "check", str(own)]) == 0
    (own / "unet/diffusion_pytorch_model.safetensors").write_bytes(good[:1000])
    assert "unet/diffusion_pytorch_model.safetensors is no whole .safetensors file" in checked(own, capsys)
    shutil.copy(stored / "sd15/unet/diffusion_pytorch_model.safetensors", own / "unet")
    config = json.loads((own / "unet/config.json").read_text())
    (own / "unet/config.json").write_text(json.dumps(config | {"block_out_channels": [8, 32]}))
    assert "unet's weights are not those of its config" in checked(own, capsys)
    (own / "unet/config.json").write_text("{")
    assert "unet/config.json is no readable JSON" in checked(own, capsys)


def test_a_users_folder_says_its_licence_by_its_model_card(stored, tmp_path, monkeypatch, capsys):
    own = shutil.copytree(stored / "sdxl", tmp_path / "models/mine")
    (own / "README.md").write_text("---\nlicense: apache-2.0\n---\n# mine\n")
    tiny_models.write_single_file(tmp_path / "models/look.safetensors", stored / "sdxl")
    (tmp_path / "models/loras").mkdir()
    (tmp_path / "models/notes.safetensors").write_bytes(b"none")
    assert main(["models", "list", "--models", str(tmp_path / "models")]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line.strip()}
    assert "apache-2.0" in lines["mine"] and "there" in lines["look.safetensors"]
    assert not {"loras", "notes.safetensors"} & set(lines)
    assert main(["models", "check", str(tmp_path / "models/look.safetensors")]) == 0
    assert "a sdxl model" in capsys.readouterr().out


def test_presets_say_which_command_fetches_them(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDM_MODELS", str(tmp_path / "models"))
    with pytest.raises(Unavailable, match=r"there is no model in .*/sdxl; `medm models pull sdxl` fetches it"):
        Model.load(RenderSettings(model="sdxl"))
    (tmp_path / "store/sdxl").mkdir(parents=True)
    with pytest.raises(Unavailable, match=r"sdxl is not whole; `medm models pull sdxl --models .*/store` fetches it"):
        preset_of("sdxl", tmp_path / "store").check()
    (tmp_path / "model.ckpt").write_bytes(b"")
    with pytest.raises(BadInput, match="other files may hold programs and are not opened"):
        Model.load(RenderSettings(model=str(tmp_path / "model.ckpt")))
    tiny_models.write_textual_inversion(tmp_path / "model.safetensors")
    with pytest.raises(BadInput, match=r"is no checkpoint of Stable Diffusion 1\.5 or XL"):
        Model.load(RenderSettings(model=str(tmp_path / "model.safetensors")))
