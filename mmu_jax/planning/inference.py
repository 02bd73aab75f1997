"""The memory of what takes no gradient: making masks, answering, scoring."""

import jax.numpy as jnp

from mmu_jax.methods import descend
from mmu_jax.models import Model
from mmu_jax.planning import activations
from mmu_jax.planning import layout
from mmu_jax.planning import memory
from mmu_jax.planning.memory import Need
from mmu_jax.planning.memory import Setting
from mmu_jax.planning.shapes import Rows


def of_mask(model: Model, sets: int, setting: Setting) -> Need:
  """Returns what making a mask needs: the importances are read leaf by leaf.

  Args:
    model: whose parameters are masked.
    sets: how many importances a component is compared by, forget included.
    setting: the mesh.
  """
  leaves = layout.leaves(model, setting.mesh).values()
  size = sum(leaf.local for leaf in leaves)
  largest = max(leaf.local for leaf in leaves)
  made = {
    'ties and mask': 2 * size,  # bool
    # Its importances, the same normalised, and their ratio.
    'one leaf at work': 4 * largest * (2 * sets + 1),
  }
  return Need({}, {'mask': made})


def of_answers(
  model: Model, rows: Rows, setting: Setting, new_tokens: int = 0
) -> Need:
  """Returns what answering prompts needs, or scoring given answers.

  Args:
    model: what is asked.
    rows: of the prompts, with their answers if those are scored.
    setting: the mesh.
    new_tokens: that are decoded with a cache; 0 for scoring.
  """
  whole = setting._replace(micro_batches=1)
  count = memory.local_rows(rows, whole)
  width = memory.compute_itemsize(model, setting.compiler)
  text = model.config.text_config
  held = {
    'parameters': layout.tree_bytes(model.abstract_params, model, setting.mesh),
    'batch': memory.batch_bytes(model, rows, whole),
  }
  every = activations.kept(
    model.config, descend, rows.length, rows.room, 'none'
  )
  layers = [
    memory.kept_bytes(v, count, model, setting) // v.layers
    for v in every
    if v.kind == 'layers'
  ]
  work = {
    # Of a layer without a gradient: its two largest values, and what goes in
    # and comes out.
    'activations': 2 * max(layers)
    + 2 * count * rows.length * text.hidden_size * width,
    'weights at work': memory.layer_weights(model, setting),
  }
  head = memory.output_layer(model, setting)
  if not new_tokens:
    work['logits'] = memory.logits_bytes(model, rows, count, setting)
    work['weights at work'] = max(work['weights at work'], head)
    return Need(held, {'score': work})
  slots = rows.length + new_tokens
  heads = text.num_key_value_heads
  tensor = setting.mesh.shape['tensor']
  heads //= tensor if heads % tensor == 0 else 1
  entries = 2 * text.num_hidden_layers * count * slots * heads * text.head_dim
  # A scan over layers reads one cache and writes another.
  own = jnp.dtype(model.config.dtype).itemsize
  work['cache'] = entries * (own + width)
  # In the loop over new tokens nothing is large but the tables of words.
  tables = head * (1 if _is_tied(model) else 2)
  loop = work | {
    'activations': 0,
    'weights at work': work['weights at work'] + tables,
  }
  return Need(held, {'prompts': work, 'new tokens': loop})


def _is_tied(model) -> bool:
  """Whether the output layer is the embedding."""
  return getattr(model.config, 'tie_word_embeddings', False)
