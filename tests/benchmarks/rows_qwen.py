"""Lines about a Qwen2-VL of 30 M parameters, beside torch; none without it."""

from collections.abc import Iterator

from measuring import Line
import numpy as np
import rows_learning
import subjects
from subjects import Subject

SIDE, ANSWER, ROWS = 32, 16, 4  # patches of a picture's edge; tokens; rows
TEXT = dict(
  vocab_size=2000,
  hidden_size=512,
  intermediate_size=1376,
  num_hidden_layers=8,
  num_attention_heads=8,
  num_key_value_heads=4,
  rope_parameters=dict(
    rope_type='default', rope_theta=1e6, mrope_section=[8, 12, 12]
  ),
  pad_token_id=0,
  bos_token_id=1,
  eos_token_id=2,
)
VISION = dict(
  depth=4,
  embed_dim=256,
  hidden_size=512,
  num_heads=4,
  mlp_ratio=4,
  patch_size=14,
  spatial_merge_size=2,
)


def rounds(repeats: int) -> Iterator[Line]:
  """A round of each method on plain rows, each with a picture of 256 tokens."""
  if not subjects.HAS_TORCH:
    return
  import parity_reference as reference
  import parity_rows

  config = reference.config_of(
    'qwen2_vl',
    1,
    text_config=TEXT,
    vision_config=VISION,
    image_token_id=1999,
    video_token_id=1998,
    vision_start_token_id=1997,
    vision_end_token_id=1996,
    tie_word_embeddings=False,
  )
  pair = reference.load(reference.build(config, 0))
  subject = Subject(
    'qwen2-vl 30m', pair.ours, pair.ours.params, None, pair.torch
  )
  ours, theirs = {}, {}
  for seed, split in enumerate(rows_learning.SETS):
    rows = [_row(parity_rows, config, seed, i) for i in range(ROWS)]
    theirs[split] = parity_rows.inputs(config, rows, length=None)
    batch = parity_rows.batch(pair.torch, rows, length=None, room=SIDE**2)
    counted = np.nonzero(batch['weights'])[1].reshape(ROWS, ANSWER)
    ours[split] = batch | {'counted': counted.astype(np.int32)}
  yield from rows_learning.rounds_of(subject, {'plain': ours}, theirs, repeats)


def _row(parity_rows, config, seed, number):
  """Ten words, a picture, and thirty more words, the last ones an answer."""
  rng = np.random.default_rng((seed, number))
  words = lambda n: rng.integers(3, 1900, n)
  start, end = config.vision_start_token_id, config.vision_end_token_id
  picture = np.full(SIDE**2 // 4, config.image_token_id)
  parts = (words(10), [start], picture, [end], words(30 + ANSWER))
  tokens = np.concatenate(parts).astype(np.int64)
  labels = np.where(
    np.arange(len(tokens)) < len(tokens) - ANSWER,
    parity_rows.UNLABELLED,
    tokens,
  )
  vision = config.vision_config
  patch = 3 * vision.temporal_patch_size * vision.patch_size**2
  pixels = rng.standard_normal((SIDE**2, patch)).astype(np.float32)
  return parity_rows.Row(tokens, labels, [pixels], [(1, SIDE, SIDE)])
