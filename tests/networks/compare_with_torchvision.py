#!/usr/bin/env python3
"""Gives PyTorch's networks and Backstop's the same weights and images, in float32, and compares the outputs.

  compare_with_torchvision.py build/dev/bin/network_outputs

The residual networks are torchvision's own, with a 3x3 stem where the name says so; the others are defined below.
Weights are PyTorch's, the statistics of batch normalization random. Prints one line for each network and fails if a
difference exceeds 1e-4 of the largest output. Exits with 77 where torchvision is not installed.
"""
import json
import pathlib
import struct
import subprocess
import sys
import tempfile

try:
    import torch
    import torchvision
except ImportError as error:
    print(error)
    sys.exit(77)
from torch import nn
import torch.nn.functional as F


def write(path, tensors):
    header, offset = {}, 0
    for name, tensor in tensors.items():
        size = tensor.numel() * tensor.element_size()
        kind = {torch.float32: "F32", torch.int64: "I64"}[tensor.dtype]
        header[name] = {"dtype": kind, "shape": list(tensor.shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for tensor in tensors.values():
            file.write(tensor.contiguous().numpy().tobytes())


def read(path):
    data = path.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    item = json.loads(data[8 : 8 + size])["outputs"]
    begin, end = item["data_offsets"]
    return torch.frombuffer(bytearray(data[8 + size + begin : 8 + size + end]), dtype=torch.float32).view(item["shape"])


def with_small_stem(model):
    model.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
    model.maxpool = nn.Identity()
    return model


class CifarBlock(nn.Module):
    def __init__(self, before, after, stride, projected):
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.added = after - before
        if projected and self.added:
            self.shortcut = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if hasattr(self, "shortcut"):
            x = self.shortcut(x)
        elif self.added:
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.added // 2, self.added // 2))
        return F.relu(y + x)


class CifarResNet(nn.Module):
    def __init__(self, blocks, projected):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        before = 16
        for stage, after in enumerate((16, 32, 64)):
            layers = []
            for block in range(blocks):
                layers.append(CifarBlock(before, after, 2 if stage and not block else 1, projected))
                before = after
            setattr(self, f"layer{stage + 1}", nn.Sequential(*layers))
        self.linear = nn.Linear(64, 10)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean((2, 3)))


class PreActBlock(nn.Module):
    def __init__(self, before, after, stride):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(before)
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        if before != after:
            self.shortcut = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False))

    def forward(self, x):
        a = F.relu(self.bn1(x))
        same = self.shortcut(a) if hasattr(self, "shortcut") else x
        return self.conv2(F.relu(self.bn2(self.conv1(a)))) + same


class PreActResNet18(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
        before = 64
        for stage, after in enumerate((64, 128, 256, 512)):
            blocks = PreActBlock(before, after, 2 if stage else 1), PreActBlock(after, after, 1)
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
            before = after
        self.linear = nn.Linear(512, 10)

    def forward(self, x):
        x = self.layer4(self.layer3(self.layer2(self.layer1(self.conv1(x)))))
        return self.linear(x.mean((2, 3)))


def networks():
    for depth in (18, 34, 50):
        made = getattr(torchvision.models, f"resnet{depth}")
        yield f"resnet{depth}", with_small_stem(made(num_classes=10)), 32
        yield f"resnet{depth}-7x7", made(num_classes=10), 96
    for depth in (20, 32, 44, 56, 110):
        for suffix in ("", "-b"):
            yield f"resnet{depth}{suffix}", CifarResNet((depth - 2) // 6, suffix == "-b"), 32
    yield "preact-resnet18", PreActResNet18(), 32


def main():
    torch.manual_seed(0)
    failed = False
    print("| network | largest output | largest difference |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        files = [pathlib.Path(folder) / name for name in ("weights", "images", "outputs")]
        for name, model, side in networks():
            for module in model.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.running_mean.uniform_(-0.2, 0.2)
                    module.running_var.uniform_(0.5, 1.5)
            images = torch.randn(4, 3, side, side)
            with torch.no_grad():
                wanted = model.eval()(images)
            write(files[0], model.state_dict())
            write(files[1], {"images": images})
            printed = subprocess.run([sys.argv[1], *files], check=True, capture_output=True, text=True).stdout
            if not printed.startswith(name + ","):
                sys.exit(f"{name} was taken for {printed}")
            largest, difference = wanted.abs().max().item(), (read(files[2]) - wanted).abs().max().item()
            failed |= not difference <= 1e-4 * max(largest, 1)
            print(f"| `{name}` | {largest:.3g} | {difference:.1e} |", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
