"""Training from the same weights here and in PyTorch: the same batches, optimizer and order, no dropout."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transformer_jax.interop.published import open_published
from transformer_jax.models.decoder_only import DecoderOnlyConfig
from transformer_jax.models.encoder_decoder import EncoderDecoderConfig
from transformer_jax.nn.parameters import named_parameters, parameter_axes, replace_parameters
from transformer_jax.parallel.mesh import MeshConfig, make_mesh
from transformer_jax.tasks.classification import Classification
from transformer_jax.tasks.language_modelling import LanguageModelling
from transformer_jax.tasks.translation import Translation
from transformer_jax.training.optimizer import OptimizerConfig, make_optimizer, make_schedule
from transformer_jax.training.step import abstract_model, init_state, make_step

torch = pytest.importorskip("torch", reason="compares with PyTorch")
transformers = pytest.importorskip("transformers", reason="compares with transformers")

DECAY, CLIP = 0.01, 1.0
ROWS, LENGTH, VOCABULARY, LABELS = 8, 12, 40, 3
TOKENS = {"vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
SIZES: dict[str, Any] = {
    **TOKENS,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
}
SIZES["initializer_range"] = 0.1
CASES = {
    "BertForSequenceClassification": {**SIZES, "num_labels": LABELS, "max_position_embeddings": 20},
    "LlamaForCausalLM": {**SIZES, "max_position_embeddings": 64, "tie_word_embeddings": True, "num_key_value_heads": 2},
    "MarianMTModel": {
        **{
            **TOKENS,
            "d_model": 32,
            "encoder_layers": 2,
            "decoder_layers": 2,
            "max_position_embeddings": 20,
            "init_std": 0.1,
        },
        **{"encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "encoder_attention_heads": 4, "decoder_attention_heads": 4},
        **{"dropout": 0.0, "activation_function": "relu", "scale_embedding": True, "decoder_start_token_id": 1},
    },
}
CONFIG = OptimizerConfig(
    name="adamw", schedule="linear", learning_rate=3e-3, warmup_steps=5, weight_decay=DECAY, clip_norm=CLIP,
    b2=0.999, epsilon=1e-8,
)  # fmt: skip
FROM_NOTHING = 200, dataclasses.replace(CONFIG, learning_rate=1e-3, warmup_steps=50)
"""A rate at which the batches are not known by heart at the end, when what is left of a loss is rounding."""
NO_PARAMETERS = {EncoderDecoderConfig: ("output_bias",)}
"""What is a constant there."""
MESHES = ({"data": 1}, {"data": 2, "fsdp": 2, "tensor": 2})


def batches(steps):
    """Tokens that go up by 1, 2 or 3, which is the label; behind them padding or not."""
    random = np.random.default_rng(0)
    for _ in range(steps):
        lengths = random.integers(4, LENGTH + 1, ROWS)
        lengths[0] = LENGTH
        start = random.integers(0, VOCABULARY, (ROWS, 1))
        labels = start[:, 0] % LABELS
        tokens = 3 + (start + np.arange(LENGTH) * (labels[:, None] + 1)) % (VOCABULARY - 3)
        yield np.where(np.arange(LENGTH) < lengths[:, None], tokens, 0), lengths, labels


def translated(tokens, lengths):
    """The words turned around, between a start and an end."""
    rows = [[1, *row[:length][::-1], 2, *[0] * (LENGTH - length)] for row, length in zip(tokens, lengths, strict=True)]
    return np.array(rows)


def pytorch_losses(model, steps, config):
    """Theirs; matrices decay, and as here no norm and no bias."""
    decayed = [each for name, each in model.named_parameters() if each.ndim > 1 and "position" not in name]
    others = [each for each in model.parameters() if not any(each is one for one in decayed)]
    groups = [{"params": decayed, "weight_decay": DECAY}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, betas=(config.b1, config.b2), eps=config.epsilon)
    schedule = make_schedule(config, 0, steps)
    for step, (tokens, lengths, labels) in enumerate(batches(steps)):
        inputs, real = torch.tensor(tokens), torch.tensor(np.arange(LENGTH) < lengths[:, None])
        if isinstance(model, transformers.LlamaForCausalLM):
            labels = torch.where(real, inputs, -100)
        others = {}
        if isinstance(model, transformers.MarianMTModel):
            target = torch.tensor(translated(tokens, lengths))
            others["decoder_input_ids"] = target[:, :-1]
            labels = torch.where(target[:, 1:] > 0, target[:, 1:], -100)
        loss = model(inputs, attention_mask=real.long(), labels=torch.as_tensor(labels), **others).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        for group in optimizer.param_groups:
            group["lr"] = np.asarray(schedule(step)).item()
        optimizer.step()
        yield float(loss)


def our_losses(published, steps, recipe, mesh):
    rates = [name for name in ("dropout", "attention_dropout", "head_dropout") if hasattr(published.config, name)]
    config = dataclasses.replace(published.config, **dict.fromkeys(rates, 0.0))
    mesh = make_mesh(MeshConfig(**mesh), jax.devices()[: math.prod(mesh.values())])
    schedule = make_schedule(recipe, config.d_model, steps)
    frozen = NO_PARAMETERS.get(type(config), ())
    axes = {name: names for name, names in parameter_axes(abstract_model(config)).items() if name not in frozen}
    optimizer = make_optimizer(recipe, axes, schedule)
    kinds = {DecoderOnlyConfig: LanguageModelling(), EncoderDecoderConfig: Translation(label_smoothing=0.0)}
    task = kinds.get(type(config), Classification())
    step = make_step(task, optimizer, schedule, frozen=frozen)
    with jax.set_mesh(mesh):
        state = init_state(config, optimizer, 0, mesh, frozen)
        places = {name: value.sharding for name, value in named_parameters(state.model).items()}
        state = state._replace(model=replace_parameters(state.model, named_parameters(published.model(places))))
        for tokens, lengths, labels in batches(steps):
            real, zeros = np.arange(LENGTH) < lengths[:, None], np.zeros(ROWS, int)
            if isinstance(task, Translation):
                batch = {"source": tokens, "source_length": lengths, "target_length": lengths + 2}
                batch["target"] = translated(tokens, lengths)
            elif isinstance(task, LanguageModelling):
                places = np.broadcast_to(np.arange(LENGTH), tokens.shape)
                own = np.where(real, 1, 2 + places)  # no token of padding follows another of the same text
                batch = {"tokens": tokens, "segments": own, "positions": places, "example": zeros, "place": zeros}
            else:
                batch = {"tokens": tokens, "tokens_length": lengths, "first": lengths, "label": labels}
            batch = {name: jnp.asarray(array, jnp.int32) for name, array in batch.items()}
            state, metrics = step(state, batch, jax.random.key(0))
            yield float(metrics["loss"])


@pytest.mark.slow
@pytest.mark.parametrize("kind", CASES)
def test_steps_have_the_losses_of_pytorch_on_one_device_and_on_eight(kind, tmp_path):
    model_class, recipe = getattr(transformers, kind), FROM_NOTHING if kind == "MarianMTModel" else (50, CONFIG)
    torch.manual_seed(0)
    model = model_class(model_class.config_class(**CASES[kind])).eval()
    model.save_pretrained(tmp_path)
    published = open_published(tmp_path)
    expected = [*pytorch_losses(model, *recipe)]
    assert expected[-1] < 0.8 * expected[0], "it learns"
    for mesh in MESHES:
        np.testing.assert_allclose([*our_losses(published, *recipe, mesh)], expected, rtol=1e-3, err_msg=str(mesh))
