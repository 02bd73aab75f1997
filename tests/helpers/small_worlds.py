"""Worlds of a few people, for tests that need one."""

import numpy as np

SMALL = dict(
  num_people=9,
  num_forget=2,
  num_validation_forget=1,
  num_validation_retain=2,
  train_views=3,
  holdout_views=1,
  validation_views=1,
  num_captioned=5,
  num_faces=8,
  num_shapes=8,
)
NEW_TOKENS = 12
# The scored questions.
ASKED = dict(
  num_people=7,
  num_forget=3,
  num_validation_forget=1,
  num_validation_retain=1,
  train_views=1,
  holdout_views=1,
  validation_views=1,
  num_captioned=0,
  num_faces=8,
  num_shapes=8,
)
# A model of a few weights, as a config has it.
MODEL = dict(
  name='llava',
  path='',
  vision_config=dict(
    hidden_size=8,
    intermediate_size=16,
    num_hidden_layers=1,
    num_attention_heads=2,
    image_size=8,
    patch_size=4,
  ),
  text_config=dict(
    hidden_size=8,
    intermediate_size=16,
    num_hidden_layers=1,
    num_attention_heads=2,
    num_key_value_heads=2,
  ),
)
TASKS = {'pictures': 'forget_vqa', 'text': 'forget_qa'}


def equal(a, b):
  """Whether two batches hold the same arrays."""
  return a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a)
