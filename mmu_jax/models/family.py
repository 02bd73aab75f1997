"""A family of models: everything the library asks about one architecture.

To add one, write its module with a ``FAMILY`` at the end (``llava.py`` is the
shortest example) and list it in ``model.MODELS``.
"""

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp

from mmu_jax.models.llama import LlamaConfig
from mmu_jax.sharding import Rules
from mmu_jax.typing import Batch


def _no_copies(config: Any) -> dict[str, str]:
  """No tensor is saved twice."""
  del config
  return {}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family:
  """One architecture. Functions take its config first.

  Rows of a batch have *room* for pictures: a number of pictures in families
  that bring them to one size, of patches in families that keep their sizes.

  Attributes:
    name: key in ``MODELS``; model names of configs and notes of checkpoints.
    config: dataclass of its sizes, with ``text_config`` and ``vision_config``;
      the defaults are its 7B model.
    module: the model; it has ``decoder``, ``image_features`` and ``logits``.
    components: component -> regex over leaf names.
    partition_rules: (regex over leaf names, PartitionSpec), for ``sharding``.
    read_config: ``read_config(raw, options) -> config``, from the fields of
      ``config.json`` and how to compute (dtype, attention, remat).
    renames: (regex, replacement) in order, from the tensor names of any
      writer to the names on the hub.
    convolutions: ``convolutions(config) -> {end of a leaf name: shape}``, the
      trailing shape in the files of kernels that are matrices here.
    image_processor: class in transformers, for folders that state none.
    image_cut: ``image_cut(config) -> {fact: number}``, equal to ``cut`` of the
      images of a fitting processor.
    image_tokens: ``image_tokens(config, room)``, image tokens of a row.
    abstract_batch: ``abstract_batch(config, rows, length, room)``, shapes and
      dtypes of a batch.
    copies: ``copies(config) -> {hub name: hub name}``, tensors that some
      writers save although another one holds the same numbers.
    widths: ``widths(config)``, sizes by which a plan of memory knows an
      activation: ``layers``, depths of the stacks as far as they run;
      ``split``, last axes that the mesh axis 'tensor' splits; ``heads``, axes
      of attention heads; ``picture``, room of one ordinary picture.
    hub_type: ``model_type`` of its ``config.json``; '' for the name. With a
      slash and the ``model_type`` of ``text_config`` ('llava/qwen2') where
      several families share the first.
  """

  name: str
  config: type
  module: type[nnx.Module]
  components: Mapping[str, str]
  partition_rules: Rules
  read_config: Callable[[Mapping[str, Any], dict[str, Any]], Any]
  renames: tuple[tuple[str, str], ...]
  convolutions: Callable[[Any], dict[str, tuple[int, ...]]]
  image_processor: str
  image_cut: Callable[[Any], dict[str, int]]
  image_tokens: Callable[[Any, int], int]
  abstract_batch: Callable[[Any, int, int, int], Batch]
  widths: Callable[[Any], Mapping[str, Any]]
  copies: Callable[[Any], dict[str, str]] = _no_copies
  hub_type: str = ''


def widths(
  text: LlamaConfig, *, layers: int, split: int, heads: int, picture: int
) -> Mapping[str, Any]:
  """Returns ``Family.widths`` from sizes of the tower and of the decoder."""
  return {
    'layers': (layers, text.num_hidden_layers),
    'split': (split, text.intermediate_size, text.vocab_size),
    'heads': (heads, text.num_attention_heads, text.num_key_value_heads),
    'picture': picture,
  }


def abstract_text(rows: int, length: int) -> Batch:
  """Returns the shapes and dtypes that batches of all families share.

  Args:
    rows: B, rows of the whole batch.
    length: L, tokens of a row.

  Example:
    >>> abstract_text(2, 5)['tokens']
    ShapeDtypeStruct(shape=(2, 5), dtype=int32)
  """
  names = ('tokens', 'positions', 'documents', 'branches', 'image_slots')
  ints = jax.ShapeDtypeStruct((rows, length), jnp.int32)
  floats = jax.ShapeDtypeStruct((rows, length), jnp.float32)
  return dict.fromkeys((*names, 'targets'), ints) | {'weights': floats}
