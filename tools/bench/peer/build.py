"""llama.cpp's own programs, built for this machine from the source package of llama-cpp-python."""

import os
import shutil
import subprocess
import tarfile

from paths import OUT, PEER_BIN, TOOLS

PACKAGE = "llama_cpp_python"
VERSION = "0.3.36"
TARGETS = ("llama-server", "llama-bench", "llama-batched-bench", "llama-quantize")
# Its defaults otherwise: OpenMP, llamafile's matrix products and weights repacked for the processor are on.
OPTIONS = (
    "-DCMAKE_BUILD_TYPE=Release",
    "-DGGML_NATIVE=ON",
    "-DBUILD_SHARED_LIBS=OFF",
    "-DLLAMA_OPENSSL=OFF",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_APP=OFF",
    "-DLLAMA_BUILD_UI=OFF",
    "-DLLAMA_USE_PREBUILT_UI=OFF",
)
SOURCES = OUT / "llama.cpp"


def build():
    """Does nothing where the programs of this version are there already."""
    stamp = OUT / "build/.version"
    if stamp.exists() and stamp.read_text() == VERSION and all((PEER_BIN / name).exists() for name in TARGETS):
        return
    fetch()
    tools = os.environ | {"PATH": f"{TOOLS}{os.pathsep}{os.environ['PATH']}"}
    configure = ["cmake", "-G", "Ninja", "-S", SOURCES, "-B", OUT / "build", *OPTIONS]
    for command in (configure, ["ninja", "-C", OUT / "build", "-j2", *TARGETS]):
        subprocess.run(["nice", "-n", "10", *command], check=True, env=tools)
    stamp.write_text(VERSION)


def fetch():
    stamp = SOURCES / ".version"
    if stamp.exists() and stamp.read_text() == VERSION:
        return
    download = OUT / "source"
    command = [TOOLS / "python", "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--no-binary", ":all:", "--no-build-isolation", "--dest", download, f"{PACKAGE}=={VERSION}"]
    subprocess.run(command, check=True)
    with tarfile.open(download / f"{PACKAGE}-{VERSION}.tar.gz") as archive:
        archive.extractall(download, filter="data")
    shutil.rmtree(SOURCES, ignore_errors=True)
    (download / f"{PACKAGE}-{VERSION}/vendor/llama.cpp").rename(SOURCES)
    shutil.rmtree(download)
    stamp.write_text(VERSION)
