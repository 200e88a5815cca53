"""Everything measured of one method."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from torch import Tensor

from regard.bench import needles, statistics, timing
from regard.bench.memory import peak
from regard.bench.observe import Keep, Picture, Sample
from regard.bench.quality import quality
from regard.bench.settings import Settings
from regard.bench.subject import Subject
from regard.hf import apply
from regard.methods.dense import Dense
from regard.methods.method import Method

Step = Callable[[str, float], None]  # what is being done, and the share of the row that is done


class Bench:
    """One model, one text and the dense run that every method is set against."""

    def __init__(self, subject: Subject, ids: Tensor, settings: Settings) -> None:
        self.subject, self.ids, self.settings = subject, ids, settings
        self.dense_hidden: Tensor | None = None
        self.sample: Sample | None = None
        layers = subject.model.config.get_text_config().num_hidden_layers
        self.layer = layers // 2
        length = min(settings.context, max(512, settings.context // 4))
        count = min(settings.needles, max(1, length // 48))
        self.haystacks = [
            needles.hide(subject.loaded.processor, ids, length, count, settings.seed + n) for n in range(2)
        ]

    def reference(self, step: Step) -> None:
        """Read the text with dense attention once, to have its predictions and one layer's queries and keys."""
        step("warming up", 0.0)
        keep = Keep(self.layer)
        with apply(self.subject.model, keep):
            self.subject.read(self.ids[: min(256, self.settings.context)])
            step("reading the text with dense attention", 0.1)
            self.dense_hidden, _ = self.subject.read(self.ids[: self.settings.context])
        self.sample = keep.kept

    def row(self, method: Method, step: Step) -> dict[str, Any]:
        """Measure one method."""
        found: dict[str, Any] = {"method": method.spec.id, "settings": method.settings, "label": method.label}
        step("reading the text", 0.0)
        hidden, read = self._read(method, step)
        found |= read
        step("scoring predictions", 0.45)
        found |= self._quality(method, hidden)
        step("looking for needles", 0.7)
        found |= self._needles(method)
        step("timing one layer at several lengths", 0.9)
        assert self.sample is not None
        times = timing.against_dense(method, Dense(), self.sample, self.settings.context)
        is_dense = isinstance(method, Dense)
        found |= {"break_even": None if is_dense else timing.break_even(times), "break_even_times": times}
        return found

    def _read(self, method: Method, step: Step) -> tuple[Tensor, dict[str, Any]]:
        """Prefill and decode: their times, the memory they took, and what attention did."""
        context, device = self.settings.context, self.subject.device
        kept: list[Any] = []
        with apply(self.subject.model, method, meter=False):
            self.subject.read(self.ids[: min(256, context)])  # warm
        with apply(self.subject.model, method) as run:
            with peak(device) as held:
                prefill = timing.seconds(lambda: kept.extend(self.subject.read(self.ids[:context])), device)
            hidden, past = kept
            meter = run.meter
            found: dict[str, Any] = {
                "density": meter.density(phase="prefill"),
                "density_by_head": [d.tolist() for d in meter.density_by_head(phase="prefill").values()],
                "score_flops": int(meter.score_flops(phase="prefill")),
                "selection_flops": int(meter.selection_flops(phase="prefill")),
                "prefill_seconds": prefill,
                "peak_bytes": held.bytes,
            }
            step("decoding", 0.35)
            times = []
            for at in range(context, context + self.settings.decode):
                token = self.ids[at : at + 1][None].to(device)
                with torch.no_grad():
                    times.append(timing.seconds(lambda token=token: self.subject.forward(token, past), device))
            found["decode_ms_per_token"] = 1000 * median(times) if times else None
            found["kv_bytes"] = meter.kv_bytes
        return hidden, found

    def _quality(self, method: Method, hidden: Tensor) -> dict[str, Any]:
        ids = self.ids[: self.settings.context]
        dense = None if isinstance(method, Dense) else self.dense_hidden
        measured = quality(self.subject, ids, hidden, dense)
        return {
            "perplexity": statistics.perplexity(measured.losses),
            "perplexity_interval": list(statistics.bootstrap(measured.losses, seed=self.settings.seed)),
            "kl": measured.kl.double().mean().item(),
            "top1_agreement": measured.agree.double().mean().item(),
            "loss_by_position": statistics.by_position(measured.losses),
        }

    def _needles(self, method: Method) -> dict[str, Any]:
        picture = Picture(self.layer, 0)
        found: list[dict[str, object]] = []
        for watch, haystack in zip(([picture], []), self.haystacks, strict=True):
            with apply(self.subject.model, method, *watch):
                _, past = self.subject.read(haystack.haystack)
            with apply(self.subject.model, method):
                found += needles.ask(self.subject, haystack, past)
        right = sum(bool(one["correct"]) for one in found) / len(found)
        return {"needle_accuracy": right, "needles": found, "picture": picture.map()}
