"""The whole comparison on a tiny model, and what of it a run that was stopped leaves."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import OPTConfig, OPTForCausalLM

from regard.bench import store
from regard.bench.compare import RELATIVE, _related, compare
from regard.bench.quality import quality
from regard.bench.settings import Settings, chosen
from regard.bench.statistics import perplexity
from regard.bench.subject import Subject
from regard.errors import RegardError, Unsupported
from regard.hf import Loaded, apply
from tests.bench.tiny import WORDS, subject, text, tokenizer

ROW = {
    "method", "settings", "label", "perplexity", "perplexity_interval", "kl", "top1_agreement", "needle_accuracy",
    "needles", "density", "score_flops", "selection_flops", "kv_bytes", "prefill_seconds", "decode_ms_per_token",
    "peak_bytes", "relative", "break_even", "break_even_times", "loss_by_position", "density_by_head", "picture",
    "worse_than_baseline",
}  # fmt: skip
TYPED = ["sliding_window:window=32", "streaming_llm:window=28,sinks=4", "moba:block=32,top_k=2"]
TOKEN = 2 * 2 * 2 * 8 * 4  # bytes of a token: layers, keys and values, groups, width, float32
SLOT = TOKEN + 2 * 8  # a cache that lets tokens go also keeps, in each layer, the number of each
SETTINGS = Settings(context=256, decode=3, needles=2)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A result, as it was saved."""
    path = tmp_path_factory.mktemp("whole") / "compare.json"
    result = compare(subject(), text(), chosen(TYPED), SETTINGS, path=path, command=["regard", "compare", "a b"])
    assert store.read(path) == json.loads(json.dumps(result))
    return store.read(path)


def test_the_head(whole: dict[str, Any]) -> None:
    assert set(whole) == {
        "schema", "command", "started", "seed", "model", "text", "settings", "machine", "versions", "rows", "stream",
    }  # fmt: skip
    assert whole["schema"] == 1
    assert whole["command"] == "regard compare 'a b'"
    model = subject().model
    assert whole["model"] == {
        "name": "tiny", "revision": "0123456789ab", "architecture": "LlamaForCausalLM",
        "parameters": sum(p.numel() for p in model.parameters()), "layers": 2, "heads": 4, "groups": 2, "width": 8,
        "dtype": "float32", "trained_context": 4096,
    }  # fmt: skip
    tokens = len(tokenizer()(text().content, add_special_tokens=False)["input_ids"])
    assert whole["text"] == {"name": "part of alice29.txt", "sha256": "0-4000", "tokens": tokens}
    assert {"context": 256, "decode": 3}.items() <= whole["settings"].items()
    assert set(whole["machine"]) == {"processor", "threads", "device", "system"}
    assert set(whole["versions"]) == {"regard", "python", "torch", "transformers", "numpy"}
    assert whole["stream"] == []


def test_rows_have_the_schema_s_keys(whole: dict[str, Any]) -> None:
    assert [row["label"] for row in whole["rows"]] == [
        "dense",
        "sliding_window:window=32",
        "streaming_llm:window=28,sinks=4,in_cache_positions=true",
        "moba:block=32,top_k=2",
    ]
    for row in whole["rows"]:
        assert set(row) == ROW
        assert set(row["relative"]) == set(RELATIVE)
        assert row["perplexity_interval"][0] < row["perplexity"] < row["perplexity_interval"][1]
        assert len(row["needles"]) == whole["settings"]["needles"] == 4
        right = sum(one["correct"] for one in row["needles"])
        assert row["needle_accuracy"] == right / 4
        assert [len(heads) for heads in row["density_by_head"]] == [4, 4]
        flat = [share for heads in row["density_by_head"] for share in heads]
        assert row["density"] == pytest.approx(sum(flat) / len(flat))
        assert row["loss_by_position"][-1][1] == 255
        mean = sum((b - a) * loss for a, b, loss in row["loss_by_position"]) / 255
        assert math.exp(mean) == pytest.approx(row["perplexity"])
        assert [length for length, _, _ in row["break_even_times"]] == [256]
        size = len(row["picture"]["weights"])
        assert all(len(line) == size for line in row["picture"]["weights"])
        assert all(0 <= share <= 1 for line in row["picture"]["weights"] for share in line)


def test_dense_is_the_measure(whole: dict[str, Any]) -> None:
    dense, *others = whole["rows"]
    assert dense["kl"] == 0
    assert dense["top1_agreement"] == 1
    assert dense["density"] == 1
    assert dense["selection_flops"] == 0
    assert dense["break_even"] is None
    assert not dense["worse_than_baseline"]
    assert {name: share for name, share in dense["relative"].items() if share is not None} == {
        name: 1 for name in RELATIVE if dense[name]
    }
    for row in others:
        assert row["kl"] > 0
        assert row["top1_agreement"] < 1
        for name in RELATIVE:
            expected = row[name] / dense[name] if row[name] is not None and dense[name] else None
            assert row["relative"][name] == expected


def test_figures_that_are_known(whole: dict[str, Any]) -> None:
    dense, window, streaming, moba = whole["rows"]
    pairs = 256 * 257 // 2
    seen = 32 * 33 // 2 + (256 - 32) * 32
    assert window["density"] == pytest.approx(seen / pairs)
    assert streaming["density"] == window["density"]  # four sinks and 28 others: as many keys
    assert dense["score_flops"] == 2 * 4 * pairs * 2 * 16
    assert window["score_flops"] == 2 * 4 * seen * 2 * 16
    assert dense["kv_bytes"] == (256 + 3) * TOKEN
    assert window["kv_bytes"] == streaming["kv_bytes"] == 32 * SLOT
    assert moba["kv_bytes"] == dense["kv_bytes"]
    assert moba["selection_flops"] == 2 * 2 * 4 * 256 * 8 * 8  # layers, heads, queries, blocks, width
    assert window["selection_flops"] == streaming["selection_flops"] == 0


def test_perplexity_and_divergence_equal_a_plain_run(whole: dict[str, Any]) -> None:
    """The window's figures, from the model alone under a mask that is written out."""
    one = subject()
    ids = one.tokens(text().content)[:256]
    at = torch.arange(256)
    seen = (at[:, None] >= at) & (at[:, None] - at < 32)
    one.model.set_attn_implementation("eager")
    logs = {}
    for name, mask in (("dense", at[:, None] >= at), ("window", seen)):
        bias = torch.zeros(1, 1, 256, 256).masked_fill(~mask, torch.finfo(torch.float32).min)
        with torch.no_grad():
            logs[name] = one.model(ids[None], attention_mask=bias).logits[0, :-1].double().log_softmax(-1)
    for row, name in zip(whole["rows"], ("dense", "window"), strict=False):
        loss = -logs[name].gather(-1, ids[1:, None]).mean()
        assert row["perplexity"] == pytest.approx(float(loss.exp()), rel=1e-4)
        kl = (logs["dense"].exp() * (logs["dense"] - logs[name])).sum(-1).mean()
        assert row["kl"] == pytest.approx(float(kl), rel=1e-3, abs=1e-9)
        agree = (logs["dense"].argmax(-1) == logs[name].argmax(-1)).double().mean()
        assert row["top1_agreement"] == pytest.approx(float(agree), abs=1.5 / 255)


def interrupting(where: str) -> Callable[[str, float], None]:
    def progress(doing: str, done: float) -> None:
        if doing.startswith(where):
            raise KeyboardInterrupt

    return progress


def test_an_interrupt_leaves_finished_rows_and_resume_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "compare.json"
    methods = chosen(TYPED)
    with pytest.raises(KeyboardInterrupt):
        compare(
            subject(), text(), methods, SETTINGS, path=path, progress=interrupting("streaming_llm:window=28,sinks=4")
        )
    before = store.read(path)
    assert [row["method"] for row in before["rows"]] == ["dense", "sliding_window"]
    told: list[str] = []
    shares: list[float] = []

    def progress(doing: str, done: float) -> None:
        told.append(doing)
        shares.append(done)

    one = subject()
    result = compare(one, text(), methods, SETTINGS, path=path, resume=True, progress=progress)
    assert [row["method"] for row in result["rows"]] == ["dense", "sliding_window", "streaming_llm", "moba"]
    for old, row in zip(before["rows"], result["rows"], strict=False):
        assert {**row, "relative": None, "worse_than_baseline": None} == {
            **old, "relative": None, "worse_than_baseline": None,
        }  # fmt: skip
    assert not any(doing.startswith("sliding_window") for doing in told)
    assert shares == sorted(shares)
    assert 0 <= shares[0] < shares[-1] == 1
    assert one.model.config._attn_implementation == subject().model.config._attn_implementation
    # Everything is there: nothing runs again, and an added method alone does.
    told.clear()
    compare(one, text(), methods, SETTINGS, path=path, resume=True, progress=progress)
    assert told == ["done"]
    more = chosen([*TYPED, "random_blocks:block=32"])
    added = compare(one, text(), more, SETTINGS, path=path, resume=True, progress=progress)
    assert [row["method"] for row in added["rows"]][-1] == "random_blocks"
    assert {doing.partition(":")[0] for doing in told} == {"done", "dense", "random_blocks"}


def test_resume_refuses_another_comparison(tmp_path: Path, whole: dict[str, Any]) -> None:
    path = tmp_path / "compare.json"
    store.write(whole, path)

    def again(one: Subject | None = None, part: Any = None, **settings: int) -> None:
        given = {"context": 256, "decode": 3, "needles": 2, **settings}
        compare(one or subject(), part or text(), chosen(TYPED), Settings(**given), path=path, resume=True)

    for change, said in (
        (lambda: again(part=text(start=50)), r"another text \(sha256: 0-4000, now 50-4000\)"),
        (lambda: again(context=320), r"another settings \(context: 256, now 320\)"),
        (lambda: again(decode=2), r"another settings \(decode: 3, now 2\)"),
        (lambda: again(needles=3), r"another settings \(needles: 4, now 6\)"),
        (lambda: again(subject("other")), r"another model \(name: tiny, now other\)"),
        (lambda: again(seed=1), "was measured with seed 0; type --seed 0"),
    ):
        with pytest.raises(RegardError, match=said):
            change()
    assert store.read(path) == whole


def test_streams(tmp_path: Path) -> None:
    path = tmp_path / "compare.json"
    settings = Settings(context=64, decode=1, needles=1, stream=2560)
    methods = chosen(["streaming_llm:window=60,sinks=4"])
    stop = interrupting(f"{methods[1].label}: streaming")
    with pytest.raises(KeyboardInterrupt):
        compare(subject(), text(), methods, settings, path=path, progress=stop)
    assert [len(store.read(path)[part]) for part in ("rows", "stream")] == [2, 1]
    result = compare(subject(), text(), methods, settings, path=path, resume=True)
    dense, streaming = result["stream"]
    for row, held in ((dense, [1024 * TOKEN, 2048 * TOKEN, 2560 * TOKEN]), (streaming, [64 * SLOT] * 3)):
        assert set(row) == {"method", "settings", "label", "points"}
        assert [point["tokens"] for point in row["points"]] == [1024, 2048, 2560]
        assert [point["kv_bytes"] for point in row["points"]] == held
        for point in row["points"]:
            assert set(point) == {"tokens", "perplexity", "kv_bytes", "ms_per_token"}
            assert point["ms_per_token"] > 0
            assert 1 < point["perplexity"] < 1e6
    # The text ends after fewer tokens and is begun again.
    assert result["text"]["tokens"] < 2560
    ids = subject().tokens(text().content)
    endless = ids.repeat(2)[:2561]
    with torch.no_grad():
        logits = subject().model(endless[None, :-1]).logits[0].double()
    losses = torch.nn.functional.cross_entropy(logits, endless[1:], reduction="none")
    for point, part in zip(dense["points"], losses.split(1024), strict=True):
        assert point["perplexity"] == pytest.approx(float(part.mean().exp()), rel=1e-4)


def test_a_stream_keeps_no_more_however_long(tmp_path: Path) -> None:
    settings = Settings(context=64, decode=0, needles=1, stream=3072)
    result = compare(subject(), text(), chosen(["sliding_window:window=100"]), settings)
    assert {point["kv_bytes"] for point in result["stream"][1]["points"]} == {100 * SLOT}
    assert result["rows"][0]["decode_ms_per_token"] is None
    assert result["rows"][1]["relative"]["decode_ms_per_token"] is None


def test_a_text_that_is_too_short(tmp_path: Path) -> None:
    path = tmp_path / "compare.json"
    with pytest.raises(
        RegardError, match=r"has \d+ tokens; --context 4096 and --decode 3 need 4099\. Type --context \d+,"
    ):
        compare(subject(), text(), chosen([]), Settings(context=4096, decode=3), path=path)
    with pytest.raises(RegardError, match=r"need 67\. Give a longer text\."):
        compare(subject(), text(40), chosen([]), Settings(context=64, decode=3), path=path)
    assert not path.exists()


def test_a_method_that_the_model_does_not_serve_is_refused_before_anything_runs(tmp_path: Path) -> None:
    config = OPTConfig(
        vocab_size=WORDS, hidden_size=32, ffn_dim=32, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=512, word_embed_proj_dim=32,
    )  # fmt: skip
    opt = Subject(Loaded(OPTForCausalLM(config).eval(), tokenizer(), "tiny-opt", None, None))
    path = tmp_path / "compare.json"
    with pytest.raises(Unsupported, match=r"tiny-opt can't be served.*use streaming_llm:in_cache_positions=false"):
        compare(opt, text(), chosen(["streaming_llm:window=60"]), SETTINGS, path=path)
    assert not path.exists()
    typed = "streaming_llm:window=60,in_cache_positions=false"
    result = compare(opt, text(), chosen([typed]), SETTINGS)  # the advice works
    assert len(result["rows"]) == 2


def test_a_window_with_sinks_that_does_better_with_no_more_keys_is_told() -> None:
    def row(method: str, density: float, perplexity: float, kl: float, sinks: int = 4) -> dict[str, Any]:
        settings = {"sinks": sinks} if method == "streaming_llm" else {}
        return {"method": method, "settings": settings, "density": density, "perplexity": perplexity, "kl": kl}

    rows = [
        row("dense", 1.0, 10.0, 0.0),
        row("streaming_llm", 0.25, 11.0, 0.1),
        row("streaming_llm", 0.25, 30.0, 1.0, sinks=0),
        row("moba", 0.25, 11.5, 0.2),
        row("moba", 0.25, 10.5, 0.2),  # better in one way, worse in the other
        row("moba", 0.10, 11.5, 0.2),  # worse, but with fewer keys
        row("moba", 0.90, 11.5, 0.2),
    ]
    told = [one["worse_than_baseline"] for one in _related(rows)]
    assert told == [False, False, True, True, False, False, True]
    assert rows[3]["relative"]["perplexity"] == 1.15
    assert rows[3]["relative"]["peak_bytes"] is None
    alone = _related([row("moba", 0.25, 11.5, 0.2)])  # a run that stopped before dense was measured
    assert set(alone[0]["relative"].values()) == {None}
    assert not alone[0]["worse_than_baseline"]


@pytest.mark.checkpoint
def test_sinks_save_a_window_on_a_real_model(pulled: Callable[[str], Path]) -> None:
    one = Subject.open(str(pulled("smollm2-135m")))
    ids = one.tokens(text(8000, 20000).content)[:1024]
    assert len(ids) == 1024
    found, shares = [], []
    for method in chosen(["sliding_window:window=256", "streaming_llm:window=252,sinks=4"]):
        with apply(one.model, method) as run:
            hidden, _ = one.read(ids)
        found.append(perplexity(quality(one, ids, hidden, None).losses))
        shares.append(run.meter.density())
    dense, window, sinks = found
    assert shares[0] == 1
    assert shares[1] == pytest.approx(shares[2])
    assert window > 1.4 * dense
    assert sinks < 1.1 * dense
