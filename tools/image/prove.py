"""Builds the container image's contents without a container engine, by the scripts that the Dockerfile runs, in a bare
Debian; starts every target as its platforms do, in namespaces of its own; and writes docs/evidence/image.md.
`make prove-image`; Debian, root."""

import json
import shutil
import subprocess
import tempfile
from pathlib import Path

from container import Container
from dockerfile import Image, read

ROOT = Path(__file__).resolve().parents[2]
WORK = ROOT / "target" / "image"
EVIDENCE = ROOT / "docs" / "evidence" / "image.md"
# What the Dockerfile's stages must run, and so what is run here.
STEPS = {"build": "tools/image/build /out/weirgate", "base": "/image/install /build/weirgate"}
CHAT = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 8}
LONG = {"inputs": "Once upon a time", "parameters": {"max_new_tokens": 200, "ignore_eos": True}}
# SageMaker and Kubernetes kill after 30 seconds.
STOP_SECONDS = 30


def debian(root: Path):
    """A bare Debian 12, as `debian:bookworm-slim` is."""
    if not shutil.which("mmdebstrap"):
        subprocess.run(["apt-get", "install", "-y", "-qq", "--no-install-recommends", "mmdebstrap"], check=True)
    archive = WORK / "debian.tar"
    if not archive.exists():
        part = archive.with_suffix(".part.tar")
        # From where this machine's own packages come.
        targets = ["apt-get", "indextargets", "--format", "$(REPO_URI) $(CODENAME)"]
        known = subprocess.run(targets, check=True, capture_output=True, text=True).stdout.split("\n")
        mirror = next(line.split()[0] for line in known if line.endswith(" bookworm"))
        subprocess.run(["mmdebstrap", "--quiet", "--variant=minbase", "bookworm", part, mirror], check=True)
        part.rename(archive)
    root.mkdir()
    subprocess.run(["tar", "-xf", archive, "-C", root], check=True)


def install(root: Path, binary: Path):
    """The Dockerfile's second step, with the same mounts."""
    script = """
    set -e
    mount -t proc proc "$1/proc"
    mkdir "$1/build" "$1/image"
    mount --bind "$2" "$1/build"
    mount --bind "$3" "$1/image"
    exec chroot "$1" /image/install /build/weirgate
    """
    shutil.copy("/etc/resolv.conf", root / "etc" / "resolv.conf")
    command = ["unshare", "--mount", "sh", "-c", script, "sh", root, binary.parent, ROOT / "tools" / "image"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    for mount_point in ("build", "image"):
        (root / mount_point).rmdir()


def check(what: str, answer: tuple[int, str], status: int = 200) -> str:
    if answer[0] != status:
        raise SystemExit(f"{what}: status {answer[0]}, not {status}: {answer[1]}")
    return answer[1]


class Platforms:
    """One method per way of starting; each returns what it saw."""

    def __init__(self, images: dict[str, Image], root: Path, logs: Path):
        self.images, self.root, self.logs, self.rows = images, root, logs, []
        self.volumes = ["/data", "/opt/ml/model", "/tmp"]
        for volume in self.volumes:
            (root / volume[1:]).mkdir(parents=True, exist_ok=True)
        shutil.copytree(ROOT / "demo-model" / "files", root / "opt" / "ml" / "model", dirs_exist_ok=True)
        shutil.copytree(ROOT / "demo-model" / "files", root / "data" / "model", dirs_exist_ok=True)

    def run(self, title: str, target: str, arguments: list[str], base: str, use, env=None, **options):
        """Starts `target`, waits for `base`, lets `use` make requests, and stops it by SIGTERM."""
        image = self.images[target]
        log = self.logs / f"{len(self.rows)}.log"
        container = Container(self.root, image.start(arguments), image.env | (env or {}), log, **options)
        try:
            ready = container.until_answers(base)
            seen = use(container)
            code, stopped = container.terminate(STOP_SECONDS)
        except BaseException:
            print(log.read_text(errors="replace"))
            raise
        finally:
            container.kill()
        if code != 0:
            raise SystemExit(f"{title}: exit status {code}\n{log.read_text(errors='replace')}")
        self.rows.append((title, target, " ".join(image.start(arguments)), f"{ready:.2f} s", seen, f"{stopped:.2f} s"))
        print(f"{title}: ready after {ready:.1f} s, {seen}, stopped in {stopped:.1f} s")

    def docker(self):
        def use(container: Container) -> str:
            check("health", container.curl("http://127.0.0.1/health"))
            text = check("generate", container.post("http://127.0.0.1/generate", {"inputs": "Once"}))
            assert json.loads(text)["generated_text"], text
            # TGI's program name, so TGI's form of errors.
            error = check("error", container.post("http://127.0.0.1/v1/chat/completions", CHAT | {"top_p": 2.0}), 422)
            assert isinstance(json.loads(error)["error"], str), error
            return "`/generate` answers; errors of `/v1` are TGI's"

        self.run("`docker run -p 8080:80 IMAGE`", "cpu", [], "http://127.0.0.1/health", use)

    def docker_with_arguments(self):
        def use(container: Container) -> str:
            info = json.loads(check("info", container.curl("http://127.0.0.1:3000/info")))
            assert info["model_id"] == "/data/model" and info["max_best_of"] == 3, info
            check("chat", container.post("http://127.0.0.1:3000/v1/chat/completions", CHAT))
            return "model, port and limit as given"

        arguments = ["--model-id", "/data/model", "--port", "3000", "--max-best-of", "3", "--num-shard", "1"]
        self.run("`docker run IMAGE`, TGI's flags", "cpu", arguments, "http://127.0.0.1:3000/health", use)

    def cuda(self):
        def use(container: Container) -> str:
            check("chat", container.post("http://127.0.0.1/v1/chat/completions", CHAT))
            return "a machine without a GPU is served on its processors"

        self.run("`docker run --gpus all IMAGE`", "cuda", [], "http://127.0.0.1/health", use)

    def sagemaker(self):
        def use(container: Container) -> str:
            check("ping", container.curl("http://127.0.0.1:8080/ping"))
            text = check("invocations", container.post("http://127.0.0.1:8080/invocations", LONG | {"stream": False}))
            assert "generated_text" in text, text
            chat = check("invocations", container.post("http://127.0.0.1:8080/invocations", CHAT))
            assert json.loads(chat)["choices"], chat
            return "`/ping`, `/invocations` with text and with messages; the model of `/opt/ml/model`"

        env = {"SM_NUM_GPUS": "0", "AWS_REGION": "eu-north-1", "SAGEMAKER_BIND_TO_PORT": "8080"}
        self.run("SageMaker: `IMAGE serve`", "sagemaker", ["serve"], "http://127.0.0.1:8080/ping", use, env)

    def sagemaker_hub(self):
        def use(container: Container) -> str:
            info = json.loads(check("info", container.curl("http://127.0.0.1:8080/info")))
            assert info["model_id"] == "/data/model", info
            return "`HF_MODEL_ID` before `/opt/ml/model`"

        env = {"HF_MODEL_ID": "/data/model", "SM_NUM_GPUS": "0", "HF_TASK": "text-generation", "PORT": "9999"}
        self.run("SageMaker, model by variable", "sagemaker", [], "http://127.0.0.1:8080/ping", use, env)

    def kubernetes(self):
        def use(container: Container) -> str:
            check("chat", container.post("http://127.0.0.1/v1/chat/completions", CHAT))
            owners = {Path(f"/proc/{container.first_process()}").stat().st_uid}
            assert owners == {1000}, owners
            return "as user 1000 on a read-only root, a pod's name as `HOSTNAME`"

        env = {
            "PORT": "80",
            "MODEL_ID": "/data/model",
            "MAX_CONCURRENT_REQUESTS": "8",
            "KUBERNETES_SERVICE_HOST": "10.0.0.1",
            "WEIRGATE_PORT": "tcp://10.0.0.9:80",
            "HOME": "/tmp",
        }
        options = {"name": "weirgate-7d9c6b5f4-x2x8z", "user": 1000, "read_only": True, "volumes": self.volumes}
        self.run("Kubernetes", "cpu", [], "http://127.0.0.1/health", use, env, **options)

    def drained(self):
        """SIGTERM in the middle of an answer: the answer is finished first."""
        image, log = self.images["cpu"], self.logs / "drain.log"
        container = Container(self.root, image.start([]), image.env, log)
        try:
            ready = container.until_answers("http://127.0.0.1/health")
            enter = ["nsenter", "--target", str(container.first_process()), "--net"]
            tokens = 400
            parameters = LONG["parameters"] | {"max_new_tokens": tokens, "details": True}
            body = json.dumps(LONG | {"parameters": parameters})
            request = ["curl", "--silent", "--no-buffer", "--json", body, "http://127.0.0.1/generate_stream"]
            stream = subprocess.Popen([*enter, *request], stdout=subprocess.PIPE, text=True)
            first = stream.stdout.readline()
            code, stopped = container.terminate(STOP_SECONDS)
            rest = stream.stdout.read()
            assert stream.wait() == 0 and code == 0, (stream.returncode, code)
            assert first.startswith("data:") and rest.count("\ndata:") == tokens - 1, rest[-300:]
            assert f'"finish_reason":"length","generated_tokens":{tokens}' in rest, rest[-300:]
        finally:
            container.kill()
        row = ("SIGTERM during an answer", "cpu", " ".join(image.start([])), f"{ready:.2f} s", f"all {tokens} tokens of the stream came")
        self.rows.append((*row, f"{stopped:.2f} s"))


def evidence(rows, sizes: dict[str, str]) -> str:
    command = [ROOT / "tools" / "prove" / "header.sh", "The container image, without a container engine"]
    header = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    lines = [
        header.rstrip("\n"),
        *(f"| {name} | {size} |" for name, size in sizes.items()),
        "",
        "The scripts that the Dockerfile runs were run: the build on this machine, the installation in a bare Debian 12 made"
        " by mmdebstrap. Each target then ran with the Dockerfile's environment, entry point and command, as process 1 of"
        " process, mount, network and host-name namespaces of its own. Not proven here: that a container engine builds the"
        " Dockerfile, and anything on a GPU.",
        "",
        "| platform | target | command | ready after | seen | stopped by SIGTERM in |",
        "|---|---|---|--:|---|--:|",
        *(f"| {title} | {target} | `{line}` | {ready} | {seen} | {stop} |" for title, target, line, ready, seen, stop in rows),
    ]
    return "\n".join(lines) + "\n"


def size_of(*paths: Path) -> str:
    total = subprocess.run(["du", "-cm", *paths], check=True, stdout=subprocess.PIPE, text=True).stdout.split()[-2]
    return f"{total} MiB"


def main():
    images = read((ROOT / "Dockerfile").read_text())
    for stage, step in STEPS.items():
        assert images[stage].runs == [step], f"the Dockerfile's stage {stage} runs {images[stage].runs}, not {step}"
    WORK.mkdir(parents=True, exist_ok=True)
    binary = WORK / "out" / "weirgate"
    subprocess.run([ROOT / "tools" / "image" / "build", binary], check=True)
    with tempfile.TemporaryDirectory(dir=WORK) as folder:
        root, logs = Path(folder) / "root", Path(folder) / "logs"
        logs.mkdir()
        debian(root)
        bare = size_of(root)
        install(root, binary)
        links = sorted(path.name for path in (root / "usr/local/bin").iterdir())
        assert links == ["text-generation-launcher", "text-generation-router", "weirgate", "weirgate-finetune"], links
        sizes = {"bare Debian": bare, "binary": size_of(binary), "image, unpacked": size_of(root)}
        platforms = Platforms(images, root, logs)
        platforms.docker()
        platforms.docker_with_arguments()
        platforms.cuda()
        platforms.sagemaker()
        platforms.sagemaker_hub()
        platforms.kubernetes()
        platforms.drained()
        EVIDENCE.write_text(evidence(platforms.rows, sizes))
    print(f"wrote {EVIDENCE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
