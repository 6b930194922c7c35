"""Random models that `transformers` writes give the same numbers here, and go back as they came."""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from family_cases import CASES, ODD, SPECIAL, VOCABULARY

import transformer_jax.interop.published
from transformer_jax.interop.families import FAMILIES
from transformer_jax.interop.family import Family
from transformer_jax.interop.published import open_published, published_config, write_published
from transformer_jax.interop.tensor_files import read_directory
from transformer_jax.models.decoder_only import DecoderOnlyConfig
from transformer_jax.models.encoder_decoder import EncoderDecoderConfig
from transformer_jax.nn.inputs import Input
from transformer_jax.nn.parameters import named_parameters
from transformer_jax.nn.positions import Position

torch = pytest.importorskip("torch", reason="PyTorch, the implementation to compare with, is not installed")
transformers = pytest.importorskip("transformers", reason="transformers, which is compared with, is not installed")

LENGTH = 12
TOKENS = np.random.default_rng(0).integers(3, VOCABULARY - 4, size=(3, LENGTH)).astype(np.int32)
LENGTHS = np.array([12, 7, 4], np.int32)
REAL = np.arange(LENGTH)[None] < LENGTHS[:, None]
SOURCE = np.random.default_rng(1).integers(3, VOCABULARY - 4, size=(3, 9)).astype(np.int32)
SOURCE_LENGTHS = np.array([9, 3, 6], np.int32)
SOURCE_REAL = np.arange(9)[None] < SOURCE_LENGTHS[:, None]
FRAMES = np.random.default_rng(2).normal(size=(3, 20, 5)).astype(np.float32)
PIXELS = np.random.default_rng(2).normal(size=(3, 8, 8, 3)).astype(np.float32)
TOLERANCE = 1e-4
FLOOR = 1e-3
"""Gradients below this share of the whole gradient's norm, such as those of keys' biases, are rounding errors."""
FOLDER = Path(transformer_jax.interop.published.__file__).parent
PAGE = Path(__file__).resolve().parents[2] / "docs" / "INTEROP.md"
HEAD = """\
# Families of published models

Written by `tests/interop/test_families.py`, which has `transformers` write random small models of every class and
compares hidden states of all layers, the head's outputs and the gradients of all parameters. Errors are the largest
ones, over the largest number if that is above 1, or over the norm of a tensor's gradient, and may be 1e-4 at most. Each
case goes back to the same tensors, which `transformers` loads. Fields are those of `model` that differ from the
paper's, sizes and rates left out. How to add a family: [adding_a_family.md](adding_a_family.md).

| `model_type` | classes that are read | fields of the model | cases | error: outputs | hidden states | gradients |
|---|---|---|---|---|---|---|
"""
UNTOLD = {"head", "initializer", "num_kv_heads", "head_dim", "num_decoder_layers", "source_vocab_size", "encoder"}
KEPT = ("architectures", "model_type", "vocab_size")
"""Keys of a configuration of two that stand beside the two."""
FOUND: dict[str, "Found"] = {}


class Found(NamedTuple):
    """What a case has shown."""

    family: Family
    fields: set[str]
    outputs: float
    hidden: float
    gradients: float


def keys_of(case):
    """The keys of a case's config.json, as few as old checkpoints have."""
    name = case.split()[0]
    keys: dict[str, Any] = {**(CASES | ODD)[case], "architectures": [name]}
    keys = keys if "image_size" in keys else {**SPECIAL, **keys}
    keys["model_type"] = getattr(transformers, name).config_class.model_type
    if name.startswith("T5Gemma"):  # a configuration of two
        others = keys.pop("encoder", {})
        encoder = {name: value for name, value in keys.items() if name not in ("architectures", "model_type")}
        encoder |= {"model_type": "t5_gemma_module"}
        decoder = encoder | {"is_decoder": True, "cross_attention_hidden_size": others.get("hidden_size", 16)}
        keys = {"encoder": encoder | others, "decoder": decoder} | {name: keys[name] for name in KEPT}
    return keys


def random_model(case):
    """A model of theirs whose every parameter is random."""
    kind = getattr(transformers, case.split()[0])
    config = kind.config_class.from_dict(keys_of(case))
    config._attn_implementation = "eager"
    torch.manual_seed(0)
    model = kind(config).eval()
    if "T5For" in case and case.endswith("untied"):  # which is tied until a checkpoint has another matrix
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.clone())
    with torch.no_grad():
        for parameter in filter(lambda each: each.requires_grad, model.parameters()):
            parameter.add_(torch.randn_like(parameter) * (0.3 if parameter.ndim > 1 else 0.2))
        if hasattr(model, "final_logits_bias"):
            model.final_logits_bias.copy_(torch.randn_like(model.final_logits_bias))
    return model


def their_outputs(model):
    """Their hidden states after every layer, the last ones of text with the final norm, and what their head says."""
    tokens, mask = torch.tensor(TOKENS.astype(np.int64)), torch.tensor(REAL.astype(np.int64))
    inputs = {"input_ids": tokens, "attention_mask": mask}
    if model.config.is_encoder_decoder:
        source, real = torch.tensor(SOURCE.astype(np.int64)), torch.tensor(SOURCE_REAL.astype(np.int64))
        inputs = {"input_ids": source, "attention_mask": real, "decoder_input_ids": tokens}
    if hasattr(model.config, "num_mel_bins"):
        inputs = {"input_features": torch.tensor(FRAMES.transpose(0, 2, 1)), "decoder_input_ids": tokens}
    if hasattr(model.config, "image_size"):
        inputs = {"pixel_values": torch.tensor(PIXELS.transpose(0, 3, 1, 2))}
    found = model(**inputs, output_hidden_states=True)
    states = ("encoder_hidden_states", "decoder_hidden_states", "hidden_states")
    hidden = [state for name in states for state in (found.get(name) or ())[1:]]
    names = ("logits", "prediction_logits", "seq_relationship_logits", "sop_logits", "start_logits", "end_logits")
    of_dino = model.config.model_type.startswith("dinov2")  # its pooler is the first of these
    names += ("last_hidden_state",) if of_dino else ("pooler_output",)
    outputs = [found[name] for name in names if found.get(name) is not None]
    kind = type(model).__name__
    if kind.endswith("QuestionAnswering"):
        outputs = [torch.stack(outputs, dim=-1)]
    if kind == "ElectraForPreTraining":
        outputs = [outputs[0][..., None]]
    return hidden, outputs or hidden[-1:]


def our_outputs(model, config):
    """The same of ours."""
    tokens, lengths = jnp.array(TOKENS), jnp.array(LENGTHS)
    if isinstance(config, EncoderDecoderConfig):
        read = {"source_lengths": jnp.array(SOURCE_LENGTHS)} if config.reads_source else {}
        memory = model.encode(jnp.array(SOURCE if read else FRAMES), **read, intermediates=True)
        decoded = model.decode(tokens, memory, intermediates=True)
        encoded = [*memory.intermediates.hidden[:-1], memory.vectors]
        outputs = [model.logits(decoded.vectors)]
    elif isinstance(config, DecoderOnlyConfig):
        encoded, decoded = [], model.decode(tokens, intermediates=True)
        outputs = [model.logits(decoded.vectors)]
    else:
        read = {"lengths": lengths} if config.reads_text else {}
        encoded, decoded = [], model.encode(tokens if read else PIXELS, **read, intermediates=True)
        outputs = [model.predict(decoded)]
        if config.head == "pretraining":
            outputs.append(model.predict_next(decoded))
    # Of pictures they give the last one without the final norm.
    last = decoded.vectors if config.reads_text else decoded.intermediates.hidden[-1]
    return [*encoded, *decoded.intermediates.hidden[:-1], last], outputs


def weights_of(outputs):
    """A random weight of every number of some outputs, 0 where there is padding."""
    generator = np.random.default_rng(2)
    weights = [generator.normal(size=tuple(output.shape)).astype(np.float32) for output in outputs]
    return [weight * REAL[..., None] if weight.shape[1:-1] == (LENGTH,) else weight for weight in weights]


def our_loss(model, config, weights):
    """The sum of weighted outputs, and all outputs."""
    hidden, outputs = our_outputs(model, config)
    products = [
        (output[..., : weight.shape[-1]] * weight).sum() for output, weight in zip(outputs, weights, strict=True)
    ]
    return sum(products), (hidden, outputs)


def their_gradients(model, outputs, weights, directory):
    """The gradients of their parameters, which are written as if they were the parameters."""
    products = [(output * torch.tensor(weight)).sum() for output, weight in zip(outputs, weights, strict=True)]
    torch.stack(products).sum().backward()
    fixed = {name for name, _ in model.named_buffers()}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parameter.data = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        else:
            fixed.add(name)
    model.save_pretrained(directory)
    family = FAMILIES[model.config.model_type]
    fixed |= {name.removeprefix(prefix) for name in family.ignored for prefix in ("", family.prefix)}
    return {name: gradient for name, gradient in read_directory(directory).items() if name not in fixed}


def compare_gradients(ours, theirs):
    """Gradients of all tensors are the same; returns how much they differ at most."""
    whole = np.sqrt(sum(np.sum(np.square(gradient)) for gradient in theirs.values()))
    errors = {}
    for name, gradient in theirs.items():
        norm = max(np.linalg.norm(gradient), FLOOR * whole)
        errors[name] = float(np.linalg.norm(ours[name] - gradient) / norm)
    worst = max(errors, key=lambda name: errors[name])
    assert errors[worst] < TOLERANCE, f"the gradient of {worst} differs by {errors[worst]:.0e} of its norm"
    return errors[worst]


def compare(ours, theirs):
    """Numbers at real tokens, and of real words alone, are the same; returns how much they differ at most."""
    if theirs.ndim == 3 and theirs.shape[1] in (LENGTH, SOURCE.shape[1]):
        real = REAL if theirs.shape[1] == LENGTH else SOURCE_REAL
        ours, theirs = ours[real], theirs[real]
    ours = ours[..., : theirs.shape[-1]]
    assert np.abs(theirs).max() > 0.1, "numbers worth comparing"
    np.testing.assert_allclose(ours, theirs, atol=TOLERANCE * max(1, np.abs(theirs).max()))
    return float(np.abs(ours - theirs).max() / max(1, np.abs(theirs).max()))


SELDOM = re.compile("(Roberta|XLMRoberta|DistilBert|Albert|Electra|ModernBert)For(Seq|Token|Question)|.* |.*[^T]Model$")
"""Heads that BERT's test has on other stacks, a class's second configuration, models without a head."""


def marked(case):
    """Those, and odd configurations, run with --slow."""
    return pytest.param(case, marks=pytest.mark.slow if case in ODD or SELDOM.match(case) else [])


@pytest.mark.parametrize("case", [marked(case) for case in CASES | ODD])
def test_a_family_gives_the_numbers_of_transformers_and_goes_back_as_it_came(case, tmp_path, request):
    model = random_model(case)
    model.save_pretrained(tmp_path / "theirs")
    published = open_published(tmp_path / "theirs")
    family, config = published.family, published.config
    few = family.from_config(config_of_few_keys(case, tmp_path))
    assert few == family.from_config(config), "keys that lack have their defaults"

    hidden, outputs = their_outputs(model)
    check_the_way_back(model, published, outputs, tmp_path)
    gradient = request.config.getoption("--slow") or case == family.architectures[0].name
    if gradient:
        our_hidden, our_results, error = with_gradients(model, published, outputs, tmp_path)
    else:
        our_hidden, our_results = jax.jit(our_outputs, static_argnums=1)(published.model(), config)
        error = np.nan
    assert len(our_hidden) == len(hidden) and len(our_results) == len(outputs) > 0
    output_error, hidden_error = [
        max(compare(np.asarray(one), other.detach().numpy()) for one, other in zip(one_side, other_side, strict=True))
        for one_side, other_side in ((our_results, outputs), (our_hidden, hidden))
    ]
    FOUND[case] = Found(family, fields_of(config), output_error, hidden_error, error)
    told = next(line for line in PAGE.read_text(encoding="utf-8").splitlines() if f"`{family.name}`" in line)
    missing = [field for field in FOUND[case].fields if f"`{field}`" not in told]
    assert not missing, f"{PAGE.name} is written anew by this file, run in one process with --slow"


def config_of_few_keys(case, directory):
    """Our configuration of a config.json that has no key but a case's."""
    few = directory / "few"
    few.mkdir()
    (few / "model.safetensors").symlink_to(directory / "theirs" / "model.safetensors")
    (few / "config.json").write_text(json.dumps(keys_of(case)))
    return published_config(few)


def check_the_way_back(model, published, outputs, directory):
    """What is written here has the same tensors, and is the same model to them."""
    name = type(model).__name__
    written = write_published(
        directory / "ours",
        published.config,
        published.parameters(),
        family=published.family.name,
        architecture=name,
        labels=published.labels(),
        extra={key: value for key, value in published.keys.items() if key.endswith("token_id")},
    )
    assert written == name
    theirs, again = read_directory(directory / "theirs"), read_directory(directory / "ours")
    ignored = {name.removeprefix(published.family.prefix) for name in published.family.ignored}
    assert theirs.keys() - {*published.family.ignored, *ignored} == again.keys()
    for key in published.family.computed(published.config):
        np.testing.assert_allclose(again.pop(key), theirs[key], atol=1e-5)
    assert all(np.array_equal(theirs[key], again[key]) and theirs[key].dtype == again[key].dtype for key in again)
    back, info = type(model).from_pretrained(directory / "ours", output_loading_info=True, attn_implementation="eager")
    differing = {name for key in ("missing_keys", "unexpected_keys", "mismatched_keys") for name in info[key]}
    assert differing <= {*published.family.ignored, *ignored}
    for one, other in zip(their_outputs(back.eval())[1], outputs, strict=True):
        np.testing.assert_allclose(one.detach().numpy(), other.detach().numpy(), rtol=1e-5, atol=1e-5)


def with_gradients(model, published, outputs, directory):
    """Our hidden states and outputs, and how much the gradients of a sum of outputs differ at most.

    Gradients are written as if they were parameters, so that each tensor of theirs is compared; their model has them
    in place of its parameters afterwards.
    """
    weights = weights_of(outputs)
    gradient, (hidden, results) = jax.jit(jax.grad(our_loss, has_aux=True), static_argnums=1)(
        published.model(), published.config, weights
    )
    form = {"family": published.family.name, "architecture": type(model).__name__}
    write_published(directory / "our gradient", published.config, named_parameters(gradient), **form)
    theirs = their_gradients(model, outputs, weights, directory / "their gradient")
    return hidden, results, compare_gradients(read_directory(directory / "our gradient"), theirs)


def fields_of(config):
    """The fields of a configuration that differ from the paper's model, sizes and rates left out."""
    plain = type(config)()
    kinds = bool | str | tuple | Position | Input | None
    names = {field.name for field in dataclasses.fields(config) if isinstance(getattr(plain, field.name), kinds)}
    return {name for name in names - UNTOLD if getattr(config, name) != getattr(plain, name)}


def page():
    """docs/INTEROP.md, from what was found."""
    rows = []
    for name, family in FAMILIES.items():
        found = [one for one in FOUND.values() if one.family is family]
        classes = ", ".join(dict.fromkeys(f"`{one.name}`" for one in family.architectures))
        used = ", ".join(f"`{each}`" for each in sorted(set().union(*(one.fields for one in found))))
        worst = (f"{max(getattr(one, of) for one in found):.0e}" for of in ("outputs", "hidden", "gradients"))
        rows.append((f"`{name}`", classes, used, str(len(found)), *worst))
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return f"{HEAD}{table}\n\n{files()}\n"


def files():
    """The last line of the page."""
    lines = {path.name: len(path.read_text(encoding="utf-8").splitlines()) for path in sorted(FOLDER.glob("*.py"))}
    listed = ", ".join(f"{name} {count}" for name, count in lines.items())
    return f"Lines of the files in `transformer_jax/interop`: {listed}."


def without_numbers(text):
    return re.sub(r"\d+(e[-+]\d+)?", "", text)


def test_the_page_on_families_has_what_was_found():
    if FOUND.keys() != CASES.keys() | ODD.keys():
        pytest.skip("the page is written where all cases run in one process, with --slow")
    there = PAGE.read_text(encoding="utf-8") if PAGE.is_file() else ""
    if without_numbers(there) != without_numbers(page()):
        PAGE.write_text(page(), encoding="utf-8")
        pytest.fail(f"{PAGE.name} was of other families, and has been written anew: look at it and keep it")


def test_the_page_names_the_files_there_are():
    assert without_numbers(PAGE.read_text(encoding="utf-8").splitlines()[-1]) == without_numbers(files())


def test_every_family_is_compared():
    compared = {case.split()[0] for case in CASES}
    assert {one.name for family in FAMILIES.values() for one in family.architectures} <= compared


def test_the_examples_on_adding_a_family_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    page = (Path(__file__).resolve().parents[2] / "docs" / "adding_a_family.md").read_text(encoding="utf-8")
    for example in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(example, {})
    printed = capsys.readouterr().out
    assert "model.layers.0.self_attn.dense.weight" in printed and "decoder/1/self_attention/query/kernel" in printed
    assert open_published(tmp_path / "theirs").family.name == "phi"
