"""The masked forward against PEFT's own activated LoRA, which computes whole sequences."""

from __future__ import annotations

import pytest
import torch
from tiny_lora import OPENING, gradients, lora_model, random_rows

from edgereason.errors import TrainingError
from edgereason.train.lora.masked_lora import MaskedLora, ResponseBatch, adapter_off


def plain_logprobs(model, row):
    """Of a row's response, by a forward over prompt and response in one go."""
    prompt, response, _ = row
    ids = torch.tensor([prompt + response])
    logits = model(input_ids=ids).logits[0].float()
    return logits.log_softmax(-1)[torch.arange(len(prompt) - 1, ids.shape[1] - 1), ids[0, len(prompt) :]]


def flat(rows, found):
    """The trained entries of a batch, row by row."""
    return torch.cat([found[n, : len(row[1])][torch.tensor(row[2])] for n, row in enumerate(rows)])


def test_it_is_pefts_activated_lora_in_log_probabilities_and_gradients():
    # GIVEN rows of unequal lengths, two of which share a prompt
    rows = random_rows()
    rows.append((rows[0][0], *random_rows(5)[1][1:]))
    reference = lora_model(invocation=OPENING)
    expected = torch.cat([plain_logprobs(reference, row)[torch.tensor(row[2])] for row in rows])
    (-expected.mean()).backward()
    # WHEN
    model = lora_model()
    found = flat(rows, MaskedLora(model)(ResponseBatch.of(rows)))
    (-found.mean()).backward()
    # THEN
    assert torch.allclose(found, expected, atol=1e-5)
    wanted, got = gradients(reference), gradients(model)
    assert wanted.keys() == got.keys()
    assert len(got) == 2 * 7 * 2
    for name, gradient in wanted.items():
        assert gradient.abs().max() > 1e-4  # every factor is reached
        assert torch.allclose(got[name], gradient, atol=1e-6, rtol=1e-4), name


def test_with_masks_and_copies_as_on_other_devices_it_comes_to_the_same():
    rows, found = random_rows(), []
    models = lora_model(), lora_model()
    for model, has_window in zip(models, (False, True), strict=True):
        masked = MaskedLora(model)
        masked._has_window = has_window
        found.append(masked(ResponseBatch.of(rows)))
        found[-1].sum().backward()
    assert torch.allclose(*found, atol=1e-5)
    forked, copied = map(gradients, models)
    for name, gradient in forked.items():
        assert (gradient - copied[name]).abs().max() < 1e-4 * gradient.abs().max(), name


def test_an_attention_that_takes_no_such_masks_is_refused():
    model = lora_model()
    model.get_base_model().config._attn_implementation = "eager"
    with pytest.raises(TrainingError, match="attention is eager; expected sdpa"):
        MaskedLora(model)


def test_it_differs_from_a_lora_that_is_on_everywhere():
    (row,) = random_rows()[:1]
    model = lora_model()
    everywhere = plain_logprobs(model, row)[torch.tensor(row[2])]
    masked = flat([row], MaskedLora(model)(ResponseBatch.of([row])))
    assert (everywhere - masked).abs().max() > 0.01


def test_with_an_empty_prompt_it_is_a_lora_that_is_on_everywhere():
    # GIVEN rows of unequal lengths that are all response
    rows = [
        ((), prompt + response, (False,) * len(prompt) + wanted) for prompt, response, wanted in random_rows()
    ]
    whole = ResponseBatch.of(rows)
    reference = lora_model()
    expected = [
        plain_logprobs(reference, (response[:1], response[1:], None))[torch.tensor(wanted[1:])]
        for _, response, wanted in rows
    ]
    torch.cat(expected).sum().backward()
    # WHEN
    model = lora_model()
    found = flat(rows, MaskedLora(model)(whole))
    found.sum().backward()
    # THEN
    assert torch.allclose(found, torch.cat(expected), atol=1e-5)
    got = gradients(model)
    for name, gradient in gradients(reference).items():
        assert torch.allclose(got[name], gradient, atol=1e-5, rtol=1e-4), name


def test_an_empty_prompt_beside_others_is_refused():
    (row, *_) = random_rows()
    with pytest.raises(TrainingError, match="empty prompt beside others"):
        MaskedLora(lora_model())(ResponseBatch.of([row, ((), *row[1:])]))


def test_what_shares_a_batch_changes_nothing():
    rows = random_rows(3, prompts=(3, 30, 11, 3), responses=(40, 2, 9, 5))
    masked = MaskedLora(lora_model())
    together = masked(ResponseBatch.of(rows))
    for n, row in enumerate(rows):
        alone = masked(ResponseBatch.of([row]))[0]
        assert torch.allclose(together[n, : len(alone)], alone, atol=1e-5)
        assert not together[n, len(alone) :].any()


def test_checkpointing_changes_no_gradient():
    rows, found = random_rows(), []
    for checkpointing in (False, True):
        model = lora_model()
        model.train()
        if checkpointing:
            model.get_base_model().activation_checkpointing_enable({"use_reentrant": False})
        masked = MaskedLora(model)
        masked(ResponseBatch.of(rows)).sum().backward()
        found.append(gradients(model))
    plain, again = found
    assert all(torch.equal(plain[name], again[name]) for name in plain)


def test_prompts_are_encoded_once_while_there_is_room(monkeypatch):
    rows = random_rows(prompts=(6, 6, 6))
    encoded = []
    encode = MaskedLora._encode
    monkeypatch.setattr(MaskedLora, "_encode", lambda self, ids: encoded.append(ids) or encode(self, ids))
    one = 6 * 2 * 2 * 2 * 8 * 4  # tokens × (keys, values) × layers × KV heads × head_dim × float32
    masked = MaskedLora(lora_model(), cached_bytes=2 * one)
    first, second, third = (row[0] for row in rows)
    for row in (rows[0], rows[1], rows[0], rows[2], rows[0], rows[1]):
        masked(ResponseBatch.of([row]))
    assert encoded == [first, second, third, second]  # the second was the longest unused
    encoded.clear()
    masked = MaskedLora(lora_model())
    for _ in range(2):
        masked(ResponseBatch.of(rows[:1]))
    assert encoded == [first, first]


def test_a_prompt_from_the_cache_gives_the_same_bits():
    batch, masked = ResponseBatch.of(random_rows()), MaskedLora(lora_model(), cached_bytes=10**6)
    assert torch.equal(masked(batch), masked(batch))


def test_the_adapter_is_off_only_within_and_gradients_stay_wanted():
    model, ids = lora_model(), torch.tensor([[1, 2, 3]])
    on = model(input_ids=ids).logits
    wanted = [p.requires_grad for p in model.parameters()]
    with pytest.raises(RuntimeError), adapter_off(model):
        off = model(input_ids=ids).logits
        assert [p.requires_grad for p in model.parameters()] == wanted
        raise RuntimeError
    assert (on - off).abs().max() > 0.01
    assert torch.equal(model(input_ids=ids).logits, on)
    base = model.unload()
    assert torch.allclose(base(input_ids=ids).logits, off, atol=1e-6)


def test_dropout_acts_on_responses_and_never_on_prompts():
    model = lora_model(dropout=0.5)
    model.train()
    masked = MaskedLora(model, cached_bytes=10**6)
    batch = ResponseBatch.of(random_rows())
    assert not torch.equal(masked(batch), masked(batch))
    assert model.training
    kept = masked.encoded(batch.prompts[0]).layers[1][0]
    assert torch.equal(kept, masked._encode(batch.prompts[0]).layers[1][0])


def test_bfloat16_products_come_close():
    batch = ResponseBatch.of(random_rows())
    exact = MaskedLora(lora_model())(batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = MaskedLora(lora_model())(batch)
    assert rough.dtype == torch.float32
    assert 0 < (rough - exact).abs().max() < 0.3
