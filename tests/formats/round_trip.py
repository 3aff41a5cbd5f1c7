"""round_trip.py REWRITE: files that PyTorch writes go through the program REWRITE, which reads them and
writes files like them with each weight w changed to w / 2 + 1. PyTorch must find exactly these in the
same places, and everything else as it was."""

import argparse
import collections
import os
import subprocess
import sys
import tempfile
import unittest

try:
    import torch
except ImportError as error:
    print(f"skipped: {error}; install python3-torch", file=sys.stderr)
    sys.exit(77)

REWRITE = sys.argv.pop(1)


class Network(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 4, 3)
        self.bn = torch.nn.BatchNorm2d(4)
        self.fc = torch.nn.Linear(4, 2)

    def forward(self, x):
        return self.fc(self.bn(self.conv(x)).mean((2, 3)))


def weights(**types):
    torch.manual_seed(1)
    return {name: value.to(types.get(name.replace(".", "_"), value.dtype))
            for name, value in Network().state_dict().items()}


class RoundTrip(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.original = os.path.join(self.folder.name, "original")
        self.rewritten = os.path.join(self.folder.name, "rewritten")

    def tearDown(self):
        self.folder.cleanup()

    def rewrite(self, expect=0):
        done = subprocess.run([REWRITE, self.original, self.rewritten], capture_output=True, text=True)
        self.assertEqual(done.returncode, expect, done.stderr)
        self.said = collections.defaultdict(list)
        for line in done.stdout.splitlines():
            key, value = line.split(" ", 1)
            self.said[key].append(value)
        return done.stderr

    def same(self, before, after, changed):
        """`after` is `before`, in which the tensors for which `changed` holds are changed."""
        self.assertIs(type(after), type(before))
        if torch.is_tensor(before):
            self.assertEqual(after.dtype, before.dtype)
            self.assertEqual(after.stride(), before.stride())
            expected = before
            if changed and before.is_floating_point():
                expected = (before.float() / 2 + 1).to(before.dtype)
            self.assertTrue(torch.equal(after, expected), (before, after))
        elif isinstance(before, dict):
            self.assertEqual(list(after), list(before))
            for key in before:
                self.same(before[key], after[key], changed or key == self.place)
        elif isinstance(before, (list, tuple)):
            self.assertEqual(len(after), len(before))
            for b, a in zip(before, after):
                self.same(b, a, changed)
        else:
            self.assertEqual(after, before)

    def check(self, value, place=None, legacy=False):
        """Without `place`, `value` is the state dict itself, else it is what has this key."""
        torch.save(value, self.original, _use_new_zipfile_serialization=not legacy)
        self.rewrite()
        self.place = place
        self.same(value, torch.load(self.rewritten), changed=place is None)
        self.assertEqual(self.said["location"], [place or ""])

    def test_forms(self):
        for legacy in (False, True):
            self.check(weights(), legacy=legacy)
            self.assertEqual(self.said["tensor"], list(weights()))
            self.check(Network().state_dict(), legacy=legacy)

    def test_parameters(self):
        torch.save(dict(Network().named_parameters()), self.original)
        self.rewrite()
        self.assertEqual(len(torch.load(self.rewritten)), 6)

    def test_types(self):
        for legacy in (False, True):
            self.check(weights(conv_weight=torch.float16, bn_weight=torch.bfloat16,
                               fc_weight=torch.float64), legacy=legacy)

    def test_views(self):
        base = torch.arange(24.)
        state = {"transposed": torch.rand(3, 4).t(), "channels_last":
                 torch.rand(2, 3, 4, 4).contiguous(memory_format=torch.channels_last),
                 "part": base[4:10], "strided": base[12:24:3].view(2, 2), "scalar": torch.tensor(3.),
                 "empty": torch.rand(0, 3), "one": torch.rand(1).expand(4)}
        for legacy in (False, True):
            self.check(state, legacy=legacy)

    def test_shared(self):
        shared = torch.rand(3, 3)
        for legacy in (False, True):
            self.check({"a": shared, "b": shared, "c": shared.view(9)}, legacy=legacy)
            loaded = torch.load(self.rewritten)
            self.assertEqual(loaded["a"].data_ptr(), loaded["b"].data_ptr())

    def test_wrappers(self):
        model = Network()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        model(torch.rand(2, 3, 8, 8)).sum().backward()
        optimizer.step()
        for legacy in (False, True):
            for place in ("state_dict", "model", "net", "model_state_dict", "other"):
                self.check({"epoch": 7, "args": argparse.Namespace(lr=0.1), "best": torch.rand(1),
                            place: model.state_dict(), "optimizer": optimizer.state_dict()},
                           place, legacy)
                self.assertIn("epoch = 7", self.said["rest"])
                self.assertIn("args (object of argparse.Namespace, skipped)", self.said["rest"])

    def test_lightning(self):
        self.check({"epoch": 1, "global_step": 10, "pytorch-lightning_version": "1.8.0",
                    "state_dict": {"model." + name: value for name, value in weights().items()},
                    "callbacks": {"ModelCheckpoint": {"best": torch.rand(2)}},
                    "hyper_parameters": {"lr": 0.1}}, "state_dict")
        self.assertEqual(self.said["prefix"], ["model."])

    def test_prefixes(self):
        for prefix in ("module.", "_orig_mod.", "module.model."):
            self.check({prefix + name: value for name, value in weights().items()})
            self.assertEqual(self.said["prefix"], [prefix])
            self.assertEqual(self.said["tensor"], list(weights()))

    def test_torchscript(self):
        images = torch.rand(2, 3, 8, 8)
        model = Network().eval()
        wrapped = torch.nn.Sequential(collections.OrderedDict(model=model)).eval()
        for module in (torch.jit.script(model), torch.jit.trace(model, images), torch.jit.script(wrapped)):
            module.save(self.original)
            self.rewrite()
            self.assertEqual(self.said["format"], ["TorchScript"])
            self.assertEqual(sorted(self.said["tensor"]), sorted(module.state_dict()))
            before, after = module.state_dict(), torch.jit.load(self.rewritten).state_dict()
            self.place = None
            self.same(before, after, changed=True)

    def test_whole_module(self):
        for legacy in (False, True):
            torch.save(Network(), self.original, _use_new_zipfile_serialization=not legacy)
            said = self.rewrite(expect=4)
            self.assertIn("it holds a whole module of class `__main__.Network`", said)
            self.assertIn("torch.save(model.state_dict()", said)

    def test_values_that_are_not_finite(self):
        torch.save({"w": torch.ones(3), "v": torch.full((2,), float("nan"))}, self.original)
        self.assertIn("2 of the 2 numbers in `v` are not finite", self.rewrite(expect=4))
        self.assertFalse(os.path.exists(self.rewritten))

    def test_quantized(self):
        torch.save({"w": torch.quantize_per_tensor(torch.rand(3), 0.1, 0, torch.qint8),
                    "v": torch.rand(2)}, self.original)
        self.assertIn("`w` is made by `torch._utils._rebuild_qtensor`", self.rewrite(expect=4))

    def test_in_place(self):
        torch.save(weights(), self.original)
        self.rewritten = self.original
        self.rewrite()
        self.place = None
        self.same(weights(), torch.load(self.original), changed=True)


if __name__ == "__main__":
    unittest.main()
