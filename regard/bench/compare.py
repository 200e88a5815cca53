"""The main job: which attention should this model use, on this text, on this machine?"""

from __future__ import annotations

import datetime
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from regard.bench import machine, store
from regard.bench.row import Bench
from regard.bench.settings import Settings
from regard.bench.stream import stream
from regard.bench.subject import Subject
from regard.bench.text import Text
from regard.errors import RegardError, Unsupported
from regard.hf import check
from regard.methods.method import Method

_QUESTION = 64  # tokens that a needle's question and answer may take after the text


class Progress(Protocol):
    """What is told of a long run: what is being done, and how much of the whole is done (0 to 1)."""

    def __call__(self, doing: str, done: float) -> None: ...


def compare(
    subject: Subject,
    text: Text,
    methods: Sequence[Method],
    settings: Settings,
    *,
    path: Path | None = None,
    resume: bool = False,
    command: Sequence[str] = (),
    progress: Progress = lambda doing, done: None,
) -> dict[str, Any]:
    """Measure every method on the same tokens and set it against dense attention, which must be the first.

    With `path` every finished row is saved there as JSON; `resume` goes on from what is there.

    Raises: RegardError where the text is too short, or what is resumed was another comparison; Unsupported where a
    method can't serve the model, before anything is measured.
    """
    refused = [f"{method.label}: {reason}" for method in methods for reason in check(subject.model, method)]
    if refused:
        raise Unsupported(f"{subject.loaded.name} can't be served. " + " ".join(refused))
    ids = subject.tokens(text.content)
    _long_enough(ids, text, settings)
    _room(subject, settings)
    result = _head(subject, text, ids, settings, command)
    if resume and path is not None:
        result = _resumed(store.read(path), result, path)
    labels = [method.label for method in methods]
    done = {row["label"]: row for row in result["rows"]}
    todo = [method for method in methods if method.label not in done]
    streamed = {row["label"] for row in result["stream"]}
    left = [method for method in methods if settings.stream and method.label not in streamed]
    whole = len(todo) + (1 if todo else 0) + 2 * len(left)
    finished = 0.0

    def step(name: str, size: float = 1.0) -> Callable[[str, float], None]:
        return lambda doing, part: progress(f"{name}: {doing}", (finished + size * part) / max(1, whole))

    def save() -> None:
        result["rows"] = _related([done[label] for label in labels if label in done])
        if path is not None:
            store.write(result, path)

    if todo:
        bench = Bench(subject, ids, settings)
        bench.reference(step("dense"))
        finished += 1
        for method in todo:
            done[method.label] = bench.row(method, step(method.label))
            finished += 1
            save()
    for method in left:
        points = stream(subject, ids, method, settings.stream, step(method.label, 2.0))
        row = {"method": method.spec.id, "settings": method.settings, "label": method.label, "points": points}
        result["stream"].append(row)
        finished += 2
        save()
    save()
    progress("done", 1.0)
    return result


def _long_enough(ids: Tensor, text: Text, settings: Settings) -> None:
    context, decode = settings.context, settings.decode
    if len(ids) >= context + decode:
        return
    fits = (len(ids) - decode) // 64 * 64
    advice = f"Type --context {fits}, or give a longer text." if fits >= 64 else "Give a longer text."
    raise RegardError(
        f"{text.name} has {len(ids)} tokens; --context {context} and --decode {decode} need {context + decode}. "
        f"{advice}"
    )


def _room(subject: Subject, settings: Settings) -> None:
    """A model that learnt each position has only so many."""
    longest = subject.longest
    if longest is None:
        return
    has = f"{subject.loaded.name} has learned positions for {longest} tokens;"
    more = max(settings.decode, _QUESTION)
    if settings.context + more > longest:
        fits = (longest - more) // 64 * 64
        advice = f"Type --context {fits}." if fits >= 64 else "Type a smaller --decode, or take another --model."
        needs = f"--context {settings.context} with --decode {settings.decode} needs {settings.context + more}."
        raise RegardError(f"{has} {needs} {advice}")
    if settings.stream > longest:
        raise RegardError(f"{has} --stream {settings.stream} needs {settings.stream}. Leave --stream out.")


def _head(subject: Subject, text: Text, ids: Tensor, settings: Settings, command: Sequence[str]) -> dict[str, Any]:
    model, config = subject.model, subject.model.config.get_text_config()
    heads = config.num_attention_heads
    return {
        "schema": 1,
        "command": shlex.join(command),
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "seed": settings.seed,
        "model": {
            "name": subject.loaded.name,
            "revision": subject.loaded.revision,
            "architecture": type(model).__name__,
            "parameters": sum(p.numel() for p in model.parameters()),
            "layers": config.num_hidden_layers,
            "heads": heads,
            "groups": getattr(config, "num_key_value_heads", None) or heads,
            "width": getattr(config, "head_dim", None) or config.hidden_size // heads,
            "dtype": str(model.dtype).removeprefix("torch."),
            "trained_context": getattr(config, "max_position_embeddings", None),
        },
        "text": {"name": text.name, "sha256": text.sha256, "tokens": len(ids)},
        "settings": {
            "context": settings.context,
            "decode": settings.decode,
            "needles": 2 * settings.needles,
            "stream": settings.stream,
        },
        "machine": machine.machine(subject.device),
        "versions": machine.versions(),
        "rows": [],
        "stream": [],
    }


def _resumed(before: dict[str, Any], now: dict[str, Any], path: Path) -> dict[str, Any]:
    for part, names in (
        ("model", ("name", "revision", "dtype")),
        ("text", ("sha256",)),
        ("settings", ("context", "decode", "needles")),
    ):
        for name in names:
            old, new = before.get(part, {}).get(name), now[part][name]
            if old != new:
                raise RegardError(
                    f"{path} was measured with another {part} ({name}: {old}, now {new}); "
                    "type the command without --resume to start afresh."
                )
    if before.get("seed") != now["seed"]:
        raise RegardError(f"{path} was measured with seed {before.get('seed')}; type --seed {before.get('seed')}.")
    # Streams of another length are measured again; where none is asked for, those that are there stay.
    length, asked = before["settings"].get("stream", 0), now["settings"]["stream"]
    kept = before.get("stream", []) if asked in (0, length) else []
    settings = {**now["settings"], "stream": asked or length}
    return {**now, "settings": settings, "rows": before["rows"], "stream": kept}


RELATIVE = ("perplexity", "kv_bytes", "prefill_seconds", "decode_ms_per_token", "peak_bytes", "score_flops")


def _related(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each row with its ratios to dense, and whether a window with sinks does better with no more keys."""
    dense = next((row for row in rows if row["method"] == "dense"), None)
    baselines = [row for row in rows if row["method"] == "streaming_llm" and row["settings"].get("sinks", 0) > 0]
    for row in rows:
        row["relative"] = {name: _ratio(row, dense, name) for name in RELATIVE}
        row["worse_than_baseline"] = any(
            base is not row
            and base["density"] <= row["density"] * 1.02
            and all(_less(base[name], row[name]) for name in ("perplexity", "kl"))
            for base in baselines
        )
    return rows


def _less(a: float | None, b: float | None) -> bool:
    return a is not None and b is not None and a < b


def _ratio(row: dict[str, Any], dense: dict[str, Any] | None, name: str) -> float | None:
    ours, theirs = row.get(name), dense.get(name) if dense else None
    return ours / theirs if ours is not None and theirs else None
