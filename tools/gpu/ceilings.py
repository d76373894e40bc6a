"""What the chip gives to torch: a copy within the device, a large bf16 product, an empty graph. Prints one JSON object.

    ceilings.py          on a GPU
    ceilings.py --tiny   on the CPU, to see that it runs; by numpy where there is no torch
"""

import json
import statistics
import sys
import time

RUNS = 10


def seconds(work, torch, cuda: bool) -> float:
    """Median of several runs after three that do not count; data must differ from zero, and does."""
    times = []
    for run in range(RUNS + 3):
        if cuda:
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            begin.record()
            work()
            end.record()
            end.synchronize()
            taken = begin.elapsed_time(end) / 1e3
        else:
            begun = time.perf_counter()
            work()
            taken = time.perf_counter() - begun
        if run >= 3:
            times.append(taken)
    return statistics.median(times)


def measure(torch, cuda: bool) -> dict:
    device = "cuda" if cuda else "cpu"
    count = (4 << 30) if cuda else 1 << 16
    size = 8192 if cuda else 64
    source = torch.randint(0, 255, (count,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copy = 2 * count / seconds(lambda: target.copy_(source), torch, cuda)
    left, right = (torch.randn(size, size, dtype=torch.bfloat16, device=device) for _ in range(2))
    matmul = 2 * size**3 / seconds(lambda: left @ right, torch, cuda)
    found = {"copy_bytes_per_s": copy, "matmul_flops": matmul, "torch": torch.__version__}
    if cuda:
        found |= {"graph_launch_s": graph_launch(torch), "device": torch.cuda.get_device_name()}
    return found


def by_numpy(size: int = 64) -> dict:
    """Of this processor's, for dry runs."""
    import numpy as np

    source, left = np.ones(1 << 16, np.uint8), np.ones((size, size), np.float32)
    copy = 2 * source.nbytes / seconds(lambda: source.copy(), None, False)
    return {"copy_bytes_per_s": copy, "matmul_flops": 2 * size**3 / seconds(lambda: left @ left, None, False)}


def graph_launch(torch, launches: int = 1000) -> float:
    small = torch.zeros(16, device="cuda")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        small.add_(1)

    def replay():
        for _ in range(launches):
            graph.replay()

    return seconds(replay, torch, True) / launches


def main():
    tiny = "--tiny" in sys.argv
    try:
        import torch
    except ImportError:
        if not tiny:
            raise
        print(json.dumps(by_numpy()))
        return
    print(json.dumps(measure(torch, cuda=not tiny)))


if __name__ == "__main__":
    main()
