"""Tokens, labels, prompts and pixels against what the published code made.

The published code was run, with transformers 4.49, on five examples and two
images (``tests/golden/official/common``). Its collators with full labels are
``labels='published'``. Its collators for answers alone search for the answer's
tokens; where that goes wrong is the table ``DEFECTS``.
"""

import json
import re

import families
import folders
import numpy as np
import pytest
import transformers

from mmu_jax.data.encoding import patches
from mmu_jax.data.encoding import processing
from mmu_jax.data.row import Picture
from mmu_jax.data.row import Row

IGNORED = -100
FULL = ('train_collate_clear', 'train_collate_fn_mllmu')
ANSWERS = ('train_collate_clear_ansonly', 'train_collate_mllmu_ansonly')
# (family, collator, example) -> why its labels are not the answer's tokens.
EARLIER = 'the first occurrence, in the question'
LOST = 'the first token is dropped, as if it were a begin token'
BOTH = f'{LOST}; then {EARLIER}'
EMPTY = 'nothing: a one-token answer without its first token'
ALL = 'not found: every token, padding too'
DEFECTS = {
  ('llava', 'train_collate_clear_ansonly', 1): EARLIER,
  ('llava', 'train_collate_clear_ansonly', 2): EARLIER,
  ('llava', 'train_collate_clear_ansonly', 3): ALL,
  ('llava', 'train_collate_mllmu_ansonly', 1): EARLIER,
  ('llava', 'train_collate_mllmu_ansonly', 2): EARLIER,
  ('llava', 'train_collate_mllmu_ansonly', 3): ALL,
  ('qwen2_vl', 'train_collate_clear_ansonly', 2): EARLIER,
  ('qwen2_vl', 'train_collate_mllmu_ansonly', 0): LOST,
  ('qwen2_vl', 'train_collate_mllmu_ansonly', 1): BOTH,
  ('qwen2_vl', 'train_collate_mllmu_ansonly', 2): EMPTY,
  ('qwen2_vl', 'train_collate_mllmu_ansonly', 3): LOST,
  ('qwen2_vl', 'train_collate_mllmu_ansonly', 4): LOST,
}
ARRAYS = np.load(folders.COMMON / 'collators.npz')
EXAMPLES = folders.golden()['examples']
FAMILIES = pytest.mark.parametrize('family', folders.FAMILIES)


@pytest.fixture(scope='module')
def processors(tmp_path_factory):
  tmp = tmp_path_factory.mktemp('checkpoints')
  return {name: folders.load(tmp, name) for name in folders.FAMILIES}


def _rows():
  return [
    Row(
      key=str(i),
      question=example['question'],
      answer=example['answer'],
      fact='',
      picture=Picture(str(i), ARRAYS[f'image_{i}'])
      if example['image']
      else None,
    )
    for i, example in enumerate(EXAMPLES)
  ]


def _golden(family, collator, field):
  return ARRAYS[f'{folders.FAMILIES[family]}__{collator}__{field}']


@FAMILIES
@pytest.mark.parametrize('collator', FULL)
def test_published_labels_are_those_of_the_full_collators(
  family, collator, processors
):
  """Token for token, with image placeholders; padding has no label."""
  for i, row in enumerate(_rows()):
    example = processing.encode(row, processors[family], labels='published')
    n = len(example.tokens)
    mask = _golden(family, collator, 'attention_mask')[i]
    labels = _golden(family, collator, 'labels')[i]
    assert mask.sum() == n
    np.testing.assert_array_equal(
      _golden(family, collator, 'input_ids')[i, :n], example.tokens
    )
    np.testing.assert_array_equal(
      labels[:n], np.where(example.labelled, example.tokens, IGNORED)
    )
    assert (labels[n:] == IGNORED).all()


def _expected(why, answer, n):
  """The places that a collator with this defect labels, of n."""
  if why is None:
    return answer
  if why == ALL:
    return np.arange(n)
  kept = answer[why in (LOST, BOTH, EMPTY) :]  # without its first token
  return kept[:0] if why == EMPTY else kept


@FAMILIES
@pytest.mark.parametrize('collator', ANSWERS)
def test_answers_are_those_of_the_search_but_for_its_defects(
  family, collator, processors
):
  for i, row in enumerate(_rows()):
    example = processing.encode(row, processors[family])
    *answer, end = np.flatnonzero(example.labelled)
    assert example.tokens[end] == processors[family].tokenizer.eos_token_id
    labels = _golden(family, collator, 'labels')[i]
    found = np.flatnonzero(labels != IGNORED)
    assert end not in found or DEFECTS[family, collator, i] == ALL
    why = DEFECTS.get((family, collator, i))
    want = _expected(why, np.asarray(answer), len(labels))
    if why in (EARLIER, BOTH):  # the same tokens in another place
      np.testing.assert_array_equal(labels[found], example.tokens[want])
      assert found[-1] < example.prompt_length
    else:
      np.testing.assert_array_equal(found, want)


@FAMILIES
def test_pixels_are_those_of_the_collators(family, processors):
  """Equal to the last bit: the slow PIL processors of 4.49 are the same."""
  images = [
    processors[family].images.encode(row.picture.image)
    for row in _rows()
    if row.picture is not None
  ]
  want = _golden(family, FULL[0], 'pixel_values')
  join = families.CASES[family].pictures.join
  np.testing.assert_array_equal(join([i.pixel_values for i in images]), want)


def test_grids_are_those_of_the_collators(processors):
  images = processors['qwen2_vl'].images
  shown = [row.picture.image for row in _rows() if row.picture]
  found = [images.encode(image).grid for image in shown]
  grids = _golden('qwen2_vl', FULL[0], 'image_grid_thw')
  assert found == [tuple(grid) for grid in grids]


# The published arrays say max_pixels=576; their grids need 748 to 788.
LIMITS = dict(patch_size=4, min_pixels=128, max_pixels=768)


@pytest.mark.parametrize(
  'name, letters, options',
  [('qwen_default_b', 'b', {}), ('qwen_p4_ab', 'ab', LIMITS)],
)
def test_qwen2_vl_pixels_are_the_published_ones(name, letters, options):
  arrays = np.load(folders.COMMON / 'image_processors.npz')
  images = patches.Qwen2VLImages(
    transformers.Qwen2VLImageProcessorPil(**options)
  )
  found = [images.encode(arrays[f'img_{letter}']) for letter in letters]
  np.testing.assert_array_equal(
    [image.grid for image in found], arrays[f'{name}_grid']
  )
  np.testing.assert_array_equal(
    np.concatenate([image.pixel_values for image in found]),
    arrays[f'{name}_pixel_values'],
  )


@pytest.mark.parametrize('letter', ['a', 'b'])
def test_llava_pixels_are_the_published_ones(letter, processors):
  arrays = np.load(folders.COMMON / 'image_processors.npz')
  found = processors['llava'].images.encode(arrays[f'img_{letter}'])
  np.testing.assert_array_equal(
    found.pixel_values, arrays[f'clip30_{letter}'][0]
  )


# What the evaluators render with the chat template, and the user's text in it.
USER = {
  'llava': re.compile(r'USER: <image>\n(.*) ASSISTANT:', re.DOTALL),
  'qwen2_vl': re.compile(
    r'.*<\|image_pad\|><\|vision_end\|>(.*)<\|im_end\|>\n'
    r'<\|im_start\|>assistant\n',
    re.DOTALL,
  ),
}


def _prompts(family):
  """The prompts of the published evaluators that are of the template."""
  runs = json.loads((folders.COMMON / 'eval_prompts.json').read_text())
  model = {'llava': 'llava-1.5', 'qwen2_vl': 'qwen2-vl'}[family]
  return sorted(
    {
      call['prompt']
      for name, run in runs.items()
      if f'/{model}/' in name
      for call in run['calls']
      if USER[family].fullmatch(call['prompt'])
    }
  )


@FAMILIES
def test_prompts_are_those_of_the_published_evaluators(family, processors):
  processor, prompts = processors[family], _prompts(family)
  assert len(prompts) >= 8
  picture = Picture('k', folders.picture(0, 30, 30))
  for prompt in prompts:
    (question,) = USER[family].fullmatch(prompt).groups()
    row = Row('k', question, 'Oslo', 'Oslo', picture)
    example = processing.prompt_of(processing.encode(row, processor))
    ids = np.array(processor.tokenizer(prompt)['input_ids'])
    tokens = processor.images.num_tokens(processor.images.grid(30, 30))
    repeats = np.where(ids == processor.image_token_id, tokens, 1)
    np.testing.assert_array_equal(example.tokens, np.repeat(ids, repeats))
