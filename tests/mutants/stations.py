"""Faults in what stands between a pretrained model and attend, in caches and in methods."""

from __future__ import annotations

from tests.mutants.fault import Fault

FAULTS = [
    Fault("regard/hf/stations.py", "(mask for mask in wheres if mask is not everything), base.where)", "(mask for mask in wheres if mask is not everything), everything)", "a method's mask is not joined to the model's", ('tests/hf/apply/test_stations.py', 'tests/hf/apply/test_oracle.py')),
    Fault("regard/hf/stations.py", "out = given if chosen is None else torch.where(chosen[:, None, None], given, out)", "out = out if chosen is None else torch.where(chosen[:, None, None], given, out)", "edited heads are dropped", ('tests/hf/apply/test_stations.py',)),
    Fault("regard/hf/stations.py", "chosen[list(heads)] = True", "chosen[:] = True", "the choice of heads is ignored", ('tests/hf/apply/test_stations.py',)),
    Fault("regard/hf/call.py", "found.append(Softcap(self.softcap))", "pass", "the model's softcap is dropped", ('tests/hf/apply/test_oracle.py', 'tests/hf/apply/test_families.py')),
    Fault("regard/hf/call.py", "return softmax if self.sinks is None else SoftmaxWithSinks(self.sinks)", "return softmax", "the model's sink logits are dropped", ('tests/hf/apply/test_oracle.py', 'tests/hf/apply/test_families.py')),
    Fault("regard/caches/window.py", "window = index >= self.seen - self.size", "window = index > self.seen - self.size", "the window keeps one token less", ('tests/caches',)),
    Fault("regard/caches/window.py", "slot = self.sinks + token % self.size", "slot = self.sinks + (token + 1) % self.size", "one token lands in the wrong slot", ('tests/caches',)),
    Fault("regard/caches/window.py", "sink = (place >= 0) & (place < self.sinks) & ~window", "sink = (place >= 0) & (place < 0) & ~window", "sinks are let go", ('tests/caches',)),
    Fault("regard/caches/window.py", "if self._ring:\n            raise", "if False:\n            raise", "a cache is cut back after letting tokens go", ('tests/caches',)),
    Fault("regard/hf/meter.py", "return 2 * self.widths * float(self.visible.sum())", "return self.widths * float(self.visible.sum())", "the meter counts half the FLOPs", ('tests/hf/apply/test_meter.py',)),
]  # fmt: skip
