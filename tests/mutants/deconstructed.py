"""Faults in attention without its principles, in the stacks that are made of it and in the indicators of their maps."""

from __future__ import annotations

from tests.mutants.fault import Fault

D = "regard/mechanisms/dense/deconstructed.py"
B = "regard/backbones/"
L = "regard/lens/"


def suite(name: str) -> tuple[str, ...]:
    """The conformance suite for one variant and check."""
    return "tests/testing/test_conformance.py", "-k", f"deconstructed and {name}"


def own(name: str) -> tuple[str, ...]:
    """Tests of the layer itself."""
    return "tests/mechanisms/dense/test_deconstructed_cases.py", "-k", name


def stream(name: str) -> tuple[str, ...]:
    """Tests of stacks."""
    return "tests/backbones/test_stream.py", "-k", name


def lens(name: str) -> tuple[str, ...]:
    """Tests of the indicators."""
    return "tests/lens/test_indicators.py", "-k", name


FAULTS = [
    Fault(D, "torch.where(pairs.goes_on, before.top[..., None], -torch.inf).sub(safe).exp()", "pairs.goes_on.to(safe.dtype)", "sums before a chunk keep another chunk's scale", own("running_sums")),
    Fault(D, "values = before.values * left[..., None] + kept.transpose(-1, -2) @ v", "values = kept.transpose(-1, -2) @ v", "second-order sums are of one chunk only", own("running_sums")),
    Fault(D, "self.goes_on = ids == last", "self.goes_on = torch.ones_like(ids, dtype=torch.bool)", "sums run on into the next document", own("edge_of_a_chunk")),
    Fault(D, "self.stays = (ids == ids[..., -1:]) & real", "self.stays = torch.ones_like(ids, dtype=torch.bool) & real", "sums keep a document that has ended", own("edge_of_a_chunk")),
    Fault(D, "order & (ids[..., :, None] == ids[..., None, :]) & real[..., None, :]", "order & real[..., None, :]", "tokens of a chunk read another document", suite("nonapprox and packed")),
    Fault(D, "own = torch.where(pairs.seen, s.detach(), -torch.inf).amax(-1)", "own = s.detach().amax(-1).expand(pairs.seen.shape[:-1])", "a louder document leaves the next no weights", own("great_scores")),
    Fault(D, "at = torch.where(slots < 0, -1, slots - call.starts)", "at = slots", "a packed document reads the fixed sequence from its middle", suite("rnd_fixed and packed")),
    Fault(D, "keys = new if keys is None else torch.cat([keys[:1], new], 2)", "keys = new", "keys of the fixed sequence are not carried over", suite("rnd_fixed and decode")),
    Fault(D, "torch.cat([keys[:1], new], 2)", "torch.cat([keys, new], 2)", "the table of fixed keys grows with the batch", own("one_table")),
    Fault(D, "other.length = len(stream)", "other.length = self.length", "a shorter sequence is read past its end", own("another_fixed_sequence")),
    Fault(B + "block.py", "return layer.reading(stream[0]) if stream is not None and reads(layer) else layer", "return layer", "layers read their own sequence and not the stack's", stream("beside_the_tokens")),
    Fault(B + "decoder.py", "embeddings=start, stream=found[n], generator=generator", "embeddings=start, generator=generator", "the second stream does not read itself", stream("beside_the_tokens")),
    Fault(B + "decoder.py", "found[n] = block.before_attention(x) if n in readers else None", "found[n] = x if n in readers else None", "the second stream is read before its norm", stream("beside_the_tokens")),
    Fault(B + "decoder.py", "rows if rows.is_floating_point() else self._embedded(rows)", "rows if rows.is_floating_point() else self.embedding(rows)", "a fixed text is embedded smaller than others", stream("beside_the_tokens and text")),
    Fault(B + "decoder.py", "made.places = tuple(self.places[index] for index in stay)", "made.places = tuple(range(len(stay)))", "layers that stay are told another place", stream("keep_their_places")),
    Fault(B + "decoder.py", "made = deepcopy(self)\n", "made = self\n", "leaving layers out takes them from the model itself", stream("without_its_odd")),
    Fault(B + "stack.py", "makers[index % len(makers)]()", "makers[min(index, len(makers) - 1)]()", "the last mechanism of a hybrid fills the rest", stream("take_turns")),
    Fault("regard/bench/train/entrant.py", "Entrant(name, first, tuple(others))", "Entrant(name, first)", "a hybrid is trained as its first mechanism", ("tests/bench/train/test_hybrid.py", "-k", "take_turns")),
    Fault(L + "indicators.py", "weights.diagonal(-n, -2, -1)", "weights.diagonal(n, -2, -1)", "local focus looks ahead", lens("each_figure")),
    Fault(L + "indicators.py", ".tril().sum((-2, -1)) * 2 / (N * (N + 1))", ".sum((-2, -1)) / N**2", "heads are compared where no causal map has weights", lens("each_figure")),
    Fault(L + "tally.py", "a = weights.detach().double().masked_fill((i < 0) | (j < 0), 0.0)", "a = weights.detach().double()", "padding counts in the indicators", lens("padding_is_left_out")),
    Fault(L + "watch.py", "site.q_positions[:, rows.start : rows.start + n]", "site.q_positions[:, :n]", "every block of rows is taken for the first", lens("pretrained")),
    Fault(L + "read.py", "(0, 0, first, M - first - width)", "(0, 0, 0, M - width)", "one block of columns is read again and again", lens("by_its_formula")),
]  # fmt: skip
