"""Faults in backbones, tasks and the training benchmark."""

from __future__ import annotations

from tests.mutants.fault import Fault

DECODER = ("tests/backbones/test_decoder.py",)
TASKS = ("tests/bench/tasks/test_tasks.py",)
RUN = ("tests/bench/train/test_run.py",)
FLOOR = ("tests/bench/train/test_floor.py",)
SPREAD = ("tests/bench/train/test_spread.py",)
ENTRANT = ("tests/bench/train/test_entrant.py",)
WHOLE = ("tests/bench/train/test_training.py",)
PAGE = ("tests/bench/train/test_page.py",)
WINDOW = ("tests/mechanisms/selection/test_sliding_window.py",)
B = "regard/backbones/"
K = "regard/bench/tasks/"
T = "regard/bench/train/"
S = "regard/mechanisms/selection/sliding_window.py"

FAULTS = [
    Fault(S, "window(self.window, ahead)", "window(self.window + 1, ahead)", "the window mixer reads one key too many", WINDOW),
    Fault(S, "ahead = 0 if call.causal else self.window - 1", "ahead = 0", "the window mixer never looks ahead", WINDOW),
    Fault(S, "self.at_least(window=1)", "pass", "the window mixer takes an empty window", WINDOW),
    Fault(B + "block.py", "            embeddings=embeddings,\n            layer=index,\n", "            embeddings=x,\n            layer=index,\n", "a layer is told the stream for the model's input", DECODER),
    Fault(B + "block.py", "nn.functional.silu(self.gate(x)) * self.up(x)", "nn.functional.silu(self.up(x)) * self.gate(x)", "the gate and what it gates are swapped", DECODER),
    Fault(B + "block.py", "state, self.before_attention(x), padding=padding, embeddings=embeddings, layer=index", "state, x, padding=padding, embeddings=embeddings, layer=index", "steps read tokens before the norm", DECODER),
    Fault(B + "block.py", "            causal=True,\n", "            causal=False,\n", "the decoder sees the future", DECODER),
    Fault(B + "decoder.py", "nn.init.normal_(part.weight, std=part.in_features**-0.5, generator=generator)", "nn.init.normal_(part.weight, std=part.in_features**-0.5)", "the maps of two models of one seed start apart", DECODER),
    Fault(B + "decoder.py", "            after.append(kept)\n", "            after.append(state[index])\n", "the decoder's state stays where it was", DECODER),
    Fault(K + "mqar.py", "return ids, torch.full_like(ids, SILENT).scatter_(1, at, values)", "return ids, torch.full_like(ids, SILENT).scatter_(1, at, values.flip(1))", "mqar asks for another key's value", TASKS),
    Fault(K + "mqar.py", "weights = places ** (self.power - 1)", "weights = places**self.power", "mqar's gaps grow", TASKS),
    Fault(K + "flip_flop.py", "torch.where(told == WRITE, places, 0).cummax(1).values", "torch.where(told != READ, places, 0).cummax(1).values", "ignored bits are read", TASKS),
    Fault(K + "flip_flop.py", "chance < (1 + self.ignore) / 2, WRITE, READ", "chance < self.ignore + 0.01, WRITE, READ", "writes are rarer than reads", TASKS),
    Fault(K + "selective_copy.py", "[:, : self.copies].sort(1).values", "[:, : self.copies]", "copies are asked out of order", TASKS),
    Fault(K + "char_lm.py", "part = ids[edge:] if held_out else ids[:edge]", "part = ids", "characters that are held out are trained on", TASKS),
    Fault(T + "run.py", "data_seed(seed, step))\n    ids, targets", "data_seed(seed, 0))\n    ids, targets", "every step reads the same sequences", RUN),
    Fault(T + "run.py", "ignore_index=SILENT)", "ignore_index=0)", "what is not asked is learnt", RUN),
    Fault(T + "run.py", "    optimiser.step()\n    return loss.item()", "    optimiser.step() if step % 2 else None\n    return loss.item()", "every other step is left out", (*RUN, "-k", "adamw")),
    Fault(T + "run.py", "nn.utils.clip_grad_norm_(model.parameters(), settings.clip)", "pass", "gradients are not clipped", (*RUN, "-k", "adamw")),
    Fault(T + "settings.py", "if step < warm:", "if False:", "there is no warm-up", RUN),
    Fault(T + "checkpoint.py", 'optimiser.load_state_dict({**optimiser.state_dict(), "state": state})', "pass", "the optimiser's state is lost with an interruption", (*RUN, "-k", "going_on")),
    Fault(T + "checkpoint.py", 'if facts["mark"] != mark:', "if False:", "another training's checkpoint is gone on with", RUN),
    Fault(T + "checkpoint.py", "digest = hashlib.sha256(label.encode()).hexdigest()[:6]", 'digest = hashlib.sha256(b"").hexdigest()[:6]', "two labels share a checkpoint", RUN),
    Fault(T + "evaluate.py", "asked += int(there.sum())", "asked += there.numel()", "what is not asked counts as wrong", RUN),
    Fault(T + "entrant.py", "torch.manual_seed(seed)\n", "pass\n", "a model's attention does not depend on its seed", ENTRANT),
    Fault(T + "entrant.py", 'fill.setdefault("position", parse(position))', "pass", "the position that is asked for is left out", ENTRANT),
    Fault(T + "floor.py", 'engine="reference"', 'engine="auto"', "the twin runs through the same engine", FLOOR),
    Fault(T + "floor.py", "max(differences) if differences", "min(differences) if differences", "the floor is the smallest difference", FLOOR),
    Fault(T + "floor.py", 'if not math.fabs(a["metric"] - b["metric"]) > least:', "if False:", "mechanisms are ranked inside the noise floor", FLOOR),
    Fault(T + "floor.py", 'a["interval"][0] <= b["interval"][1] and b["interval"][0] <= a["interval"][1]', 'a["interval"][0] <= b["metric"] <= a["interval"][1]', "overlapping intervals are ranked", FLOOR),
    Fault(T + "spread.py", "wide = _T[degrees - 1]", "wide = _T[degrees]", "intervals count a seed too many", SPREAD),
    Fault(T + "spread.py", '"metric": statistics.fmean(ends) if whole else None', '"metric": statistics.fmean(ends) if ends else None', "seeds that broke are left out of the mean", SPREAD),
    Fault(T + "training.py", "todo = [(entrant, seed) for entrant, seed in todo if (entrant.label, seed) not in done]", "pass", "finished trainings are made again", WHOLE),
    Fault(T + "training.py", 'if before.get("position") != now["position"]:', "if False:", "another position is gone on with", WHOLE),
    Fault(T + "verdict.py", 'row["metric"] if metric == "accuracy" else -row["metric"]', 'row["metric"]', "more loss is better", PAGE),
    Fault(T + "report.py", "autoescape=True", "autoescape=False", "names run scripts in the training report", PAGE),
]  # fmt: skip
