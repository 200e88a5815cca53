"""Faults in the recurrence: state not carried, decay off by one, write before read, wrong border of a chunk, leaks."""

from __future__ import annotations

from tests.mutants.fault import Fault

R = "regard/ops/recurrence/"
T = "tests/ops/recurrence/"
FORMS = (T + "test_recur.py", "-k", "unrolled or goes_on")
EXACT = (T + "test_precision.py",)
WRONG = (T + "test_wrong_input.py",)

FAULTS = [
    Fault(R + "chunked.py", "        S = S * whole[:, :, n if whole.shape[2] > 1 else 0] + adds[:, :, n]", "        S = adds[:, :, n]", "what is kept is not carried from chunk to chunk", FORMS),
    Fault(R + "chunked.py", "            out, S = _run(padded", "            out, _ = _run(padded", "what is kept is not carried from span to span", (T + "test_precision.py", "-k", "length")),
    Fault(R + "chunked.py", "        kept.append(S)\n        S = S * whole", "        S = S * whole", "a chunk has nothing kept before it", FORMS),
    Fault(R + "chunked.py", "return sums[:, :, :-1], sums[:, :, -1]", "return sums[:, :, 1:], sums[:, :, -1]", "a chunk reads what it is about to write", FORMS),
    Fault(R + "chunked.py", "into, out, whole = until(g, -1).exp(), after(g, -1).exp(), g.sum(-1).exp()", "into, out, whole = until(g, -1).exp(), until(g, -1).exp(), g.sum(-1).exp()", "tokens fade from the chunk's beginning instead of to its end", FORMS),
    Fault(R + "chunked.py", "system = beta * _weighted(", "system = _weighted(", "the delta rule corrects by all whatever beta is", FORMS),
    Fault(R + "chunked.py", "arriving = k if fades.into is None else k * fades.into", "arriving = k", "the delta rule reads what is kept before it has faded", FORMS),
    Fault(R + "chunked.py", "            S = S * fades.whole[:, :, n if fades.whole.shape[2] > 1 else 0]\n", "            pass\n", "the delta rule forgets to forget", FORMS),
    Fault(R + "chunked.py", "wanted = torch.cat([beta * v, beta * arriving], -1)", "wanted = torch.cat([v, beta * arriving], -1)", "the delta rule writes all whatever beta is", FORMS),
    Fault(R + "chunked.py", "torch.ones(c, c, dtype=k.dtype, device=k.device).tril()", "torch.ones(c, c, dtype=k.dtype, device=k.device)", "a chunk's tokens see those after them", FORMS),
    Fault(R + "products.py", "rest = g.narrow(dim, 1, g.shape[dim] - 1)", "rest = g.narrow(dim, 0, g.shape[dim] - 1)", "a decay is off by one step", FORMS),
    Fault(R + "products.py", "below = torch.ones(c, c, dtype=torch.bool, device=g.device).tril(-1)", "below = torch.ones(c, c, dtype=torch.bool, device=g.device).tril(0)", "a token fades before it is read", FORMS),
    Fault(R + "products.py", "right = queries[..., 1, :, :] * until(fades[..., 1, :, :], -2).exp().unsqueeze(-4)", "right = queries[..., 1, :, :]", "the halves of a block meet without a decay", FORMS),
    Fault(R + "products.py", "    return terms.cumsum(-2).masked_fill(~upto, -torch.inf)", "    sums = g.cumsum(-1)\n    return (sums[..., :, None] - sums[..., None, :]).masked_fill(~upto, -torch.inf)", "short decays are lost in the difference of two long sums", EXACT),
    Fault(R + "problem.py", "each = torch.where(real[:, None][more], each, 0.0)", "pass", "padding takes a step of forgetting", FORMS),
    Fault(R + "problem.py", "each = torch.where(starts[:, None][more], -torch.inf, each)", "pass", "a document begins with what another left", FORMS),
    Fault(R + "reference.py", "        for t in range(p.k.shape[2]):\n", "        for t in range(p.k.shape[2] - 1, -1, -1):\n", "steps are taken backwards", FORMS),
    Fault(R + "reference.py", "            S = S + k[..., :, None] * u[..., None, :]\n            outs.append(p.q[:, :, :, t] @ S)", "            outs.append(p.q[:, :, :, t] @ S)\n            S = S + k[..., :, None] * u[..., None, :]", "a token is read before it is written", FORMS),
    Fault(R + "normalise.py", "torch.where(none, 0.0, out / torch.where(none, 1.0, weight))", "out", "the sum of the keys is not divided by", FORMS),
    Fault(R + "normalise.py", "return torch.cat([v, one if real is None else one.masked_fill(~real[:, None, :, None], 0.0)], -1)", "return torch.cat([v, one * one.shape[2]], -1)", "a normaliser counts what is to come", FORMS),
    Fault(R + "normalise.py", "keys, decay = (logs - z[:, :, 1:]).exp()", "keys, decay = (logs - z[:, :, -1:]).exp()", "the future leaks through a running softmax", FORMS),
    Fault(R + "normalise.py", "        before = total.double()[:, :, None]\n", "        pass\n", "a running softmax forgets its total between steps", FORMS),
    Fault(R + "normalise.py", "keys, decay = (logs - z[:, :, 1:]).exp(), (z[:, :, :-1] + g - z[:, :, 1:]).clamp(max=0.0)", "z = z.float()\n        keys, decay = (logs - z[:, :, 1:]).exp(), (z[:, :, :-1] + g - z[:, :, 1:]).clamp(max=0.0)", "large keys are normalised in float32", EXACT),
    Fault(R + "sides.py", "return forwards + backwards - own, kept", "return forwards + backwards, kept", "a token counts twice where both sides are read", FORMS),
    Fault(R + "sides.py", "gone = torch.cat([each[:, :, 1:], torch.zeros_like(each[:, :, :1])], 2).flip(2)", "gone = each.flip(2)", "going back takes the decay of the earlier token", FORMS),
    Fault(R + "sides.py", "backwards = starts(-documents.flip(1), None if real is None else real.flip(1))", "backwards = starts(documents.flip(1), None if real is None else real.flip(1))", "a document ends where it begins", FORMS),
    Fault(R + "front.py", "if amount is not None and write == \"add\":\n        values, amount = values * amount[..., None], None", "if amount is not None and write == \"add\":\n        amount = None", "how much is written is ignored", FORMS),
    Fault(R + "front.py", "q, keys, values = (q * scale).to(wide), k.to(wide), v.to(wide)", "q, keys, values = q.to(wide), k.to(wide), v.to(wide)", "the scale of a recurrence is dropped", ("tests/ops/recurrence/test_recur.py", "-k", "scale")),
    Fault(R + "scan.py", "part = part + fade.exp() * h.unsqueeze(-2)", "part = part + h.unsqueeze(-2)", "a scan carries without decay", EXACT),
    Fault(R + "refuse.py", "if chunk is not None and (chunk < 1 or chunk & (chunk - 1)):", "if False:", "any chunk is let through", WRONG),
    Fault(R + "refuse.py", "if documents is not None and state is not None:", "if False:", "documents follow a state", WRONG),
    Fault(R + "problem.py", "bool((found > 0).any())", "False", "a decay may grow", WRONG),
]  # fmt: skip
