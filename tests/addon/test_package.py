"""The zip that people install: what is in it, that Blender takes it, and that it comes and goes without a trace."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import tomllib
import zipfile

import bpy
import pytest

pytest.importorskip("bpy")

from extension_package import ROOT, build, copy_sources, in_blender, plain_python
from medm_blender import client, passes

pytestmark = pytest.mark.bpy


@pytest.fixture
def user_folder(tmp_path):
    """As an artist may have it."""
    folder = tmp_path / "Anna Müller 映画"
    folder.mkdir()
    return folder


def test_what_is_in_the_zip(built_extension):
    with zipfile.ZipFile(built_extension.zip) as archive:
        names = archive.namelist()
        manifest = tomllib.loads(archive.read("blender_manifest.toml").decode())
    assert {"__init__.py", "LICENSE", "blender_manifest.toml"} <= set(names)
    assert [name for name in names if name.endswith(".whl")] == [f"server/medm_server-{client.VERSION}-py3-none-any.whl"]
    assert {f"presets/medm/{path.name}" for path in (ROOT / "medm_blender/presets/medm").glob("*.py")} <= set(names)
    assert not [name for name in names if "__pycache__" in name or name.startswith((".", "tests"))]
    assert "wheels" not in manifest
    assert set(manifest["permissions"]) == {"network", "files"}
    assert built_extension.zip.stat().st_size < 40e6


def test_the_wheel_has_the_bundled_model_and_nothing_of_a_checkout(built_extension):
    with zipfile.ZipFile(built_extension.wheel) as archive:
        names = archive.namelist()
    assert any(name.startswith("medm/bundled/") and name.endswith(".safetensors") for name in names)
    assert any(name == "medm/service/app.py" for name in names)
    assert not [name for name in names if not name.startswith(("medm/", "medm_server-"))]


def test_there_is_one_version():
    manifest = tomllib.loads((ROOT / "blender_manifest.toml").read_text())["version"]
    server = re.search(r'__version__ = "(.*)"', (ROOT / "server/medm/__init__.py").read_text())[1]
    assert manifest == server == client.VERSION == passes.ADDON_VERSION


def test_the_same_sources_give_the_same_zip(built_extension, tmp_path):
    """In another folder, another time zone, under another umask."""
    sources = copy_sources(tmp_path / "elsewhere")
    made = {}
    for zone, umask in (("Asia/Tokyo", 0o077), ("America/Lima", 0o022)):
        before = os.umask(umask)
        try:
            ended = build(sources, SOURCE_DATE_EPOCH="1700000000", TZ=zone)
        finally:
            os.umask(before)
        assert ended.returncode == 0, ended.stderr
        (archive,) = (sources / "dist").glob("*.zip")
        made[zone] = hashlib.sha256(archive.read_bytes()).hexdigest()
    assert len(set(made.values())) == 1
    assert not list((sources / "server").glob("*.egg-info"))


def test_a_manifest_that_blender_refuses_is_refused(tmp_path):
    sources = copy_sources(tmp_path / "sources")
    manifest = sources / "blender_manifest.toml"
    manifest.write_text(manifest.read_text().replace('network = "', 'network = "' + "x" * 64))
    ended = build(sources)
    assert ended.returncode == 3
    assert "permissions" in ended.stderr


INSTALL = """
import sys, bpy
answer = bpy.ops.extensions.package_install_files(filepath=sys.argv[1], repo="user_default", enable_on_install=True)
assert answer == {"FINISHED"}, answer
"""
COME_AND_GO = """
import gc, sys, threading
import addon_utils, bpy
def traces():
    kinds = (bpy.types.Panel, bpy.types.Operator, bpy.types.PropertyGroup, bpy.types.AddonPreferences, bpy.types.Menu, bpy.types.UIList)
    found = {cls.__name__ for kind in kinds for cls in kind.__subclasses__() if cls.is_registered and "medm" in cls.__module__}
    found |= {name for owner in (bpy.types.Scene, bpy.types.WindowManager, bpy.types.Object) for name in dir(owner) if "medm" in name}
    handlers = [getattr(bpy.app.handlers, name) for name in dir(bpy.app.handlers)]
    found |= {function.__name__ for those in handlers if isinstance(those, list) for function in those if "medm" in function.__module__}
    for name in dir(bpy.types):
        draw = getattr(getattr(bpy.types, name), "draw", None)
        found |= {function.__name__ for function in getattr(draw, "_draw_funcs", ()) if "medm" in function.__module__}
    keymaps = bpy.context.window_manager.keyconfigs.addon
    items = [item.idname for keymap in (keymaps.keymaps if keymaps else ()) for item in keymap.keymap_items]
    found |= {item for item in items if item.startswith("medm")}
    found |= {thread.name for thread in threading.enumerate() if "medm" in thread.name}
    return found
module = "bl_ext.user_default.medm_blender"
there = traces()
assert there and module in bpy.context.preferences.addons
for _ in range(2):
    addon_utils.disable(module, default_set=True)
    assert not traces(), traces()
    assert addon_utils.enable(module, default_set=True)
    assert traces() == there, traces() ^ there
print("came and went")
"""


def ours(stderr):
    """What was said on stderr that Blender does not say without us."""
    return [
        line for line in stderr.splitlines() if line.strip() and not re.search(r"list of mounted file-systems|Extensions are now", line)
    ]


def test_it_installs_into_this_blender_and_comes_and_goes(built_extension, user_folder):
    said, errors = in_blender(user_folder, INSTALL + COME_AND_GO, built_extension.zip)
    assert "came and went" in said
    assert ours(errors) == []


ASK = """
import importlib
status = importlib.import_module("bl_ext.user_default.medm_blender.status").refresh(wait=True)
preferences = importlib.import_module("bl_ext.user_default.medm_blender.preferences")
installation = preferences.installation()
print(status.state, installation.wheel_version(), preferences.get().server_kind)
print(installation.folder)
"""


def test_installed_it_finds_its_wheel_and_its_folder(built_extension, user_folder):
    said, errors = in_blender(user_folder, INSTALL + ASK, built_extension.zip)
    assert f"not_installed {client.VERSION} LOCAL" in said
    assert f"{user_folder}/extensions/.user/user_default/medm_blender/server" in said
    assert ours(errors) == []


REPOSITORY = """
import sys, bpy
bpy.context.preferences.system.use_online_access = True
repositories = bpy.context.preferences.extensions.repos
repository = repositories.new(name="Studio", module="studio", remote_url=sys.argv[1], custom_directory="")
index = list(repositories).index(repository)
bpy.ops.extensions.repo_sync(repo_index=index)
assert bpy.ops.extensions.package_install(repo_index=index, pkg_id="medm_blender", enable_on_install=True) == {"FINISHED"}
assert "bl_ext.studio.medm_blender" in bpy.context.preferences.addons
print("from the repository", bpy.ops.medm.server_start.poll())
"""


@pytest.mark.parametrize("scheme", ["file", "http"])
def test_dist_is_an_extension_repository(built_extension, user_folder, scheme):
    index = json.loads((built_extension.dist / "index.json").read_text())
    (entry,) = index["data"]
    assert entry["archive_hash"] == "sha256:" + hashlib.sha256(built_extension.zip.read_bytes()).hexdigest()
    url, server = (built_extension.dist / "index.json").as_uri(), None
    if scheme == "http":
        command = [plain_python(), "-u", "-m", "http.server", "0", "--bind", "127.0.0.1", "--directory", str(built_extension.dist)]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        url = re.search(r"http://[\d.:]+/", server.stdout.readline())[0] + "index.json"
    try:
        said, errors = in_blender(user_folder, REPOSITORY, url)
    finally:
        if server is not None:
            server.kill()
            server.wait()
            server.stdout.close()
    assert "from the repository False" in said
    assert ours(errors) == []


BLENDER = shutil.which(os.environ.get("BLENDER", "")) if bpy.app.module else bpy.app.binary_path


@pytest.mark.skipif(BLENDER is None, reason="no BLENDER to try it in")
def test_it_installs_into_the_blender_application(built_extension, user_folder):
    environ = {**os.environ, "BLENDER_USER_RESOURCES": str(user_folder), "XDG_DATA_HOME": str(user_folder / "data")}
    script = user_folder / "script.py"
    script.write_text(COME_AND_GO)
    install = ["--command", "extension", "install-file", "-r", "user_default", "-e", str(built_extension.zip)]
    for arguments in (install, ["-b", "--python-exit-code", "1", "--python", str(script)]):
        ended = subprocess.run([BLENDER, *arguments], env=environ, capture_output=True, text=True, timeout=240, check=False)
        assert ended.returncode == 0, ended.stdout + ended.stderr
        assert ours(ended.stderr) == []
    assert "came and went" in ended.stdout
