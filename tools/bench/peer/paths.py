"""Where things are."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
OUT = ROOT / "out/peer"
MODELS = OUT / "models"
PEER_BIN = OUT / "build/bin"
OUR_BIN = ROOT / "target/release"
TOOLS = Path(sys.executable).parent
RESULTS = ROOT / "docs/benchmarks"
RUNS = OUT / "runs.json"
