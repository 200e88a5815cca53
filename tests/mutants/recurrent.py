"""Faults in mechanisms that keep a state of fixed size, and in what they are as dynamical systems."""

from __future__ import annotations

from tests.mutants.fault import Fault

LINEAR = "regard/mechanisms/linear"


def _own(name: str, which: str) -> tuple[str, ...]:
    return (f"tests/mechanisms/linear/test_{name}.py", "-k", which)


def _suite(which: str) -> tuple[str, ...]:
    return ("tests/testing/test_conformance.py", "-k", which)


FAULTS = [
    Fault("regard/mechanisms/fading.py", "-less * torch.tensor(rates", "-torch.tensor(rates", "slopes are the same in every layer", _own("lightning_attention", "hardly")),
    Fault(f"{LINEAR}/lightning_attention2.py", "(x.repeat_interleave(H // G, 1) for x in (k, v))", "(x.repeat(1, H // G, 1, 1) for x in (k, v))", "groups that fade are dealt round in turn", _suite("lightning_attention2-grouped")),
    Fault(f"{LINEAR}/lightning_attention2.py", "            state=state,\n", "            state=None,\n", "fading attention forgets its state", _own("lightning_attention", "handed_over")),
    Fault(f"{LINEAR}/lightning_attention.py", "if self.lrpe and call.layer == 0:", "if self.lrpe:", "angles turn in every layer", _own("lightning_attention", "first_layer_alone")),
    Fault(f"{LINEAR}/lightning_attention.py", "self.out(simple_rms_norm(join(read), self.eps) * gate)", "self.out(join(read) * gate)", "TransNormer's norm is left out", _suite("lightning_attention-limits")),
    Fault(f"{LINEAR}/lightning_attention.py", "self.out(simple_rms_norm(join(read), self.eps) * gate)", "self.out(simple_rms_norm(join(read) * gate, self.eps))", "the norm comes after TransNormer's gate", _suite("lightning_attention-limits")),
    Fault(f"{LINEAR}/latte.py", "split(self.k(call.memory), self.heads).transpose(-1, -2), seen)", "split(self.k(call.memory), self.heads).transpose(-1, -2))", "latents read the padding of another sequence", _suite("latte-cross")),
    Fault(f"{LINEAR}/latte.py", '        normalise="softmax",', '        normalise="none",', "latents' weights are not normalised", _own("latte", "probabilities")),
    Fault(f"{LINEAR}/latte.py", "return softmax.weights(split(self.q(x), self.heads))", "return split(softmax.weights(self.q(x)), self.heads)", "heads share one probability of latents", _own("latte", "first_token")),
    Fault(f"{LINEAR}/rat.py", "new = (known[:, 1:] != known.cummax(1).values[:, :-1])", "new = (known[:, 1:] < 0)", "means run on from chunk to chunk", _own("rat", "one_before")),
    Fault(f"{LINEAR}/rat.py", "(of >= 0) & (of < at)", "(of >= 0) & (of <= at)", "a chunk's last token is read twice, and early", _suite("rat and chunk and groups and future")),
    Fault(f"{LINEAR}/rat.py", "        numbers = torch.where(real, within // self.chunk, -1)", "        numbers = torch.where(real, at // self.chunk, -1)", "chunks of packed documents are cut by slots", _suite("rat and chunk and groups and packed")),
    Fault(f"{LINEAR}/rat.py", "    later = there.flip(1).cummin(1).values.flip(1)[:, 1:]", "    later = there[:, 1:]", "a chunk before padding is never kept", _own("rat", "between")),
    Fault(f"{LINEAR}/lightnet.py", "return torch.cat([a, b, b, -a, rest], -1)", "return torch.cat([a, b, -b, a, rest], -1)", "queries turn against their keys' sense", _own("lightnet", "far_along")),
    Fault(f"{LINEAR}/lightnet.py", "self._kept(made.decay, 1.0, 1.0) if call.causal and made.decay is not None else None", "None", "turned keys never make room", _suite("lightnet-limits")),
    Fault(f"{LINEAR}/lightnet.py", "sizes = [math.prod(self.grid[axis + 1 :])", "sizes = [math.prod(self.grid[:axis])", "places on a grid are read column by column", _own("lightnet", "rows_and_columns")),
    Fault(f"{LINEAR}/md_tpe.py", "found = found + summed", "found = summed", "only the last axis of a grid is summed along", _own("lightnet", "both_axes")),
    Fault(f"{LINEAR}/md_tpe.py", "self._along(axis, lines.reshape(-1, self.grid[axis], C), causal=call.causal)", "self._along(axis, lines.reshape(-1, self.grid[axis], C), causal=True)", "sums along a grid look back alone", _own("lightnet", "both_axes or mix_columns")),
    Fault("regard/mechanisms/positions/md_lrpe.py", "stack([positions // sizes[0], *rest], -1)", "stack([positions, *rest], -1)", "rows of a grid are counted in tokens", _suite("md_lrpe-limits")),
    Fault("regard/mechanisms/positions/md_lrpe.py", 'x.shape[-1] // 2 if self.turning == "half"', 'x.shape[-1] if self.turning == "half"', "half of the features that turn are all", _own("lightnet", "differences or bad")),
    Fault(f"{LINEAR}/gam.py", "past = past.masked_fill((ids[:, back:] != ids[:, :-back])[..., None], 0.0)", "pass", "a convolution reads the document before", _suite("gam and split and packed")),
    Fault(f"{LINEAR}/gam.py", "past * self.taps[:, -1 - back]", "past * self.taps[:, back]", "a convolution's taps are turned round", _own("gam", "shut_and_open")),
    Fault(f"{LINEAR}/gam.py", "values = self.memory_values if self.values else keys", "values = keys", "slots' values are never read", _own("gam", "of_its_own")),
    Fault(f"{LINEAR}/dsf.py", "return 1 / made.clamp(min=LEAST)", "return 1 / made", "a normaliser may be nothing", _own("dsf", "millionth")),
    Fault(f"{LINEAR}/dsf.py", "self._mapped(q) * self.share(call.tokens)", "self._mapped(q)", "the normaliser is left out", _suite("dsf-limits")),
    Fault(f"{LINEAR}/systems.py", "before / eta)[..., None]", "eta / before)[..., None]", "a normaliser's ratio is upside down", _own("dsf", "stands_in")),
    Fault(f"{LINEAR}/systems.py", "L = torch.cat([L[:, :, :step], self._times(late, early)], 2)", "L = torch.cat([L[:, :, :step], early], 2)", "a scan that doubles forgets its later decays", _own("dsf", "own_recurrence")),
    Fault(f"{LINEAR}/systems.py", "gone = torch.eye(k.shape[-1], dtype=wide, device=k.device) - writes", "gone = torch.eye(k.shape[-1], dtype=wide, device=k.device) + writes", "the delta rule's system adds where it should replace", _own("dsf", "delta")),
    Fault(f"{LINEAR}/systems.py", ".flatten(-2) / math.sqrt(p)", ".flatten(-2) / p", "powers of the series weigh too little", _own("dsf", "series")),
    Fault("regard/ops/recurrence/watch.py", "WATCHERS.remove(watcher)", "pass", "watching a recurrence has no end", ("tests/ops/recurrence/test_watch.py",)),
    Fault("regard/ops/recurrence/watch.py", "if watcher.thread == threading.get_ident():", "if True:", "what another thread computes is seen", ("tests/ops/recurrence/test_watch.py",)),
]  # fmt: skip
