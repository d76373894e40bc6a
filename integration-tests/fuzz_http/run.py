"""schemathesis from the committed openapi.json against the real binary: as a test, and at length for `make prove-http`.

usage: run.py CASES_PER_OPERATION
"""

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from harness.server import ROOT  # noqa: E402

from fuzz_http.furnished import furnished  # noqa: E402

#: The first refuses every 5xx, the documented ones too: nothing here should bring one about.
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "unsupported_method",
    "allow_header_conformance",
    "events_conform",
)
SEED = 20261121
#: Answers are short, so that most of the time goes into requests.
SERVER = ("--max-total-tokens", "192", "--default-max-new-tokens", "8")


@dataclass
class Result:
    profile: str
    report: dict
    output: str

    @property
    def clean(self) -> bool:
        report = self.report
        return report["complete"] and report["exit_code"] == 0 and not report["failures"] and not report["errors"]


def run(profile: str, phases: str, cases: int, folder: Path, seconds: float) -> Result:
    """Starts a server of `profile`, runs the `phases`, each with so many `cases` per operation, and stops it again."""
    there = furnished(folder, "--profile", profile, *SERVER)
    server = there.server
    report = folder / "report.json"
    command = [Path(sys.executable).with_name("st"), "run", ROOT / "openapi.json", "--url", server.url]
    command += ["--phases", phases, "--max-examples", str(cases), "--seed", str(SEED)]
    command += ["--checks", ",".join(CHECKS), "--continue-on-failure", "--request-timeout", "30"]
    # Of Python 3.11, two threads that compile at once may fail each other (cpython issue 106905).
    command += ["--workers", "1"]
    command += ["--generation-database", "none", "--report", "json", "--report-json-path", report]
    hooks = {"SCHEMATHESIS_HOOKS": "hooks", "PYTHONPATH": str(HERE), "FUZZ_KNOWN": json.dumps(there.known)}
    environment = os.environ | hooks | {"NO_COLOR": "1"}
    try:
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=seconds)
        server.stop()
    finally:
        server.kill()
    assert report.exists(), done.stdout[-5000:] + done.stderr[-5000:]
    return Result(profile, json.loads(report.read_text()), done.stdout)


def main():
    cases = int(sys.argv[1])
    results = []
    for profile in ("openai", "tgi"):
        with tempfile.TemporaryDirectory() as folder:
            results.append(run(profile, "examples,coverage,fuzzing", cases, Path(folder), 3600))
    print("| profile | operations | requests | failures | errors | schemathesis | seed | seconds |")
    print("|---|---|---|---|---|---|---|---|")
    for result in results:
        report = result.report
        counts = [report["operations"]["tested"], report["test_cases"]["generated"]]
        counts += [len(report["failures"]), len(report["errors"]), report["schemathesis_version"], report["seed"]]
        print(f"| {result.profile} | " + " | ".join(map(str, counts)) + f" | {report['running_time']:.0f} |")
    for result in results:
        if not result.clean:
            print(result.output, file=sys.stderr)
    sys.exit(0 if all(result.clean for result in results) else 1)


if __name__ == "__main__":
    main()
