"""Fine-tuning of one published checkpoint here and in PyTorch: the same batches, optimizer and order, no dropout."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transformer_jax.interop.published import open_published
from transformer_jax.models.decoder_only import DecoderOnlyConfig
from transformer_jax.nn.parameters import named_parameters, parameter_axes, replace_parameters
from transformer_jax.parallel.mesh import MeshConfig, make_mesh
from transformer_jax.tasks.classification import Classification
from transformer_jax.tasks.language_modelling import LanguageModelling
from transformer_jax.training.optimizer import OptimizerConfig, make_optimizer, make_schedule
from transformer_jax.training.step import abstract_model, init_state, make_step

torch = pytest.importorskip("torch", reason="compares with PyTorch")
transformers = pytest.importorskip("transformers", reason="compares with transformers")

STEPS, WARMUP, RATE, DECAY, CLIP = 50, 5, 3e-3, 0.01, 1.0
ROWS, LENGTH, VOCABULARY, LABELS = 8, 12, 40, 3
SIZES = {"vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "hidden_size": 32}
SIZES |= {"num_attention_heads": 4, "intermediate_size": 64, "num_hidden_layers": 2, "initializer_range": 0.1}
CASES = {
    "BertForSequenceClassification": {"num_labels": LABELS, "max_position_embeddings": 20},
    "LlamaForCausalLM": {"max_position_embeddings": 64, "tie_word_embeddings": True, "num_key_value_heads": 2},
}
CONFIG = OptimizerConfig(
    name="adamw", schedule="linear", learning_rate=RATE, warmup_steps=WARMUP, weight_decay=DECAY, clip_norm=CLIP,
    b2=0.999, epsilon=1e-8,
)  # fmt: skip
MESHES = ({"data": 1}, {"data": 2, "fsdp": 2, "tensor": 2})


def batches():
    """Tokens that go up by 1, 2 or 3, which is the label; behind them padding or not."""
    random = np.random.default_rng(0)
    for _ in range(STEPS):
        lengths = random.integers(4, LENGTH + 1, ROWS)
        lengths[0] = LENGTH
        start = random.integers(0, VOCABULARY, (ROWS, 1))
        labels = start[:, 0] % LABELS
        tokens = 3 + (start + np.arange(LENGTH) * (labels[:, None] + 1)) % (VOCABULARY - 3)
        yield np.where(np.arange(LENGTH) < lengths[:, None], tokens, 0), lengths, labels


def pytorch_losses(model):
    """Theirs; matrices decay, and as here no norm and no bias."""
    decayed = [each for name, each in model.named_parameters() if each.ndim > 1 and "position" not in name]
    others = [each for each in model.parameters() if not any(each is one for one in decayed)]
    groups = [{"params": decayed, "weight_decay": DECAY}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=RATE, betas=(CONFIG.b1, CONFIG.b2), eps=CONFIG.epsilon)
    schedule = make_schedule(CONFIG, 0, STEPS)
    for step, (tokens, lengths, labels) in enumerate(batches()):
        inputs, real = torch.tensor(tokens), torch.tensor(np.arange(LENGTH) < lengths[:, None])
        if isinstance(model, transformers.LlamaForCausalLM):
            labels = torch.where(real, inputs, -100)
        loss = model(inputs, attention_mask=real.long(), labels=torch.as_tensor(labels)).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        for group in optimizer.param_groups:
            group["lr"] = np.asarray(schedule(step)).item()
        optimizer.step()
        yield float(loss)


def our_losses(published, mesh):
    rates = [name for name in ("dropout", "attention_dropout", "head_dropout") if hasattr(published.config, name)]
    config = dataclasses.replace(published.config, **dict.fromkeys(rates, 0.0))
    mesh = make_mesh(MeshConfig(**mesh), jax.devices()[: math.prod(mesh.values())])
    schedule = make_schedule(CONFIG, config.d_model, STEPS)
    optimizer = make_optimizer(CONFIG, parameter_axes(abstract_model(config)), schedule)
    generates = isinstance(config, DecoderOnlyConfig)
    step = make_step(LanguageModelling() if generates else Classification(), optimizer, schedule)
    with jax.set_mesh(mesh):
        state = init_state(config, optimizer, 0, mesh)
        places = {name: value.sharding for name, value in named_parameters(state.model).items()}
        state = state._replace(model=replace_parameters(state.model, named_parameters(published.model(places))))
        for tokens, lengths, labels in batches():
            real, zeros = np.arange(LENGTH) < lengths[:, None], np.zeros(ROWS, int)
            if generates:
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
def test_fifty_steps_of_fine_tuning_have_the_losses_of_pytorch_on_one_device_and_on_eight(kind, tmp_path):
    model_class = getattr(transformers, kind)
    torch.manual_seed(0)
    model = model_class(model_class.config_class(**SIZES, **CASES[kind])).eval()
    model.save_pretrained(tmp_path)
    published = open_published(tmp_path)
    expected = [*pytorch_losses(model)]
    assert expected[-1] < 0.8 * expected[0], "it learns"
    for mesh in MESHES:
        np.testing.assert_allclose([*our_losses(published, mesh)], expected, rtol=1e-3, err_msg=str(mesh))
