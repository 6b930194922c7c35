"""The same weights give the same outputs and gradients as Hugging Face's BERT, ModernBERT, GPT-2 and Llama."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transformer_jax.models.decoder_only import gpt2, llama
from transformer_jax.models.encoder_only import bert, modern_bert
from transformer_jax.nn.parameters import named_parameters

torch = pytest.importorskip("torch", reason="PyTorch, the implementation to compare with, is not installed")
transformers = pytest.importorskip("transformers", reason="transformers, which is compared with, is not installed")

D, VOCABULARY, LENGTH = 16, 40, 12
TOKENS = np.random.default_rng(0).integers(3, VOCABULARY, size=(3, LENGTH)).astype(np.int32)
LENGTHS = np.array([12, 7, 4], np.int32)
REAL = np.arange(LENGTH)[None] < LENGTHS[:, None]
TYPES = (np.arange(LENGTH)[None] > 4).astype(np.int32).repeat(3, 0)
SIZES = {"vocab_size": VOCABULARY, "attn_implementation": "eager", "pad_token_id": 0, "bos_token_id": 1}
SIZES |= {"eos_token_id": 2}
TOLERANCE = 1e-5


def linear(theirs, ours, *, bias=True, conv=False):
    """How the linear map's arrays follow from ours, given by name: several are laid side by side."""
    ours = [ours] if isinstance(ours, str) else ours

    def weight(of):
        maps = [of(f"{name}/kernel") for name in ours]
        inputs = maps[0].shape[:-1] if "output" in ours[0] and maps[0].ndim == 3 else maps[0].shape[:1]
        flat = np.concatenate([kernel.reshape(np.prod(inputs), -1) for kernel in maps], 1)
        return flat if conv else flat.T

    rules = {f"{theirs}.weight": weight}
    if bias:
        rules[f"{theirs}.bias"] = lambda of: np.concatenate([of(f"{name}/bias").reshape(-1) for name in ours])
    return rules


def norm(theirs, ours, *, bias=True):
    rules = {f"{theirs}.weight": lambda of: of(f"{ours}/scale")}
    return rules | ({f"{theirs}.bias": lambda of: of(f"{ours}/bias")} if bias else {})


def layer_rules(places, make):
    """The rules of every layer; `places` has the group and the index of each."""
    rules = {}
    for number, (group, index) in enumerate(places):
        for name, rule in make(number).items():
            # What a layer calls its arrays lies in a group, at an index of a stacked one.
            rules[name] = lambda of, rule=rule, group=group, index=index: rule(
                lambda part: of(f"{group}/{part}") if index is None else of(f"{group}/{part}")[index]
            )
    return rules


def compare(ours, call, theirs, rules):
    """Copies our weights into their model; outputs at real tokens, and all gradients, must agree."""
    state = dict(theirs.eval().named_parameters())
    assert set(rules) == set(state)
    parameters = named_parameters(ours)
    with torch.no_grad():
        for name, rule in rules.items():
            value = torch.tensor(np.array(rule(lambda ours: np.asarray(parameters[ours]))))
            assert state[name].shape == value.shape, name
            state[name].copy_(value)
    mask, tokens = torch.tensor(REAL.astype(np.int64)), torch.tensor(TOKENS.astype(np.int64))
    inputs = {"input_ids": tokens, "attention_mask": mask}
    if isinstance(theirs, transformers.BertForPreTraining):
        inputs["token_type_ids"] = torch.tensor(TYPES.astype(np.int64))
        found = theirs(**inputs)
        pairs = found.seq_relationship_logits[:, None].expand(-1, LENGTH, -1)
        expected = torch.cat([found.prediction_logits, pairs], -1)
    else:
        expected = theirs(**inputs).logits

    weights = np.random.default_rng(1).normal(size=expected.shape).astype(np.float32) * REAL[:, :, None]

    def loss(model):
        logits = call(model)
        return jnp.sum(logits * weights), logits

    (_, logits), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(ours)
    assert np.abs(expected.detach().numpy()).max() > 0.5, "numbers worth comparing"
    np.testing.assert_allclose(np.asarray(logits)[REAL], expected.detach().numpy()[REAL], atol=TOLERANCE)
    (expected * torch.tensor(weights)).sum().backward()
    gradients = named_parameters(gradient)
    for name, rule in rules.items():
        other = state[name].grad.numpy()
        close = TOLERANCE * max(1, np.abs(other).max())
        np.testing.assert_allclose(rule(lambda ours: np.asarray(gradients[ours])), other, atol=close, err_msg=name)


def test_bert_equals_hugging_face(randomised):
    sizes = {"d_model": D, "num_heads": 4, "d_ff": 32, "num_layers": 3, "vocab_size": VOCABULARY, "max_length": LENGTH}
    config = bert(**sizes, dropout=0.0, attention_dropout=0.0, head="pretraining")
    theirs = transformers.BertForPreTraining(
        transformers.BertConfig(
            hidden_size=D,
            num_attention_heads=4,
            intermediate_size=32,
            num_hidden_layers=3,
            max_position_embeddings=LENGTH,
            **SIZES,
        )
    )

    def layer(i):
        name = f"bert.encoder.layer.{i}"
        return {
            **linear(f"{name}.attention.self.query", "self_attention/query"),
            **linear(f"{name}.attention.self.key", "self_attention/key"),
            **linear(f"{name}.attention.self.value", "self_attention/value"),
            **linear(f"{name}.attention.output.dense", "self_attention/output"),
            **norm(f"{name}.attention.output.LayerNorm", "self_attention_norm"),
            **linear(f"{name}.intermediate.dense", "feed_forward/input"),
            **linear(f"{name}.output.dense", "feed_forward/output"),
            **norm(f"{name}.output.LayerNorm", "feed_forward_norm"),
        }

    rules = {
        "bert.embeddings.word_embeddings.weight": lambda of: of("embedding/table"),
        "bert.embeddings.position_embeddings.weight": lambda of: of("encoder_input/positions/table"),
        "bert.embeddings.token_type_embeddings.weight": lambda of: of("encoder_input/token_types"),
        **norm("bert.embeddings.LayerNorm", "encoder_input/norm"),
        **layer_rules([("encoder/layers", i) for i in range(3)], layer),
        **linear("cls.predictions.transform.dense", "head/transform"),
        **norm("cls.predictions.transform.LayerNorm", "head/norm"),
        "cls.predictions.bias": lambda of: of("head/bias"),
        **linear("bert.pooler.dense", "pooler/transform"),
        **linear("cls.seq_relationship", "next_sentence"),
    }

    def call(model):
        """The logits of tokens, and beside each those of the pair."""
        vectors = model.encode(jnp.array(TOKENS), lengths=jnp.array(LENGTHS), token_types=jnp.array(TYPES))
        pairs = model.predict_next(vectors)[:, None]
        return jnp.concatenate([model.predict(vectors), jnp.broadcast_to(pairs, (3, LENGTH, 2))], axis=-1)

    compare(randomised(config.build(0)), call, theirs, rules)
    assert config.num_parameters() == sum(parameter.numel() for parameter in theirs.parameters())


@pytest.mark.slow
def test_modern_bert_equals_hugging_face(randomised):
    config = modern_bert(d_model=D, num_heads=4, d_ff=24, num_layers=6, vocab_size=VOCABULARY, window=2)
    theirs = transformers.ModernBertForMaskedLM(
        transformers.ModernBertConfig(
            hidden_size=D,
            num_attention_heads=4,
            intermediate_size=24,
            num_hidden_layers=6,
            local_attention=4,
            cls_token_id=1,
            sep_token_id=2,
            **SIZES,
        )
    )

    def layer(i):
        name = f"model.layers.{i}"
        first = {} if i == 0 else norm(f"{name}.attn_norm", "self_attention_norm", bias=False)
        parts = [f"self_attention/{part}" for part in ("query", "key", "value")]
        return {
            **first,
            **linear(f"{name}.attn.Wqkv", parts, bias=False),
            **linear(f"{name}.attn.Wo", "self_attention/output", bias=False),
            **norm(f"{name}.mlp_norm", "feed_forward_norm", bias=False),
            **linear(f"{name}.mlp.Wi", ["feed_forward/gate", "feed_forward/input"], bias=False),
            **linear(f"{name}.mlp.Wo", "feed_forward/output", bias=False),
        }

    # The first layer lacks a norm and stands alone; then one whole period: local, local, global; then two layers.
    places = [("first_0", None), ("layers", 0), ("layers_1", 0), ("layers_2", 0), ("last_0", None), ("last_1", None)]
    rules = {
        "model.embeddings.tok_embeddings.weight": lambda of: of("embedding/table"),
        **norm("model.embeddings.norm", "encoder_input/norm", bias=False),
        **layer_rules([(f"encoder/{group}", index) for group, index in places], layer),
        **norm("model.final_norm", "encoder/final_norm", bias=False),
        **linear("head.dense", "head/transform", bias=False),
        **norm("head.norm", "head/norm", bias=False),
        "decoder.bias": lambda of: of("head/bias"),
    }
    compare(randomised(config.build(0)), lambda m: m(jnp.array(TOKENS), lengths=jnp.array(LENGTHS)), theirs, rules)
    assert config.num_parameters() == sum(parameter.numel() for parameter in theirs.parameters())


def test_gpt2_equals_hugging_face(randomised):
    sizes = {"d_model": D, "num_heads": 4, "d_ff": 64, "num_layers": 2, "vocab_size": VOCABULARY, "max_length": LENGTH}
    config = gpt2(**sizes, dropout=0.0, attention_dropout=0.0)
    theirs = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(n_embd=D, n_layer=2, n_head=4, n_positions=LENGTH, **SIZES)
    )

    def layer(i):
        name = f"transformer.h.{i}"
        parts = [f"self_attention/{part}" for part in ("query", "key", "value")]
        return {
            **norm(f"{name}.ln_1", "self_attention_norm"),
            **linear(f"{name}.attn.c_attn", parts, conv=True),
            **linear(f"{name}.attn.c_proj", "self_attention/output", conv=True),
            **norm(f"{name}.ln_2", "feed_forward_norm"),
            **linear(f"{name}.mlp.c_fc", "feed_forward/input", conv=True),
            **linear(f"{name}.mlp.c_proj", "feed_forward/output", conv=True),
        }

    rules = {
        "transformer.wte.weight": lambda of: of("embedding/table"),
        "transformer.wpe.weight": lambda of: of("decoder_input/positions/table"),
        **layer_rules([("decoder/layers", i) for i in range(2)], layer),
        **norm("transformer.ln_f", "decoder/final_norm"),
    }
    compare(randomised(config.build(0)), lambda m: m(jnp.array(TOKENS)), theirs, rules)
    assert config.num_parameters() == sum(parameter.numel() for parameter in theirs.parameters())


@pytest.mark.slow
def test_llama_equals_hugging_face(randomised):
    config = llama(d_model=D, num_heads=4, num_kv_heads=2, d_ff=24, num_layers=2, vocab_size=VOCABULARY)
    theirs = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            hidden_size=D,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            intermediate_size=24,
            rms_norm_eps=1e-5,
            **SIZES,
        )
    )

    def layer(i):
        name = f"model.layers.{i}"
        return {
            **norm(f"{name}.input_layernorm", "self_attention_norm", bias=False),
            **linear(f"{name}.self_attn.q_proj", "self_attention/query", bias=False),
            **linear(f"{name}.self_attn.k_proj", "self_attention/key", bias=False),
            **linear(f"{name}.self_attn.v_proj", "self_attention/value", bias=False),
            **linear(f"{name}.self_attn.o_proj", "self_attention/output", bias=False),
            **norm(f"{name}.post_attention_layernorm", "feed_forward_norm", bias=False),
            **linear(f"{name}.mlp.gate_proj", "feed_forward/gate", bias=False),
            **linear(f"{name}.mlp.up_proj", "feed_forward/input", bias=False),
            **linear(f"{name}.mlp.down_proj", "feed_forward/output", bias=False),
        }

    rules = {
        "model.embed_tokens.weight": lambda of: of("embedding/table"),
        **layer_rules([("decoder/layers", i) for i in range(2)], layer),
        **norm("model.norm", "decoder/final_norm", bias=False),
        **linear("lm_head", "output/projection", bias=False),
    }
    compare(randomised(config.build(0)), lambda m: m(jnp.array(TOKENS)), theirs, rules)
    assert config.num_parameters() == sum(parameter.numel() for parameter in theirs.parameters())
