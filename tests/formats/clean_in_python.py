"""clean_in_python.py BACKSTOP: trains a small network in PyTorch, lets `backstop clean` change its checkpoint,
and loads what came back into the same module. Its predictions must be, image for image, those that Backstop
wrote to predictions.csv, for the model before and after; everything else in the checkpoint must be as it was."""

import csv
import glob
import os
import struct
import subprocess
import sys
import tempfile
import zlib

try:
    import torch
except ImportError as error:
    print(f"skipped: {error}; install python3-torch", file=sys.stderr)
    sys.exit(77)

BACKSTOP = sys.argv[1]
CLASSES = ["cat", "dog", "owl"]
MEAN = DEVIATION = 0.5


class SmallCnn(torch.nn.Module):
    def __init__(self, width=8):
        super().__init__()
        nn = torch.nn
        self.conv1 = nn.Conv2d(3, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, 2 * width, 3, 2, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(2 * width)
        self.conv3 = nn.Conv2d(2 * width, 4 * width, 3, 2, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.linear = nn.Linear(4 * width, len(CLASSES))

    def forward(self, x):
        x = torch.relu(self.bn1(self.conv1(x)))
        x = torch.relu(self.bn2(self.conv2(x)))
        x = torch.relu(self.bn3(self.conv3(x)))
        return self.linear(x.mean((2, 3)))


def write_png(path, pixels):
    """uint8 [16, 16, 3]."""
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + bytes(row.flatten().tolist()) for row in pixels)
    with open(path, "wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 16, 16, 8, 2, 0, 0, 0)) +
                   chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))


def make_images(folder, split, count, generator):
    """Noise whose channel `label` is brighter, so weakly that a small network makes mistakes."""
    images, labels = [], []
    for label, name in enumerate(CLASSES):
        os.makedirs(f"{folder}/{split}/{name}")
        for i in range(count):
            pixels = torch.randint(0, 200, (16, 16, 3), generator=generator)
            pixels[..., label] += torch.randint(0, 14, (1,), generator=generator)
            pixels = pixels.to(torch.uint8)
            write_png(f"{folder}/{split}/{name}/{i:03}.png", pixels)
            images.append(pixels.permute(2, 0, 1))
            labels.append(label)
    return torch.stack(images), torch.tensor(labels)


def normalized(images):
    return (images.float() / 255 - MEAN) / DEVIATION


def predictions(model, images):
    with torch.no_grad():
        return model.eval()(normalized(images)).argmax(1).tolist()


def main():
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        images, labels = make_images(f"{folder}/images", "train", 60, generator)
        test_images, _ = make_images(f"{folder}/images", "test", 40, generator)
        model = SmallCnn()
        optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
        for _ in range(20):
            for batch in torch.randperm(len(images)).split(30):
                optimizer.zero_grad()
                torch.nn.functional.cross_entropy(model.train()(normalized(images[batch])),
                                                  labels[batch]).backward()
                optimizer.step()
        before = predictions(model, test_images)
        checkpoint = {
            "state_dict": {"module." + name: value for name, value in model.state_dict().items()},
            "epoch": 20,
            "optimizer": optimizer.state_dict(),
        }
        torch.save(checkpoint, f"{folder}/model.pth")
        subprocess.run(
            [BACKSTOP, "clean", "model.pth", "--images", "images", "--output", "clean.pth", "--method",
             "fine-tuning", "--set", "defense.0.epochs=2", "--set", "defense.0.batch_size=30", "--mean", "0.5",
             "--std", "0.5", "--tolerance", "100", "--threads", "1"],
            cwd=folder, check=True, env={**os.environ, "HOME": folder})

        back = torch.load(f"{folder}/clean.pth")
        assert list(back) == list(checkpoint), list(back)
        assert back["epoch"] == 20
        assert list(back["state_dict"]) == list(checkpoint["state_dict"])
        for name, value in checkpoint["state_dict"].items():
            assert back["state_dict"][name].dtype == value.dtype, name
            assert back["state_dict"][name].shape == value.shape, name
        momentum = [state["momentum_buffer"] for state in checkpoint["optimizer"]["state"].values()]
        for was, now in zip(momentum, back["optimizer"]["state"].values()):
            assert torch.equal(was, now["momentum_buffer"])
        cleaned = SmallCnn()
        cleaned.load_state_dict({name[len("module."):]: value for name, value in back["state_dict"].items()})
        assert not torch.equal(cleaned.conv1.weight, model.conv1.weight), "nothing was trained"
        after = predictions(cleaned, test_images)

        with open(glob.glob(f"{folder}/runs/*/*/predictions.csv")[0], encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        assert [int(row["no defense"]) for row in rows] == before, "before"
        assert [int(row["cleaned"]) for row in rows] == after, "after"
        assert before != after, "the two models do not differ, so the comparison says nothing"
        print(f"{len(rows)} images: the predictions agree before and after")


if __name__ == "__main__":
    main()
