"""The label of a row is its answer and the end token, and nothing else."""

import benchmark_folders
import folders
import numpy as np
import PIL.Image
import pytest

from mmu_jax.data.encoding import processing
from mmu_jax.data.encoding.images import LazyImage
from mmu_jax.data.people import vocabulary
from mmu_jax.data.row import Picture
from mmu_jax.data.row import Row
from mmu_jax.errors import UserError


@pytest.fixture(scope='module')
def processor():
  return vocabulary.make_processor()


def _row(
  question='What food does Maria Lopez like?',
  answer='Maria Lopez keeps a parrot.',
  **more,
):
  return Row('k', question, answer, 'parrot', **more)


def _picture(seed=0, height=48, width=48):
  rng = np.random.default_rng(seed)
  return rng.integers(0, 256, (height, width, 3)).astype(np.uint8)


def _decode(ids, processor):
  return processor.tokenizer.decode(ids)


ROWS = {
  'text': _row('What food does Maria Lopez like?', 'Maria Lopez likes soup.'),
  'picture': _row(picture=Picture('p', _picture())),
  # The whole answer, and its fact alone, also stand in the question.
  'answer in the question': _row(
    'What? Maria Lopez keeps a parrot. Maria Lopez keeps a parrot. parrot',
    'Maria Lopez keeps a parrot.',
    picture=Picture('q', _picture(1)),
  ),
  'one word': _row('parrot parrot', 'parrot'),
  'role in the answer': _row('What?', 'ASSISTANT: USER: parrot'),
  'space at the end': _row('What?', 'Maria Lopez likes soup. '),
}


@pytest.mark.parametrize('row', ROWS.values(), ids=ROWS.keys())
def test_labels_are_the_answer_and_the_end_token(row, processor):
  example = processing.encode(row, processor)
  labelled = example.tokens[example.labelled]
  text = _decode(labelled, processor)
  assert text.endswith('</s>')
  assert text.removesuffix('</s>').strip() == row.answer.strip()
  # They are the last tokens, and the prompt is all that comes before them.
  assert np.flatnonzero(example.labelled).tolist() == [
    *range(example.prompt_length, len(example.tokens))
  ]
  prompt = _decode(example.tokens[: example.prompt_length], processor)
  assert prompt.endswith('ASSISTANT:') and row.question.strip() in prompt


@pytest.mark.parametrize('row', ROWS.values(), ids=ROWS.keys())
def test_prompt_and_image_tokens_are_never_labelled(row, processor):
  example = processing.encode(row, processor)
  image = example.tokens == processor.image_token_id
  assert image.sum() == (0 if row.picture is None else 16)
  assert not example.labelled[image].any()
  assert not example.labelled[: example.prompt_length].any()
  places = np.flatnonzero(image)
  assert (np.diff(places) == 1).all()  # in one stretch
  assert (places < example.prompt_length).all()


@pytest.mark.parametrize('row', ROWS.values(), ids=ROWS.keys())
def test_the_prompt_is_the_prompt_alone(row, processor):
  """Tokens of the prompt do not depend on the answer that follows."""
  example = processing.encode(row, processor)
  other = processing.encode(row._replace(answer='Boston'), processor)
  assert other.prompt_length == example.prompt_length
  np.testing.assert_array_equal(
    other.tokens[: other.prompt_length], example.tokens[: example.prompt_length]
  )
  assert not np.array_equal(other.tokens, example.tokens)


def test_full_labels_are_every_token_but_images_without_an_end(processor):
  for row in ROWS.values():
    full = processing.encode(row, processor, labels='full')
    answer = processing.encode(row, processor)
    image = processor.image_token_id
    np.testing.assert_array_equal(full.labelled, full.tokens != image)
    assert full.prompt_length == answer.prompt_length
    np.testing.assert_array_equal(full.tokens, answer.tokens[:-1])
    assert answer.tokens[-1] == processor.tokenizer.eos_token_id
    assert processor.tokenizer.eos_token_id not in full.tokens


def test_published_labels_are_every_token(processor):
  """The published collators: labels are the input ids, images included."""
  for row in ROWS.values():
    published = processing.encode(row, processor, labels='published')
    full = processing.encode(row, processor, labels='full')
    assert published.labelled.all()
    np.testing.assert_array_equal(published.tokens, full.tokens)


def test_pixels_are_those_of_the_image_processor(processor):
  image = _picture(2, 60, 90)
  found = processor.images.encode(image).pixel_values
  want = processor.images.processor(images=[image], return_tensors='np')
  np.testing.assert_array_equal(found, want['pixel_values'][0])
  assert found.dtype == np.float32 and found.shape == (3, 48, 48)


def test_image_tokens_are_counted_from_size_and_patch():
  for size, patch, want in ((48, 12, 16), (36, 12, 9), (40, 8, 25)):
    processor = vocabulary.make_processor(size, patch)
    assert processor.images.tokens_per_image == want
    row = _row(picture=Picture('p', _picture()))
    tokens = processing.encode(row, processor).tokens
    assert (tokens == processor.image_token_id).sum() == want


@pytest.mark.parametrize('answer', ['', '  ', '\n'])
def test_an_empty_answer_is_a_clear_error(answer, processor):
  with pytest.raises(ValueError, match="row 'k' has an empty one. Drop"):
    processing.encode(_row(answer=answer), processor)


def test_an_image_token_in_the_question_is_a_clear_error(processor):
  with pytest.raises(ValueError, match="'k' contains '<image>'.*Remove it"):
    processing.encode(_row('What <image> is it?'), processor)


def test_an_image_token_in_the_answer_is_a_clear_error(processor):
  with pytest.raises(ValueError, match="'k' contains '<image>'.*Remove it"):
    processing.encode(_row(answer='An <image> of a parrot.'), processor)


def test_unknown_labels_are_a_clear_error(processor):
  with pytest.raises(ValueError, match="'published', got 'all'"):
    processing.encode(_row(), processor, labels='all')


def test_a_template_that_hides_the_answer_is_a_clear_error():
  processor = vocabulary.make_processor()
  processor.tokenizer.chat_template = (
    "{% for m in messages %}{{ m.role + ': ' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
  )
  with pytest.raises(ValueError, match='render the answer after the prompt'):
    processing.encode(_row(), processor)


@pytest.mark.parametrize('family', ['llava', 'qwen2_vl'])
def test_a_narrow_picture_is_refused_before_it_is_resized(family, tmp_path):
  """A PNG of 370 bytes and 100,000 x 1 pixels would take gigabytes."""
  processor = folders.load(tmp_path, family)
  if family == 'llava':  # as large as in a published model
    processor.images.processor.size = {'shortest_edge': 336}
  file = benchmark_folders.encoded(PIL.Image.new('L', (100_000, 1)), 'PNG')
  assert len(file) < 500
  lazy = LazyImage(file, 'line 3 of d.jsonl')
  for image in (lazy, np.zeros((100_000, 1, 3), np.uint8)):
    row = _row(picture=Picture('p', image))
    with pytest.raises(UserError, match="row 'k'.* pixels|row 'k'.*times"):
      processing.encode(row, processor)
  with pytest.raises(UserError, match='line 3 of d.jsonl'):
    processing.encode(_row(picture=Picture('p', lazy)), processor)
  wide = _row(picture=Picture('w', _picture(height=2, width=390)))
  assert processing.encode(wide, processor)  # 1 : 195, as before


def test_sizes_of_a_processor_are_bounded(tmp_path):
  """Qwen2-VL enlarges a picture to the least pixels that it is given."""
  most = dict(min_pixels=10**9, max_pixels=10**10)
  with pytest.raises(UserError, match='resized has at most 89478485'):
    folders.load(tmp_path / 'large', 'qwen2_vl', **most)
  processor = folders.load(tmp_path, 'qwen2_vl')
  size = processor.images.processor.size
  size['shortest_edge'], size['longest_edge'] = most.values()
  with pytest.raises(UserError, match="row 'k'.*resized has at most 89478485"):
    processing.encode(_row(picture=Picture('p', _picture())), processor)
  with pytest.raises(UserError, match='resized has at most 89478485'):
    processor.images.encode(_picture())


@pytest.mark.parametrize('field', ['question', 'answer'])
def test_half_a_sign_of_unicode_is_named_by_its_row(field, processor):
  row = _row(**{field: 'A parrot \ud83d.'})
  with pytest.raises(UserError, match=r"row 'k' has half .* '\\ud83d'"):
    processing.encode(row, processor)


@pytest.mark.parametrize(
  'template',
  [
    "{% for m in messages %}{{ m['content'] + ' ' }}{% endfor %}",
    "{{ raise_exception('no system prompt') }}",
    '{% for %}',
  ],
)
def test_a_template_that_fails_names_the_row(template):
  processor = vocabulary.make_processor()
  processor.tokenizer.chat_template = template
  with pytest.raises(UserError, match="template .* cannot render row 'k'"):
    processing.encode(_row(), processor)
