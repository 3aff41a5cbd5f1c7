#!/usr/bin/env python3
"""Compares Backstop with the strongest Python loop that we could write (tuned_python.py), in alternation.

Both fine-tune a preact-resnet18 for one epoch in bfloat16, in batches of 256, and evaluate it on 10,000 clean and 9,000
triggered images. Backstop is represented by `model_benchmark` (build the target `benchmarks`), once with its own kernels
and once with only LibTorch's. The output is seconds and the ratio of each pair of consecutive measurements: the median
and, in brackets, the smallest and the largest. Python needs Debian's python3-torch, which uses the same LibTorch.

  tests/benchmarks/compare_with_python.py --build build/dev --data data/cifar-10-batches-bin --width 64 --rounds 3
"""
import argparse, json, os, pathlib, statistics, subprocess

HERE = pathlib.Path(__file__).parent
# What a careful user sets for the Python loop. Backstop makes the same settings itself.
TUNED = {
    "ATEN_CPU_CAPABILITY": "avx512",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "17179869184",
    "MALLOC_TOP_PAD_": "67108864",
}


def python_epoch(args):
    command = [
        "/usr/bin/python3", HERE / "tuned_python.py", "--data", args.data, "--width", str(args.width), "--fraction",
        str(args.images / 50000), "--epochs", "1", "--precision", "bf16", "--eval-batch-size", "250", "--threads",
        str(args.threads)
    ]
    out = subprocess.run(command, env=os.environ | TUNED | {"OMP_NUM_THREADS": str(args.threads)}, check=True,
                         stdout=subprocess.PIPE).stdout
    epoch = json.loads(out.splitlines()[-1])["epochs"][0]
    return epoch["train_s"], epoch["eval_s"]


def own_epoch(args, own):
    name = f"fine_tuning_epoch/width:{args.width}/images:{args.images}/own:{own}/bf16:1/"
    command = [
        pathlib.Path(args.build) / "bin/model_benchmark", f"--benchmark_filter={name}", "--benchmark_format=json"
    ]
    out = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout
    result = json.loads(out)["benchmarks"][0]
    return result["train_s"], result["eval_s"]


def spread(values):
    return f"{statistics.median(values):.2f} ({min(values):.2f} .. {max(values):.2f})"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", required=True, help="build folder")
    parser.add_argument("--data", required=True, help="folder with CIFAR-10's binary files")
    parser.add_argument("--width", type=int, choices=(16, 64), default=64)
    parser.add_argument("--images", type=int, choices=(2500, 10000), default=2500, help="training images")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    args = parser.parse_args()

    seconds = {name: [] for name in ("Python", "LibTorch's kernels", "own kernels")}
    for number in range(args.rounds):
        seconds["Python"].append(python_epoch(args))
        seconds["LibTorch's kernels"].append(own_epoch(args, 0))
        seconds["own kernels"].append(own_epoch(args, 1))
        for name, values in seconds.items():
            print(f"round {number + 1}, {name}: training {values[-1][0]:.2f} s, evaluation {values[-1][1]:.2f} s", flush=True)
    print(f"width {args.width}, {args.images} training images, {args.rounds} rounds, {args.threads} threads")
    for name, values in seconds.items():
        train, evaluation = zip(*values)
        both = [a + b for a, b in values]
        print(f"  {name:20} training {spread(train)} s, evaluation {spread(evaluation)} s, both {spread(both)} s")
    for name in list(seconds)[1:]:
        pairs = list(zip(seconds["Python"], seconds[name]))
        ratio = lambda part: spread([part(p) / part(o) for p, o in pairs])
        print(f"  Python / {name:18} training {ratio(lambda t: t[0])}, evaluation {ratio(lambda t: t[1])}, both {ratio(sum)}")


if __name__ == "__main__":
    main()
