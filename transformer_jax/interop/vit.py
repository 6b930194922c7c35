"""Encoders of pictures: ViT (Dosovitskiy et al. 2021), DeiT (Touvron et al. 2021) and DINOv2 (Oquab et al. 2023).

The mean and deviation of pixels stand in `preprocessor_config.json`, beside config.json.
"""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from transformer_jax.data.lines import read_json
from transformer_jax.interop.config_keys import THEIR_ACTIVATIONS, Keys, written
from transformer_jax.interop.family import Architecture, Family
from transformer_jax.interop.rules import Rule, attention, linear, norm
from transformer_jax.models.encoder_only import EncoderOnlyConfig, vit
from transformer_jax.nn.inputs import Patches
from transformer_jax.nn.positions import Learned

SIZES = {"hidden_size": "d_model", "num_hidden_layers": "num_layers", "num_attention_heads": "num_heads"}
RATES = {"hidden_dropout_prob": "dropout", "attention_probs_dropout_prob": "attention_dropout"}
RATES |= {"layer_norm_eps": "norm_epsilon"}
PREPROCESSOR = "preprocessor_config.json"
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
"""Of colours in ImageNet's pictures, which DINOv2 reads."""
OF_BACKBONES = ("apply_layernorm", "out_features", "out_indices", "reshape_hidden_states", "stage_names")


def read_patches(keys: Keys, size: int, **others: Any) -> Patches:
    """The patches of a configuration whose default size is `size`; of colours unless it says otherwise."""
    numbers = (("patch_size", size), ("image_size", 224), ("num_channels", 3))
    size, image_size, channels = (keys.take(name, default) for name, default in numbers)
    others = others if channels == 3 else {**others, "mean": (0.5,), "std": (0.5,)}
    return Patches(size, image_size, channels, **others)


def read_encoder(keys: Keys, epsilon: float, **others: Any) -> EncoderOnlyConfig:
    """The configuration that these models have in common, with `others`."""
    defaults = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "layer_norm_eps": epsilon}
    fields = keys.fields(SIZES | RATES, **defaults) | {"activation": keys.activation("hidden_act")}
    fields |= {"attention_bias": keys.take("qkv_bias", True), "attention_output_bias": True}
    return vit(**fields | others)


def written_encoder(config: EncoderOnlyConfig) -> dict[str, Any]:
    """The inverse of `read_encoder`."""
    patches: Any = config.input
    return written(SIZES | RATES, config) | {
        "hidden_act": THEIR_ACTIVATIONS[config.activation],
        "qkv_bias": config.attention_bias,
        "patch_size": patches.size,
        "image_size": patches.image_size,
        "num_channels": patches.channels,
    }


def to_vit(keys: Keys, *, distilled: bool = False) -> EncoderOnlyConfig:
    """Our configuration of a ViT, or of a DeiT, which is `distilled`, with or without the head of its other token."""
    keys.skip("encoder_stride")
    keys.only("pooler_output_size", keys.take("hidden_size"))
    return read_encoder(
        keys,
        1e-12,
        d_ff=keys.take("intermediate_size"),
        input=read_patches(keys, 16, distillation_token=distilled),
        pooler=any(name.endswith("pooler.dense.weight") for name in keys.tensors),
        pooling="distilled" if "distillation_classifier.weight" in keys.tensors else "first",
        pooler_activation="tanh" if keys.take("pooler_act", "tanh") == "tanh" else keys.activation("pooler_act"),
    )


def from_vit(config: EncoderOnlyConfig) -> dict[str, Any]:
    """Their configuration of a ViT."""
    pooler = {"tanh": "tanh", **THEIR_ACTIVATIONS}[config.pooler_activation]
    return written_encoder(config) | {"intermediate_size": config.d_ff, "pooler_act": pooler}


def to_dinov2(keys: Keys, *, registers: bool) -> EncoderOnlyConfig:
    """Our configuration of a DINOv2; only that with registers resizes its positions with a filter."""
    keys.skip(*OF_BACKBONES, "intermediate_size", "use_mask_token")
    keys.in_training("drop_path_rate")
    gated = keys.take("use_swiglu_ffn", False)
    count = keys.take("num_register_tokens", 4) if registers else 0
    gate = {"gated": True, "activation": "silu"} if gated else {}
    d_ff = int(keys.take("hidden_size") * keys.take("mlp_ratio", 4, kind=float))
    return read_encoder(
        keys,
        1e-6,
        d_ff=(int(d_ff * 2 / 3) + 7) // 8 * 8 if gated else d_ff,
        **gate,
        layer_scale=keys.take("layerscale_value", 1.0),
        pooling="first_and_mean" if "classifier.weight" in keys.tensors else "first",
        positions=Learned(antialias=registers),
        input=read_patches(keys, 14, registers=count, **IMAGENET),
    )


def from_dinov2(config: EncoderOnlyConfig) -> dict[str, Any]:
    """Their configuration of a DINOv2; a gated network is 2/3 as wide as its ratio says."""
    patches: Any = config.input
    inner = round(config.d_ff * 1.5) if config.gated else config.d_ff
    registers = {"num_register_tokens": patches.registers} if patches.registers else {}
    return (
        written_encoder(config)
        | registers
        | {
            "mlp_ratio": inner // config.d_model,
            "use_mask_token": False,  # of its training alone, and zero in what is published
            "use_swiglu_ffn": config.gated,
            "layerscale_value": config.layer_scale,
        }
    )


def with_preprocessor(config: Any, directory: Path) -> Any:
    """The configuration with the mean and deviation of pixels that the directory's file has, if it reads pictures."""
    file = directory / PREPROCESSOR
    if not isinstance(getattr(config, "input", None), Patches) or not file.is_file():
        return config
    values = read_json(file)
    numbers = {ours: values.get(f"image_{ours}") for ours in ("mean", "std")}
    given = {name: tuple(map(float, value)) for name, value in numbers.items() if isinstance(value, list) and value}
    if values.get("do_normalize") is False:
        given = {"mean": (0.0,), "std": (1.0,)}
    # They subtract from the pixels times a factor, we from values between 0 and 1.
    scale = 255 * float(values.get("rescale_factor", 1 / 255)) if values.get("do_rescale", True) else 255.0
    patches = replace(config.input, **given)
    if abs(scale - 1) > 1e-6:
        scaled = {name: tuple(value / scale for value in getattr(patches, name)) for name in ("mean", "std")}
        patches = replace(patches, **scaled)
    return replace(config, input=patches)


def preprocessor(config: EncoderOnlyConfig) -> str:
    """The content of that file, as a processor of ViT has it."""
    patches: Any = config.input
    means = {
        f"image_{name}": list(of) * (patches.channels // len(of))
        for name, of in (("mean", patches.mean), ("std", patches.std))
    }
    values = {"image_processor_type": "ViTImageProcessor", "do_normalize": True, "do_rescale": True, "do_resize": True}
    sizes = {"size": {"height": patches.image_size, "width": patches.image_size}, "rescale_factor": 1 / 255}
    return json.dumps(values | sizes | means | {"resample": 3}, indent=2) + "\n"


def embeddings(prefix: str) -> tuple[Rule, ...]:
    """The rules of what stands in front of the layers."""
    names = {"cls_token": "class_token", "position_embeddings": "positions/table", "register_tokens": "registers"}
    names |= {"distillation_token": "distillation_token"}
    return (
        *(Rule(f"{prefix}embeddings.{their}", (f"encoder_input/{our}",), "row") for their, our in names.items()),
        Rule(
            f"{prefix}embeddings.patch_embeddings.projection.weight",
            ("encoder_input/projection/kernel",),
            "convolution",
        ),
        Rule(f"{prefix}embeddings.patch_embeddings.projection.bias", ("encoder_input/projection/bias",)),
        *norm(f"{prefix}layernorm", "encoder/final_norm"),
    )


def body(prefix: str, names: dict[str, str]) -> tuple[Rule, ...]:
    """The rules of embeddings and layers, the parts of which have these names."""
    layer, ours = f"{prefix}encoder.layer.{{}}", "encoder/{}"
    maps = ("attention.query", "attention.key", "attention.value", "output.dense")
    return (
        *embeddings(prefix),
        *attention(f"{layer}.attention", f"{ours}/self_attention", maps),
        *norm(f"{layer}.{names['attention_norm']}", f"{ours}/self_attention_norm"),
        *norm(f"{layer}.{names['feed_forward_norm']}", f"{ours}/feed_forward_norm"),
        *linear(f"{layer}.{names['input']}", f"{ours}/feed_forward/input"),
        *linear(f"{layer}.{names['output']}", f"{ours}/feed_forward/output"),
    )


VIT_NAMES = {
    "attention_norm": "layernorm_before",
    "feed_forward_norm": "layernorm_after",
    "input": "intermediate.dense",
    "output": "output.dense",
}
DINO_NAMES = {"attention_norm": "norm1", "feed_forward_norm": "norm2", "input": "mlp.fc1", "output": "mlp.fc2"}
CLASSIFIER = tuple(linear("classifier", "head"))
BOTH = (*linear("cls_classifier", "head"), *linear("distillation_classifier", "distillation_head"))


def vit_family(name: str, kind: str, *others: Architecture) -> Family:
    """ViT, or DeiT, of which it is the form."""
    prefix = f"{name}."
    return Family(
        name=name,
        architectures=(
            *others,
            Architecture(f"{kind}ForImageClassification", "sequence", CLASSIFIER),
            Architecture(f"{kind}Model", "pooled", tuple(linear(f"{prefix}pooler.dense", "pooler/transform"))),
            Architecture(f"{kind}Model", "none"),
        ),
        rules=body(prefix, VIT_NAMES),
        to_config=partial(to_vit, distilled=name == "deit"),
        from_config=from_vit,
        preprocessor=preprocessor,
        prefix=prefix,
    )


def dinov2(name: str, kind: str) -> Family:
    """DINOv2 under one of its names."""
    prefix, ours = f"{name}.", "encoder/{}"
    layer = f"{prefix}encoder.layer.{{}}"
    scales = (("layer_scale1", "self_attention"), ("layer_scale2", "feed_forward"))
    inner = (f"{ours}/feed_forward/gate", f"{ours}/feed_forward/input")
    # Of a gated network, both branches of which are one tensor.
    gated = [
        *linear(f"{layer}.mlp.weights_in", *inner),
        *linear(f"{layer}.mlp.weights_out", f"{ours}/feed_forward/output"),
    ]
    return Family(
        name=name,
        architectures=(
            Architecture(f"{kind}ForImageClassification", "sequence", CLASSIFIER),
            Architecture(f"{kind}Model", "none"),
        ),
        rules=(
            *gated,  # whose names are known so; they are overwritten
            *body(prefix, DINO_NAMES),
            *(Rule(f"{layer}.{their}.lambda1", (f"{ours}/{our}_layer_scale",)) for their, our in scales),
        ),
        rules_for=lambda config: gated if config.gated else [],
        to_config=partial(to_dinov2, registers="registers" in name),
        from_config=from_dinov2,
        preprocessor=preprocessor,
        prefix=prefix,
        ignored=(f"{prefix}embeddings.mask_token",),
    )


VIT = vit_family("vit", "ViT")
DEIT = vit_family("deit", "DeiT", Architecture("DeiTForImageClassificationWithTeacher", "sequence", BOTH))
DINOV2 = dinov2("dinov2", "Dinov2")
DINOV2_WITH_REGISTERS = dinov2("dinov2_with_registers", "Dinov2WithRegisters")
