"""Names and shapes of the tensors of tiny checkpoints.

Every size differs from the others that it could be mistaken for.
"""

VOCAB, WIDTH, INNER, KEYS = 48, 16, 24, 8  # of the decoder; one key head
TEXT_LAYERS, VISION_LAYERS = 3, 2
TEXT = dict(
  hidden_size=WIDTH,
  intermediate_size=INNER,
  num_hidden_layers=TEXT_LAYERS,
  num_attention_heads=2,
  num_key_value_heads=1,
  vocab_size=VOCAB,
)

Shapes = dict[str, tuple[int, ...]]


def numbered(prefix: str, count: int, shapes: Shapes) -> Shapes:
  """The tensors of a stack of layers."""
  return {
    f'{prefix}.{i}.{name}': shape
    for i in range(count)
    for name, shape in shapes.items()
  }


def norm(name: str, width: int) -> Shapes:
  """A norm with a bias."""
  return {f'{name}.weight': (width,), f'{name}.bias': (width,)}


def linear(name: str, out: int, into: int) -> Shapes:
  """A matrix with a bias."""
  return {f'{name}.weight': (out, into), f'{name}.bias': (out,)}


def decoder(prefix: str, *, bias: bool = False) -> Shapes:
  """Llama, or Qwen2 with its biases."""
  layer = {
    'input_layernorm.weight': (WIDTH,),
    'post_attention_layernorm.weight': (WIDTH,),
    'mlp.gate_proj.weight': (INNER, WIDTH),
    'mlp.up_proj.weight': (INNER, WIDTH),
    'mlp.down_proj.weight': (WIDTH, INNER),
    'self_attn.o_proj.weight': (WIDTH, WIDTH),
  }
  for name, out in (('q', WIDTH), ('k', KEYS), ('v', KEYS)):
    made = linear(f'self_attn.{name}_proj', out, WIDTH)
    layer |= made if bias else dict(list(made.items())[:1])
  return {
    f'{prefix}.embed_tokens.weight': (VOCAB, WIDTH),
    **numbered(f'{prefix}.layers', TEXT_LAYERS, layer),
    f'{prefix}.norm.weight': (WIDTH,),
  }
