"""Token scores against torch's own softmax, entropy and gradients, in chunks that don't divide the tokens."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from edgereason.train.lora.masked_lora import token_scores


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch):
    monkeypatch.setattr("edgereason.train.lora.masked_lora._CHUNK_TOKENS", 3)


def inputs(dtype=torch.float32):
    torch.manual_seed(0)
    hidden = torch.randn(8, 5, dtype=dtype, requires_grad=True)
    return hidden, torch.randn(11, 5, dtype=dtype), torch.randint(11, (8,))


@pytest.mark.parametrize("temperature", [1.0, 0.7, 2.0])
def test_log_probabilities_and_their_gradient_are_those_of_a_softmax(temperature):
    hidden, head, ids = inputs()
    expected = (hidden @ head.T / temperature).log_softmax(-1)[torch.arange(8), ids]
    upstream = torch.randn(8)
    (wanted,) = torch.autograd.grad(expected, hidden, upstream)
    found, nothing = token_scores(hidden, head, ids, temperature=temperature)
    (got,) = torch.autograd.grad(found, hidden, upstream)
    assert torch.allclose(found, expected, atol=1e-6)
    assert torch.allclose(got, wanted, atol=1e-6)
    assert nothing is None


def test_wanting_entropies_changes_neither_scores_nor_gradient():
    hidden, head, ids = inputs()
    expected = torch.distributions.Categorical(logits=hidden @ head.T / 0.8).entropy()
    alone, _ = token_scores(hidden, head, ids, temperature=0.8)
    found, entropies = token_scores(hidden, head, ids, temperature=0.8, want_entropies=True)
    assert torch.allclose(entropies, expected, atol=1e-6)
    assert not entropies.requires_grad
    assert torch.equal(found, alone)
    gradients = [torch.autograd.grad(scores.sum(), hidden)[0] for scores in (alone, found)]
    assert torch.equal(*gradients)


def test_without_gradient_the_scores_are_the_same():
    hidden, head, ids = inputs()
    wanted, _ = token_scores(hidden, head, ids)
    with torch.no_grad():
        found, _ = token_scores(hidden, head, ids)
    assert torch.equal(found, wanted)
    assert not found.requires_grad


def test_the_gradient_is_that_of_finite_differences():
    hidden, head, ids = inputs(torch.float64)
    (got,) = torch.autograd.grad(token_scores(hidden, head, ids)[0].sum(), hidden)
    step = torch.zeros_like(hidden)
    step[4, 2] = 1e-3

    def total(states):
        return (states @ head.T).log_softmax(-1)[torch.arange(8), ids].sum()

    slope = (total(hidden + step) - total(hidden - step)) / 2e-3
    assert got[4, 2] == pytest.approx(slope.item(), rel=1e-4)


def test_no_tokens_have_no_scores():
    hidden, head, ids = inputs()
    logprobs, entropies = token_scores(hidden[:0], head, ids[:0], want_entropies=True)
    assert logprobs.shape == entropies.shape == (0,)
    logprobs.sum().backward()
    assert torch.equal(hidden.grad, torch.zeros_like(hidden))


def test_logits_are_held_of_a_chunk_and_of_trained_tokens_alone(monkeypatch):
    """Nothing that a loss makes, forward or backward, is as large as two chunks' logits."""
    monkeypatch.setattr("edgereason.train.lora.masked_lora._CHUNK_TOKENS", 16)
    vocab, sizes = 3000, []

    class Largest(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            sizes.extend(one.numel() for one in tree_leaves(out) if isinstance(one, torch.Tensor))
            return out

    hidden = torch.randn(200, 8, requires_grad=True)
    head, ids = torch.randn(vocab, 8), torch.randint(vocab, (200,))
    with Largest():
        token_scores(hidden, head, ids)[0].sum().backward()
    assert max(size for size in sizes if size != head.numel()) == 16 * vocab
