#!/usr/bin/env python3
"""How an epoch of training scales with images, width, batch, classes and threads, as a Markdown table.

Each row is a new process of `model_benchmark` (build the target `benchmarks`): images per second of an epoch after one warm-up
step, as the median of all rounds with the smallest and the largest, and peak memory. The last rows are two processes with one
thread each, at the same time. The model is a preact-resnet18 on random 32x32 images, in bfloat16 unless the row says otherwise.

  tests/benchmarks/scale.py --build build/dev --rounds 3
"""
import argparse, json, os, pathlib, statistics, subprocess

NAMES = ("images", "width", "batch", "classes", "threads", "bf16")
USUAL = dict(images=5000, width=16, batch=128, classes=10, threads=2, bf16=1)
VARIED = dict(images=(1000, 5000, 20000, 50000), width=(8, 16, 32, 64), batch=(32, 64, 128, 256, 512),
              classes=(10, 43, 100, 1000), threads=(1, 2))


def start(program, setting):
    name = "scaling/" + "/".join(f"{key}:{setting[key]}" for key in NAMES) + "/"
    return subprocess.Popen([program, f"--benchmark_filter={name}", "--benchmark_format=json"], stdout=subprocess.PIPE,
                            stderr=subprocess.DEVNULL)


def finish(process):
    """Images per second, and the peak memory of the process in MiB."""
    out = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{process.args} failed")
    return json.loads(out)["benchmarks"][0]["items_per_second"], usage.ru_maxrss / 1024


def spread(values):
    return f"{statistics.median(values):,.0f} ({min(values):,.0f} .. {max(values):,.0f})"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", required=True, help="build folder")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    program = pathlib.Path(args.build) / "bin/model_benchmark"

    settings = [USUAL | {key: value} for key, values in VARIED.items() for value in values]
    settings += [USUAL | dict(width=width, bf16=0) for width in (8, 16)]
    settings += [USUAL | dict(width=64, threads=1)]
    unique = [s for i, s in enumerate(settings) if s not in settings[:i]]
    seen = [[] for _ in unique]
    pairs = {16: [], 64: []}
    for _ in range(args.rounds):
        for setting, results in zip(unique, seen):
            results.append(finish(start(program, setting)))
        for width, results in pairs.items():
            both = [start(program, USUAL | dict(width=width, threads=1)) for _ in range(2)]
            both = [finish(process) for process in both]
            results.append((sum(rate for rate, _ in both), sum(memory for _, memory in both)))
    print("| " + " | ".join(NAMES) + " | images/s | MiB |\n" + "|---:" * 8 + "|")
    for setting, results in zip(unique, seen):
        rates, memory = zip(*results)
        print("| " + " | ".join(f"{setting[key]:,}" for key in NAMES) + f" | {spread(rates)} | {max(memory):,.0f} |")
    for width, results in pairs.items():
        rates, memory = zip(*results)
        print(f"| 5,000 | {width} | 128 | 10 | 2 x 1 | 1 | {spread(rates)} | {max(memory):,.0f} |")


if __name__ == "__main__":
    main()
