"""Writes small GGUF files byte by byte, so that any of them may be wrong."""

import struct

import numpy as np

U8, U32, F32, TEXT, ARRAY, F64 = 0, 4, 6, 8, 9, 12
WIDTH, LETTERS = 4, "abcdefgh"


def text(value):
    content = value.encode()
    return struct.pack("<Q", len(content)) + content


def value(kind, given):
    if kind == ARRAY:
        inner, values = given
        return struct.pack("<IQ", inner, len(values)) + b"".join(value(inner, each) for each in values)
    return text(given) if kind == TEXT else struct.pack({U8: "<B", U32: "<I", F32: "<f", F64: "<d"}[kind], given)


def file_of(keys, tensors):
    """The bytes of a file; tensors are shape (rows first), number of a type, place, by their names."""
    content = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(keys))
    for name, (kind, given) in keys.items():
        content += text(name) + struct.pack("<I", kind) + value(kind, given)
    for name, (shape, kind, place) in tensors.items():
        content += text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *reversed(shape), kind, place)
    return content + bytes(-len(content) % 32)


def llama():
    """The keys and tensors of a model of one layer and width 4, whose tensors lie one behind the other."""
    pieces = ["<unk>", "<s>", "</s>", *LETTERS]
    keys = {
        "general.architecture": (TEXT, "llama"),
        "llama.block_count": (U32, 1),
        "llama.context_length": (U32, 64),
        "llama.embedding_length": (U32, WIDTH),
        "llama.feed_forward_length": (U32, WIDTH),
        "llama.attention.head_count": (U32, 2),
        "llama.attention.layer_norm_rms_epsilon": (F32, 1e-5),
        "tokenizer.ggml.model": (TEXT, "llama"),
        "tokenizer.ggml.tokens": (ARRAY, (TEXT, pieces)),
        "tokenizer.ggml.scores": (ARRAY, (F32, [0.0] * len(pieces))),
        "tokenizer.ggml.token_type": (ARRAY, (U32, [2, 3, 3] + [1] * len(LETTERS))),
    }
    shapes = {"token_embd": (len(pieces), WIDTH), "output_norm": (WIDTH,)}
    shapes |= {f"blk.0.{norm}_norm": (WIDTH,) for norm in ("attn", "ffn")}
    maps = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    shapes |= {f"blk.0.{name}": (WIDTH, WIDTH) for name in maps}
    ends = np.cumsum([4 * np.prod(shape) for shape in shapes.values()]).tolist()
    places = zip(shapes.items(), [0, *ends], strict=False)
    return keys, {f"{name}.weight": (shape, 0, begin) for (name, shape), begin in places}, ends[-1]
