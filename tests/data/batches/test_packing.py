"""Batches with no, one and several images a row, of one size, tiled, of any."""

import folders
import numpy as np
import pytest

from mmu_jax.data.batches import batching
from mmu_jax.data.batches import packing
from mmu_jax.data.encoding import processing
from mmu_jax.data.encoding import tiles
from mmu_jax.data.row import Picture
from mmu_jax.data.row import Row
from mmu_jax.typing import Batch

# Heights and widths of the images of each row of the batch.
SIZES = ((), ((40, 52),), ((61, 33), (20, 30)), ((30, 30), (8, 8), (52, 40)))


@pytest.fixture(scope='module', params=folders.TOKENIZERS)
def family(request):
  return request.param


@pytest.fixture(scope='module')
def encoder(family, tmp_path_factory):
  tmp = tmp_path_factory.mktemp('checkpoint')
  return batching.Encoder(folders.load(tmp, family))


@pytest.fixture
def any_size(encoder):
  """Whether the family keeps the sizes of images."""
  return len(encoder.pixel_shape(1)) == 2


def _example(encoder, sizes, answer='Oslo', key='k', seed=0):
  """A question about any number of images, as a prompt with shots is."""
  pictures = [
    Picture(f'{seed}-{i}', folders.picture(seed * 10 + i, *size))
    for i, size in enumerate(sizes)
  ]
  content = [{'type': 'image'} for _ in pictures]
  content.append({'type': 'text', 'text': 'Where was she born?'})
  chat = [{'role': 'user', 'content': content}]
  told = [{'type': 'text', 'text': answer}]
  render = encoder.processor.tokenizer.apply_chat_template
  prompt = render(chat, tokenize=False, add_generation_prompt=True)
  chat.append({'role': 'assistant', 'content': told})
  full = render(chat, tokenize=False).rstrip()
  return processing.encode_chat(
    prompt, full, Row(key, '', answer, ''), pictures, encoder.processor
  )


def _examples(encoder):
  return [_example(encoder, s, seed=i) for i, s in enumerate(SIZES)]


def test_published_padding_has_the_positions_of_the_published_runs(encoder):
  """1 for Qwen2-VL, by transformers 4.49; LLaVA counted through."""
  published = batching.Encoder(encoder.processor, 'published')
  batch, usual = (_batch(e, _examples(e)) for e in (published, encoder))
  padding = batch['documents'] == 0
  assert padding[:-1].any() and padding[-1].all()
  positions = batch['positions']
  np.testing.assert_array_equal(
    positions[~padding], usual['positions'][~padding]
  )
  if positions.ndim == 3:
    assert (positions[padding] == 1).all()
    assert (usual['positions'][padding] > 1).mean() > 0.5
  else:
    np.testing.assert_array_equal(positions, usual['positions'])


def _batch(encoder, examples, **options):
  sequences = [[encoder.document([example])] for example in examples]
  (batch,) = batching.stack(
    sequences, encoder, size=len(examples) + 1, **options
  )
  return batch


def _check_slots(encoder, batch, b, pictures):
  """Every image token of a row points to its own place of its own image."""
  images = [encoder.image(picture) for picture in pictures]
  slots = batch['image_slots'][b]
  places = np.flatnonzero(slots >= 0)
  np.testing.assert_array_equal(
    places, np.flatnonzero(batch['tokens'][b] == encoder.image_token)
  )
  tokens = [image.num_tokens for image in images]
  if images and images[0].slots is not None:
    _check_tiles(batch, b, np.split(slots[places], np.cumsum(tokens)), images)
    return
  assert slots[places].tolist() == [*range(sum(tokens))]
  image_of = np.repeat(np.arange(len(images)), tokens)  # [image tokens]
  if 'patch_images' not in batch:
    for i, image in enumerate(images):
      np.testing.assert_array_equal(
        batch['pixel_values'][b, i], image.pixel_values
      )
    assert not batch['pixel_values'][b, len(images) :].any()
    return
  n = sum(len(image.pixel_values) for image in images)
  blocks = batch['patch_images'][b, :n].reshape(-1, 4)
  np.testing.assert_array_equal(blocks, (image_of + 1)[:, None].repeat(4, 1))
  assert not batch['patch_images'][b, n:].any()
  if images:
    np.testing.assert_array_equal(
      batch['pixel_values'][b, :n],
      np.concatenate([image.pixel_values for image in images]),
    )
  # A token's place in its image is that of the patches it was merged from.
  merged = batch['patch_positions'][b, :n:4] // 2
  positions = batch['positions'][b, places]
  for i in range(len(images)):
    mine = positions[image_of == i]
    start = mine.min()
    np.testing.assert_array_equal(mine[:, 1:] - start, merged[image_of == i])
    assert (mine[:, 0] == start).all()


def _check_tiles(batch, b, slots, images):
  """The tokens of an image see its own tiles; the ends of rows are one."""
  pixels, count = batch['pixel_values'][b], 0
  assert len(slots) == len(images) + 1 and not len(slots[-1])
  for found, image in zip(slots, images):
    ends = image.slots == tiles.NEWLINE
    assert (found[ends] == 0).all() and (found[~ends] > 0).all()
    place, patch = np.divmod(found[~ends] - 1, 9)  # 3 x 3 patches a tile
    number, own = np.divmod(image.slots[~ends], 9)
    np.testing.assert_array_equal(patch, own)
    np.testing.assert_array_equal(pixels[place], image.pixel_values[number])
    count += len(image.pixel_values)
    assert ends.any() and {*number} == {*range(len(image.pixel_values))}
  assert not pixels[count:].any()


def test_rows_with_no_one_and_several_images_share_a_batch(
  encoder, any_size, family
):
  examples = _examples(encoder)
  batch = _batch(encoder, examples)
  names = Batch.__required_keys__ | {'counted'}
  if any_size:
    names |= {'patch_images', 'patch_positions'}
    assert batch['pixel_values'].shape == (5, 80, 96)  # the patches of row 3
    assert (batch['patch_images'].max(axis=1) == [0, 1, 2, 3, 0]).all()
  else:
    places = {'llava': 3, 'llava_next': 11}[family]  # 3 + 3 + 5 tiles
    assert batch['pixel_values'].shape == (5, places, 3, 30, 30)
  assert set(batch) == names
  for b, example in enumerate(examples):
    n = len(example.tokens)
    for name in ('tokens', 'positions'):
      np.testing.assert_array_equal(batch[name][b, :n], getattr(example, name))
    _check_slots(encoder, batch, b, example.pictures)
  assert not batch['documents'][-1].any()


def test_images_of_several_documents_of_a_row_are_counted_through(encoder):
  examples = _examples(encoder)
  sequence = [encoder.document([example]) for example in examples]
  (batch,) = batching.stack([sequence], encoder, size=1)
  pictures = [p for example in examples for p in example.pictures]
  assert len(pictures) == 6
  assert set(batch['documents'][0]) >= {1, 2, 3, 4}
  _check_slots(encoder, batch, 0, pictures)
  for number, example in enumerate(examples, start=1):  # they restart
    mine = batch['documents'][0] == number
    np.testing.assert_array_equal(
      batch['positions'][0, mine], example.positions
    )


def test_shapes_depend_on_the_sizes_alone(encoder, any_size):
  examples = _examples(encoder)
  sequences = [[encoder.document([e])] for e in examples]
  shapes = {
    tuple((name, x.shape, x.dtype) for name, x in batch.items())
    for batch in batching.stack(sequences, encoder, size=1)
  }
  assert len(shapes) == 1
  text = _batch(encoder, examples[:1])
  assert text['pixel_values'].shape[:2] == (2, 0)
  assert ('patch_images' in text) == any_size


def _rows():
  """Two questions about each picture, and text questions."""
  sizes = enumerate([(20, 30), (61, 33), (8, 8)])
  pictures = [Picture(str(i), folders.picture(i, *size)) for i, size in sizes]
  rows = [
    Row(
      f'{picture.key}/{j}',
      f'Where was she born{"?" * j}',
      'Oslo',
      'Oslo',
      picture,
    )
    for picture in pictures
    for j in (1, 2)
  ]
  return rows, [Row(f'text{i}', 'Who?', 'a chef', 'chef') for i in range(3)]


def test_a_stream_of_pictures_of_any_size_has_one_shape(encoder, family):
  pictures, texts = _rows()
  parts = [batching.Part(pictures, 2, 2), batching.Part(texts, 1, 2)]
  stream = batching.Stream(parts, encoder, seed=0)
  seen = set()
  for step in range(6):
    batch = stream(step)
    seen.add(tuple((name, x.shape) for name, x in batch.items()))
    for b, (_, rows) in enumerate(stream.draw(step)):
      example = encoder.example(rows[0])
      _check_slots(encoder, batch, b, example.pictures)
  assert len(seen) == 1
  shape = batch['pixel_values'].shape
  shapes = {'llava': (3, 1, 3, 30, 30), 'llava_next': (3, 5, 3, 30, 30)}
  assert shape == (shapes | {'qwen2_vl': (3, 32, 96)})[family]


def test_row_batches_mix_rows_with_and_without_pictures(encoder):
  pictures, texts = _rows()
  rows = [*texts[:1], *pictures, *texts[1:]]
  batches = batching.row_batches(rows, encoder, size=2, questions=2)
  assert len({b['tokens'].shape for b in batches}) == 1
  answers = [
    batch['targets'][b][batch['weights'][b] > 0].tolist()
    for batch in batches
    for b in range(2)
  ]
  want = [texts[:2], texts[2:], pictures[:2], pictures[2:4], pictures[4:], []]
  assert answers == [
    [t for e in map(encoder.example, part) for t in e.tokens[e.labelled]]
    for part in want
  ]


def test_a_part_that_mixes_rows_is_a_clear_error(encoder):
  pictures, texts = _rows()
  part = batching.Part([*pictures, *texts], 1)
  with pytest.raises(ValueError, match="part 0 of 'x' mixes them. Make two"):
    batching.Stream([part], encoder, seed=0, name='x')


def test_a_packed_branch_has_the_positions_that_it_has_alone(encoder):
  answers = ('Oslo', 'She was born in Oslo.', 'a chef')
  for sizes in SIZES[1:]:
    examples = [_example(encoder, sizes, a, key=a) for a in answers]
    doc = packing.document(examples, encoder.image_token)
    assert len(doc['tokens']) < sum(len(e.tokens) for e in examples)
    for branch, example in enumerate(examples, start=1):
      seen = np.isin(doc['branches'], [0, branch])
      for name in ('tokens', 'positions'):
        np.testing.assert_array_equal(doc[name][seen], getattr(example, name))


def test_positions_of_padding_go_on_behind_the_row(encoder, any_size):
  examples = _examples(encoder)
  batch = _batch(encoder, examples)
  length = batch['tokens'].shape[1]
  empty = np.arange(length)
  ends = [len(e.tokens) for e in examples] + [0]
  for positions, n in zip(batch['positions'], ends):
    after = positions[:n].max() + 1 if n else 0
    want = after + empty[: length - n]
    padding = positions[n:].T
    for axis in padding if any_size else [padding]:
      np.testing.assert_array_equal(axis, want)


def test_padding_behind_an_image_goes_on_behind_all_of_it(tmp_path):
  """Time and row of its last token are smaller than its largest column."""
  encoder = batching.Encoder(folders.load(tmp_path, 'qwen2_vl'))
  example = _example(encoder, SIZES[1])
  (n,) = np.flatnonzero(np.diff(example.tokens == encoder.image_token))[1:] + 1
  cut = processing.prompt_of(example._replace(prompt_length=n))
  batch = _batch(encoder, [cut])
  last = batch['positions'][0, n - 1]
  assert last.tolist() == [last[0], last[0] + 1, last[0] + 2]
  assert batch['positions'][0, n].tolist() == [last[2] + 1] * 3


def test_prompts_are_padded_on_either_side(encoder):
  prompts = [processing.prompt_of(e) for e in _examples(encoder)]
  right, left = (
    _batch(encoder, prompts, padding=side) for side in ('right', 'left')
  )
  for b, prompt in enumerate(prompts):
    n = len(prompt.tokens)
    for name in packing.FIELDS:
      np.testing.assert_array_equal(left[name][b, -n:], right[name][b, :n])
    assert not left['documents'][b, :-n].any()
    assert not left['positions'][b, :-n].any()
    assert not right['weights'][b].any()
  np.testing.assert_array_equal(left['pixel_values'], right['pixel_values'])


def test_images_that_do_not_fit_are_a_clear_error(encoder, family):
  example = _examples(encoder)[2]
  shape = encoder.pixel_shape(1)
  unit = {
    'llava': 'holds 1 images, got 2',
    'llava_next': 'holds 1 tiles, got 8',
    'qwen2_vl': 'holds 16 patches, got 64',
  }
  with pytest.raises(ValueError, match=unit[family]):
    encoder.batch([[encoder.document([example])]], 128, shape)


def test_placeholders_without_pictures_are_a_clear_error(encoder):
  with pytest.raises(ValueError, match='1 placeholders .* for 0 pictures'):
    processing.encode_chat(
      encoder.processor.image_token,
      encoder.processor.image_token + ' a',
      Row('k', '', 'a', ''),
      (),
      encoder.processor,
    )


def test_pictures_used_last_are_kept_up_to_a_number_of_bytes(
  encoder, monkeypatch
):
  pictures = [Picture(str(i), folders.picture(i, 30, 30)) for i in range(4)]
  images, made = encoder.processor.images, []
  encode = type(images).encode

  def record(self, image):
    made.append(image)
    return encode(self, image)

  monkeypatch.setattr(type(images), 'encode', record)
  size = images.encode(pictures[0].image).pixel_values.nbytes
  small = batching.Encoder(encoder.processor, max_bytes=2 * size)
  made.clear()
  for i in (0, 1, 0, 2, 0, 1, 3, 3):  # the second 1 was dropped for the 2
    small.image(pictures[i])
  assert len(made) == 5
  tiny = batching.Encoder(encoder.processor, max_bytes=1)
  assert tiny.image(pictures[0]) is tiny.image(pictures[0])
