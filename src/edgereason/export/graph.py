"""A decoder as an ONNX graph of plain operators: prefill and decode, chat and think, are one graph.

::

    input_ids (1, T) ─ embedding ─→ x (1, T, H)
      each layer   x += output(attention(q, k, v of norm(x)))     x += down(silu(gate) · up) of norm(x)
                   linear(x) = x W + bias + lora_alpha · alpha/r · (x A) B
    norm ─ head ─→ logits

    attention_mask   (1, 1, T, P + T)   0 where a token may look, a large negative number elsewhere
    position_ids_cos, position_ids_sin   (1, 1, T, head_dim / 2)
    lora_alpha       (1,)               0: the base alone (prompt, chat); 1: the adapter is on (think)
    past_key_N_in    (KV heads, 1, head_dim, P)     past_key_N_out    the same of the new tokens
    past_value_N_in  (KV heads, 1, P, head_dim)     past_value_N_out
    states_N         (1, T, H)          what layer N hands on: the heads read it

Names and shapes of inputs are those that Qualcomm's AI Hub gives to models for GENIE. With lora_alpha 0 what
the adapter adds is 0 exactly, so a prompt's keys and values are the base's.

Weights are either integers behind `DequantizeLinear` (a QDQ graph: onnxruntime fuses each with its product),
or float32 of the very same values, for tools that take the integers from an encodings file.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

from edgereason.export.weights import (
    Matrix,
    StoredModel,
    TensorFile,
    as_float,
    is_4_bit,
    is_by_row,
    scales_of,
)
from edgereason.quant.blocks import BLOCK, Quantized
from edgereason.quant.gguf_file import EMBEDDING, FINAL_NORM, HEAD

OPSET: Final = 21
"""The first with integers of 4 bits and blocks."""
_IR_VERSION: Final = 10
IDS: Final = "input_ids"
MASK: Final = "attention_mask"
COS, SIN = "position_ids_cos", "position_ids_sin"
SWITCH: Final = "lora_alpha"
LOGITS: Final = "logits"


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """What kind of graph.

    Attributes:
        is_quantized: weights are integers behind `DequantizeLinear`, not float32.
        tokens: T; None leaves T and P open.
        context: P + T of a graph with a fixed T.
        state_layers: whose outputs are outputs of the graph.
    """

    is_quantized: bool
    tokens: int | None = None
    context: int = 0
    state_layers: tuple[int, ...] = ()

    @property
    def is_static(self) -> bool:
        """Whether all shapes are fixed."""
        return self.tokens is not None


@dataclass(slots=True)
class Graph:
    """A graph under construction."""

    model: StoredModel
    form: Form
    file: TensorFile
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    tensors: dict[str, onnx.TensorProto] = field(default_factory=dict)
    matrices: dict[str, Matrix] = field(default_factory=dict)
    inputs: list[onnx.ValueInfoProto] = field(default_factory=list)
    outputs: list[onnx.ValueInfoProto] = field(default_factory=list)

    def op(self, kind: str, output: str, *inputs: str, **attributes: Any) -> str:
        """Adds a node; its name is its output's."""
        self.nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output

    def constant(self, name: str, values: npt.NDArray[Any], *, is_4_bit: bool = False) -> str:
        """Adds a tensor, if it is not there."""
        if name not in self.tensors:
            self.tensors[name] = self.file.add(name, values, is_4_bit=is_4_bit)
        return name

    def shape(self, *sizes: int) -> str:
        """A shape as `Reshape` takes it: −1 follows from the others, 0 stays."""
        return self.constant(f"shape.{'.'.join(map(str, sizes))}", np.array(sizes, np.int64))

    def number(self, name: str, value: float) -> str:
        """A scalar."""
        return self.constant(name, np.array(value, np.float32))


def build(model: StoredModel, form: Form, file: TensorFile) -> tuple[onnx.ModelProto, dict[str, Matrix]]:
    """Builds a graph.

    Args:
        model: base and adapter.
        form: what kind of graph.
        file: takes its tensors; those of an earlier graph of the same weights are shared.

    Returns:
        The graph, and its matrices by name as the base stores them.
    """
    graph, dims = Graph(model, form, file), model.dims
    _inputs(graph)
    x = _embedding(graph)
    for layer in range(dims.num_layers):
        x = _layer(graph, layer, x)
        if layer in form.state_layers:
            graph.op("Identity", f"states_{layer}", x)
            _output(graph, f"states_{layer}", 1, form.tokens or "tokens", dims.hidden_size)
    x = _norm(graph, "final", x, FINAL_NORM)
    if not form.is_static:  # a prompt's other logits are of no use, and cost as much as half its layers
        ends = [graph.constant(f"last.{n}", np.array([n], np.int64)) for n in (-1, 2**31 - 1, 1)]
        x = graph.op("Slice", "last_row", x, *ends)
    weight = _matrix(graph, HEAD, model.matrix(HEAD))
    graph.op("MatMul", LOGITS, x, weight)
    _output(graph, LOGITS, 1, form.tokens or 1, dims.vocab_size)
    made = helper.make_model(
        helper.make_graph(graph.nodes, "decoder", graph.inputs, graph.outputs, list(graph.tensors.values())),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=_IR_VERSION,
        producer_name="edgereason",
    )
    return made, graph.matrices


def _inputs(graph: Graph) -> None:
    dims, form = graph.model.dims, graph.form
    tokens = form.tokens or "tokens"
    past = form.context - form.tokens if form.tokens else "past"
    total = form.context if form.tokens else "total"

    def add(name: str, *shape: int | str, kind: int = TensorProto.FLOAT) -> None:
        graph.inputs.append(helper.make_tensor_value_info(name, kind, shape))

    add(IDS, 1, tokens, kind=TensorProto.INT32)
    add(MASK, 1, 1, tokens, total)
    add(COS, 1, 1, tokens, dims.head_dim // 2)
    add(SIN, 1, 1, tokens, dims.head_dim // 2)
    if graph.model.has_adapter:
        add(SWITCH, 1)
    for layer in range(dims.num_layers):
        add(f"past_key_{layer}_in", dims.num_kv_heads, 1, dims.head_dim, past)
        add(f"past_value_{layer}_in", dims.num_kv_heads, 1, past, dims.head_dim)


def _output(graph: Graph, name: str, *shape: int | str) -> None:
    graph.outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))


def _embedding(graph: Graph) -> str:
    """Rows of the embedding; with integers only the rows that are read are dequantized."""
    graph.matrices[EMBEDDING] = matrix = graph.model.matrix(EMBEDDING)
    if not graph.form.is_quantized or not isinstance(matrix, Quantized):
        return graph.op("Gather", "embedded", graph.constant(EMBEDDING, as_float(matrix)), IDS)
    codes = graph.op("Gather", "embedded.codes", graph.constant(EMBEDDING, matrix.codes), IDS)
    stored = graph.constant(f"{EMBEDDING}.scale", matrix.scales)
    halves = graph.op("Gather", "embedded.scale", stored, IDS)
    scales = graph.op("Cast", "embedded.scale.f32", halves, to=TensorProto.FLOAT)
    return graph.op("DequantizeLinear", "embedded", codes, scales, axis=2, block_size=BLOCK)


def _matrix(graph: Graph, name: str, matrix: Matrix) -> str:
    """(inputs, outputs) in float32: a tensor, or what its integers stand for."""
    graph.matrices[name] = matrix
    if not graph.form.is_quantized or not isinstance(matrix, Quantized):
        found = graph.file.find(name)
        values = np.zeros(0) if found is not None else np.ascontiguousarray(as_float(matrix).T)
        return graph.constant(name, values)
    codes = graph.constant(name, np.ascontiguousarray(matrix.codes.T), is_4_bit=is_4_bit(matrix))
    stored = graph.constant(f"{name}.scale", scales_of(matrix))
    scales = graph.op("Cast", f"{name}.scale.f32", stored, to=TensorProto.FLOAT)
    blocks = {"axis": 1} if is_by_row(matrix) else {"axis": 0, "block_size": BLOCK}
    return graph.op("DequantizeLinear", f"{name}.f32", codes, scales, **blocks)


def _linear(graph: Graph, part: str, x: str) -> str:
    """A linear layer with its bias and its switchable product, by its tensors' stem."""
    model, name = graph.model, f"{part}.weight"
    y = graph.op("MatMul", f"{part}.product", x, _matrix(graph, name, model.matrix(name)))
    if model.has(f"{part}.bias"):
        y = graph.op("Add", f"{part}.biased", y, graph.constant(f"{part}.bias", model.vector(f"{part}.bias")))
    if product := model.product(name):
        a, b, scale = product
        inner = graph.op("MatMul", f"{part}.lora_inner", x, _matrix(graph, f"{name}.lora_a", a))
        inner = graph.op("Mul", f"{part}.lora_switched", inner, _switch(graph, scale))
        added = graph.op("MatMul", f"{part}.lora", inner, _matrix(graph, f"{name}.lora_b", b))
        y = graph.op("Add", f"{part}.sum", y, added)
    return y


def _switch(graph: Graph, scale: float) -> str:
    """What an adapter's products are multiplied by: one node for each alpha/r there is."""
    name = f"lora_switch.{scale:.8g}"
    if f"{name}.scale" not in graph.tensors:
        graph.op("Mul", name, SWITCH, graph.number(f"{name}.scale", scale))
    return name


def _norm(graph: Graph, stem: str, x: str, gain: str) -> str:
    """X / √(mean x² + ε) · gain, over the last axis."""
    square = graph.op("Pow", f"{stem}.square", x, graph.number("two", 2.0))
    axes = graph.constant("last_axis", np.array([-1], np.int64))
    mean = graph.op("ReduceMean", f"{stem}.mean", square, axes)
    raised = graph.op("Add", f"{stem}.raised", mean, graph.number("epsilon", graph.model.dims.norm_eps))
    root = graph.op("Sqrt", f"{stem}.root", raised)
    normal = graph.op("Div", f"{stem}.normal", x, root)
    return graph.op("Mul", f"{stem}.norm", normal, graph.constant(gain, graph.model.vector(gain)))


def _layer(graph: Graph, layer: int, x: str) -> str:
    stem = f"blk.{layer}"
    normal = _norm(graph, f"{stem}.attn", x, f"{stem}.attn_norm.weight")
    attended = _attention(graph, layer, normal)
    x = graph.op("Add", f"{stem}.middle", x, _linear(graph, f"{stem}.attn_output", attended))
    normal = _norm(graph, f"{stem}.ffn", x, f"{stem}.ffn_norm.weight")
    gate, up = (_linear(graph, f"{stem}.{part}", normal) for part in ("ffn_gate", "ffn_up"))
    open_ = graph.op("Mul", f"{stem}.silu", gate, graph.op("Sigmoid", f"{stem}.sigmoid", gate))
    down = _linear(graph, f"{stem}.ffn_down", graph.op("Mul", f"{stem}.gated", open_, up))
    return graph.op("Add", f"{stem}.out", x, down)


def _attention(graph: Graph, layer: int, x: str) -> str:
    """Of all query heads at once: those that share a KV head are rows of one product with it."""
    stem, dims, form = f"blk.{layer}", graph.model.dims, graph.form
    kv, size = dims.num_kv_heads, dims.head_dim
    queries = _turned(graph, f"{stem}.attn_q", x, dims.num_heads)
    keys = _turned(graph, f"{stem}.attn_k", x, kv)
    values = _heads(graph, f"{stem}.attn_v", x, kv)
    queries = graph.op("Mul", f"{stem}.queries", queries, graph.number("temper", size**-0.5))
    queries = graph.op("Reshape", f"{stem}.rows", queries, graph.shape(kv, 1, -1, size))

    new_keys, new_values = f"past_key_{layer}_out", f"past_value_{layer}_out"
    turned = new_keys if form.is_static else f"{stem}.new_keys"
    own = new_values if form.is_static else f"{stem}.new_values"
    graph.op("Transpose", turned, keys, perm=[1, 0, 3, 2])
    graph.op("Transpose", own, values, perm=[1, 0, 2, 3])
    all_keys = f"{stem}.keys" if form.is_static else new_keys
    all_values = f"{stem}.values" if form.is_static else new_values
    graph.op("Concat", all_keys, f"past_key_{layer}_in", turned, axis=3)
    graph.op("Concat", all_values, f"past_value_{layer}_in", own, axis=2)
    _output(graph, new_keys, kv, 1, size, form.tokens or "total")
    _output(graph, new_values, kv, 1, form.tokens or "total", size)

    scores = graph.op("MatMul", f"{stem}.scores", queries, all_keys)
    scores = graph.op("Reshape", f"{stem}.by_head", scores, graph.shape(kv, dims.num_heads // kv, -1, 0))
    masked = graph.op("Add", f"{stem}.masked", scores, MASK)
    chances = graph.op("Softmax", f"{stem}.chances", masked, axis=-1)
    chances = graph.op("Reshape", f"{stem}.chance_rows", chances, graph.shape(kv, 1, -1, 0))
    mixed = graph.op("MatMul", f"{stem}.mixed", chances, all_values)
    mixed = graph.op("Reshape", f"{stem}.mixed_heads", mixed, graph.shape(1, dims.num_heads, -1, size))
    mixed = graph.op("Transpose", f"{stem}.mixed_tokens", mixed, perm=[0, 2, 1, 3])
    return graph.op("Reshape", f"{stem}.attended", mixed, graph.shape(1, -1, dims.num_heads * size))


def _heads(graph: Graph, part: str, x: str, count: int) -> str:
    """(1, heads, T, head_dim) of a projection."""
    split = graph.op(
        "Reshape",
        f"{part}.split",
        _linear(graph, part, x),
        graph.shape(1, -1, count, graph.model.dims.head_dim),
    )
    return graph.op("Transpose", f"{part}.heads", split, perm=[0, 2, 1, 3])


def _turned(graph: Graph, part: str, x: str, count: int) -> str:
    """Heads of queries or keys, normalised where the family does that, turned by their positions."""
    heads = _heads(graph, part, x, count)
    if graph.model.has(gain := f"{part}_norm.weight"):
        heads = _norm(graph, f"{part}_head", heads, gain)
    half = graph.model.dims.head_dim // 2
    axis = graph.constant("last_axis", np.array([-1], np.int64))
    start, middle, end = (graph.constant(f"at.{n}", np.array([n], np.int64)) for n in (0, half, 2 * half))
    first = graph.op("Slice", f"{part}.first", heads, start, middle, axis)
    second = graph.op("Slice", f"{part}.second", heads, middle, end, axis)

    def product(name: str, values: str, by: str) -> str:
        return graph.op("Mul", f"{part}.{name}", values, by)

    low = graph.op("Sub", f"{part}.low", product("c1", first, COS), product("s2", second, SIN))
    high = graph.op("Add", f"{part}.high", product("c2", second, COS), product("s1", first, SIN))
    return graph.op("Concat", f"{part}.turned", low, high, axis=-1)
