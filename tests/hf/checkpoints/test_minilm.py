"""The sentence encoder, by the similarities of sentences."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from regard.hf import Loaded, load

pytestmark = pytest.mark.checkpoint


@pytest.fixture(scope="module")
def loaded(pulled: Callable[[str], Path]) -> Loaded:
    pulled("minilm-l6")
    return load("minilm-l6")


def similarities(loaded: Loaded, sentences: list[str]) -> Tensor:
    """Cosines of the means over each sentence's tokens."""
    batch = loaded.processor(sentences, padding=True, return_tensors="pt")
    with torch.no_grad():
        states = loaded.model(**batch).last_hidden_state
    kept = batch["attention_mask"][..., None]
    means = F.normalize((states * kept).sum(1) / kept.sum(1), dim=-1)
    return means @ means.T


def test_the_similarities_that_its_makers_publish(loaded: Loaded) -> None:
    # From the first page of the documentation of sentence-transformers, printed with four places.
    found = similarities(loaded, ["The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium."])
    published = torch.tensor([[1.0, 0.6660, 0.1046], [0.6660, 1.0, 0.1411], [0.1046, 0.1411, 1.0]])
    torch.testing.assert_close(found, published, rtol=0, atol=1e-4)


def test_a_paraphrase_is_nearer_than_what_is_unrelated(loaded: Loaded) -> None:
    sentences = [
        "The cat is sleeping on the sofa.",
        "A kitten naps on the couch.",
        "How do I reset my password?",
        "I forgot my login and need a different one.",
        "The stock market fell sharply on Monday.",
        "Shares dropped a lot at the start of the week.",
    ]
    found = similarities(loaded, sentences).fill_diagonal_(-1.0)
    assert found.argmax(-1).tolist() == [1, 0, 3, 2, 5, 4]
