"""Pictures in tiles, from the file to the logits, as transformers takes them.

Here both sides begin with the picture and the question: transformers with its
own processor, we with ours and with the batches of a job.
"""

import families
import folders
import jax
import numpy as np
import parity_compare as compare
import parity_reference as reference  # skips where torch is not installed
import pytest
import transformers

from mmu_jax.data.batches.encoder import Encoder
from mmu_jax.data.encoding import tiles
from mmu_jax.data.row import Picture
from mmu_jax.data.row import Row

pytestmark = pytest.mark.usefixtures('quick_compile')
torch = reference.torch
FILES = folders.CONFIGS['llava_next']
SIZES = (
  (30, 30),
  (31, 90),
  (200, 61),
  (45, 60),
  (60, 45),
  (97, 103),
  (400, 30),
  (7, 90),
  (64, 64),
  (59, 120),
  (33, 34),
  (90, 31),
)


@pytest.fixture(scope='module')
def processor(tmp_path_factory):
  return folders.load(tmp_path_factory.mktemp('folder'), 'llava_next')


@pytest.fixture(scope='module')
def theirs(processor):
  """The processor of transformers, of the same files."""
  options = dict(FILES['preprocessor_config.json'])
  del options['image_processor_type']
  return transformers.LlavaNextProcessor(
    transformers.LlavaNextImageProcessorPil(**options),
    processor.tokenizer,
    patch_size=10,
    vision_feature_select_strategy='default',
    image_token='<image>',
    num_additional_image_tokens=1,
  )


@pytest.fixture(scope='module')
def pair(processor):
  vision = families.CASES['llava_next'].torch_config(1).vision_config
  config = reference.config_of(
    'llava_next',
    2,
    vision_config=dict(vision.to_dict(), image_size=30, patch_size=10),
    image_token_index=processor.image_token_id,
    image_grid_pinpoints=FILES['preprocessor_config.json'][
      'image_grid_pinpoints'
    ],
  )
  config.text_config.vocab_size = len(processor.tokenizer)
  return reference.load(reference.build(config, 7))


def _row(i, sizes, question='Who is this person?'):
  pictures = [folders.picture(10 * i + k, *s) for k, s in enumerate(sizes)]
  picture = Picture(f'p{i}', pictures[0]) if pictures else None
  return Row(f'{i}/{question}', question, 'A chef.', '', picture)


def _asked(theirs, row):
  """The inputs of transformers for a question and its answer."""
  content = [{'type': 'image'}] if row.picture else []
  content.append({'type': 'text', 'text': row.question})
  chat = [
    {'role': 'user', 'content': content},
    {'role': 'assistant', 'content': [{'type': 'text', 'text': row.answer}]},
  ]
  text = theirs.tokenizer.apply_chat_template(chat, tokenize=False).rstrip()
  shown = dict(images=[row.picture.image]) if row.picture else {}
  options = dict(images_kwargs={'input_data_format': 'channels_last'})
  return theirs(text=[text], **shown, **options, return_tensors='pt')


@pytest.mark.parametrize('size', SIZES)
def test_ids_and_pixels_are_those_of_the_processor(size, processor, theirs):
  row, encoder = _row(1, [size]), Encoder(processor)
  want = _asked(theirs, row)
  example = encoder.example(row)
  ids = want['input_ids'][0].numpy()
  np.testing.assert_array_equal(example.tokens[: len(ids)], ids)
  assert len(example.tokens) - len(ids) == 1  # an end token is ours
  image = encoder.image(row.picture)
  pixels = want['pixel_values'][0].numpy()
  np.testing.assert_array_equal(image.pixel_values, pixels)
  marked = (example.tokens == processor.image_token_id).sum()
  assert marked == image.num_tokens


def _logits(pair, batch):
  return np.asarray(compare.forward(pair.ours)(pair.ours.params, batch))


def test_logits_are_those_of_transformers_in_plain_and_packed_rows(
  processor, theirs, pair, record_property
):
  """Two questions about each picture, and text, in rows of one document."""
  encoder = Encoder(processor)
  shown = [[size] for size in SIZES[:5]] + [[]]
  asked = ('Who is this person?', 'Where does she live, and what is she?')
  rows = [[_row(i, sizes, q) for q in asked] for i, sizes in enumerate(shown)]
  want = [
    [
      reference.forward(pair.torch, _asked(theirs, row)).logits[0]
      for row in of_picture
    ]
    for of_picture in rows
  ]
  worst = 0.0
  examples = [[encoder.example(row) for row in part] for part in rows]
  # All pictures in one row, and two questions about each of them packed.
  packed = [encoder.document(e) for e in examples[:-1]]
  packed += [encoder.document([e]) for e in examples[-1]]
  room = encoder.room([p for _, pictures in packed for p in pictures])
  length = sum(len(doc['tokens']) for doc, _ in packed) + 3
  batch = encoder.batch([packed], length, encoder.pixel_shape(room + 1))
  got = _logits(pair, batch)[0]
  documents, branches = batch['documents'][0], batch['branches'][0]
  for number, exact in enumerate(want[:-1], start=1):
    for branch, logits in enumerate(exact, start=1):
      seen = (documents == number) & np.isin(branches, [0, branch])
      expected = logits.detach().numpy()
      error = np.abs(got[seen][: len(expected)] - expected).max()
      worst = max(worst, float(error))
  for number, logits in enumerate(want[-1], start=len(want)):
    found = got[documents == number]
    expected = logits.detach().numpy()
    worst = max(worst, float(np.abs(found[: len(expected)] - expected).max()))
  # One question a row, of rows with a picture and without.
  plain = [[encoder.document([e])] for part in examples for e in part]
  room = max(encoder.room([p for _, x in row for p in x]) for row in plain)
  batch = encoder.batch(plain, length, encoder.pixel_shape(room))
  for found, logits in zip(_logits(pair, batch), sum(want, [])):
    expected = logits.detach().numpy()
    worst = max(worst, float(np.abs(found[: len(expected)] - expected).max()))
  record_property('logits', worst)
  assert worst <= compare.LOGITS


def test_the_whole_picture_alone_is_packed_as_transformers_packs_it(pair):
  """Its own packing of a picture with one tile, which no config asks for."""
  config = pair.torch.config
  side = config.vision_config.image_size // config.vision_config.patch_size
  tiling = tiles.Tiling(side, 0, 0)
  rng = np.random.default_rng(3)
  pixels = rng.normal(size=(1, 1, 3, 30, 30)).astype(np.float32)
  features = jax.jit(pair.ours.image_features)
  got = features(pair.ours.params, {'pixel_values': pixels})[0]
  slots = np.where(tiling.slots() < 0, 0, 1 + tiling.slots())
  model = pair.torch.model
  with torch.no_grad():
    states = model.vision_tower(
      torch.tensor(pixels[0]), output_hidden_states=True
    ).hidden_states[config.vision_feature_layer]
    own = model.multi_modal_projector(states[:, 1:])
    want, counts = model.pack_image_features(
      [own[0][None]],
      torch.tensor([[30, 30]]),
      'default',
      image_newline=model.image_newline,
    )
  assert counts.tolist() == [tiling.num_tokens] == [side**2 + 1]
  np.testing.assert_allclose(got[slots], want[0], rtol=0, atol=1e-5)
