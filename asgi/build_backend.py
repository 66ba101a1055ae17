"""Builds the wheel: maturin's, with the `pounce` executable among its scripts (PEP 517)."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import maturin

ROOT = Path(__file__).resolve().parent.parent
#: What `tool.maturin.data` in pyproject.toml names.
SCRIPTS = ROOT / "target" / "wheel.data" / "scripts"

# For both builds alike, or cargo would compile everything twice.
os.environ.setdefault("CARGO_PROFILE_RELEASE_STRIP", "symbols")

get_requires_for_build_sdist = maturin.get_requires_for_build_sdist


def get_requires_for_build_wheel(config_settings=None):
    _require_cargo()
    return maturin.get_requires_for_build_wheel(config_settings)


def get_requires_for_build_editable(config_settings=None):
    return get_requires_for_build_wheel(config_settings)


def prepare_metadata_for_build_wheel(metadata_directory, config_settings=None):
    # The directory has to exist before the executable is in it.
    SCRIPTS.mkdir(parents=True, exist_ok=True)
    return maturin.prepare_metadata_for_build_wheel(metadata_directory, config_settings)


prepare_metadata_for_build_editable = prepare_metadata_for_build_wheel


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    _build_executable()
    return maturin.build_wheel(wheel_directory, config_settings, metadata_directory)


def build_editable(wheel_directory, config_settings=None, metadata_directory=None):
    _build_executable()
    return maturin.build_editable(wheel_directory, config_settings, metadata_directory)


def build_sdist(sdist_directory, config_settings=None):
    raise RuntimeError(
        "pounce has no source distribution: install it from a checkout (pip install .) or a wheel"
    )


def _build_executable():
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    # The extension module, which the executable depends on, is built for this interpreter.
    environment = {**os.environ, "PYO3_PYTHON": sys.executable, "CARGO_TARGET_DIR": str(target)}
    command = ["cargo", "build", "--release", "--package", "pounce", "--bin", "pounce"]
    subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=sys.stderr)
    SCRIPTS.mkdir(parents=True, exist_ok=True)
    shutil.copy2(target / "release" / "pounce", SCRIPTS / "pounce")


def _require_cargo():
    if shutil.which("cargo") is None:
        raise RuntimeError("building pounce needs Rust: `cargo` was not found; https://rustup.rs installs it")
