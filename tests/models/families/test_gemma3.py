"""Gemma 3: who sees whom, its config, and the text around its pictures."""

import json

import families
import folders
import hub_folder
import jax
import numpy as np
import pytest
from questions import TASKS
import transformers

from mmu_jax import models
from mmu_jax.data.batches.encoder import Encoder
from mmu_jax.data.encoding import processing
from mmu_jax.data.encoding import processors
from mmu_jax.data.row import Picture
from mmu_jax.data.row import Row
from mmu_jax.evaluation.asking.protocols import official_mllmu_bench
from mmu_jax.models.families import gemma3
from mmu_jax.models.hub import loading

pytestmark = pytest.mark.usefixtures('quick_compile')
CASE, FAMILY = families.CASES['gemma3'], gemma3.FAMILY
KINDS = ['sliding_attention'] * 5 + ['full_attention']


def test_images_see_themselves_and_everything_else_backwards():
  """Two images of four tokens, a text between, two questions behind."""
  config = gemma3.Gemma3Config(mm_tokens_per_image=4)
  slots = np.array([[-1, 0, 1, 2, 3, -1, 4, 5, 6, 7, -1, -1]])
  branches = np.array([[0] * 10 + [1, 2]])
  batch = dict(image_slots=slots, branches=branches, documents=1 + 0 * slots)
  seen = np.asarray(FAMILY.attention_mask(config, batch)[0])
  want = np.tril(np.ones((12, 12), bool))
  want[1:5, 1:5] = want[6:10, 6:10] = True
  want[11, 10] = False
  np.testing.assert_array_equal(seen, want)


def test_an_embedding_is_scaled_and_a_picture_is_not():
  model = models.from_options('gemma3', 48, **CASE.options)
  rng = np.random.default_rng(1)
  shapes = FAMILY.abstract_batch(model.config, 1, 8, 1)
  batch = {k: np.ones(x.shape, x.dtype) for k, x in shapes.items()}
  batch['positions'][:] = np.arange(8)
  batch['branches'][:] = 0
  batch['image_slots'][:] = [-1, 0, 1, 2, 3, -1, -1, -1]
  pixels = rng.normal(size=batch['pixel_values'].shape)
  batch['pixel_values'] = pixels.astype(np.float32)
  params = model.init(jax.random.key(0))
  hidden = jax.jit(lambda p: model.forward(p, batch, layer=0))(params)[0]
  features = jax.jit(model.image_features)(params, batch)[0]
  table = params['language_model']['model']['embed_tokens']['embedding']
  np.testing.assert_allclose(hidden[0], table[1] * 32**0.5, rtol=1e-6)
  np.testing.assert_allclose(hidden[1:5], features, rtol=1e-4, atol=1e-6)
  assert np.abs(features).max() > 0


def _read(**text):
  raw = hub_folder.config('gemma3', text_config=text)
  return FAMILY.read_config(raw, {}).text_config


def test_a_file_may_leave_out_most_of_the_sizes():
  text = {'model_type': 'gemma3_text', 'num_hidden_layers': 34}
  text |= {'hidden_size': 2560, 'intermediate_size': 10240}
  text |= {'rope_scaling': {'factor': 8.0, 'rope_type': 'linear'}}
  raw = {'text_config': text | {'sliding_window': 1024}}
  raw['vision_config'] = {'image_size': 896, 'patch_size': 14}
  made = FAMILY.read_config(raw, {}).text_config
  assert made == gemma3.GEMMA_4B


def test_layers_are_those_of_any_writer():
  text = dict(num_hidden_layers=7, layer_types=[*KINDS, 'sliding_attention'])
  old = _read(num_hidden_layers=7, sliding_window_pattern=6)
  new = _read(sliding_window_pattern=None, **text)
  assert old == new and old.full_layers.tolist() == [False] * 5 + [True, False]
  rope = {
    'full_attention': {'rope_type': 'linear', 'factor': 4.0, 'rope_theta': 5e5},
    'sliding_attention': {'rope_type': 'default', 'rope_theta': 2e3},
  }
  got = _read(rope_scaling=None, rope_parameters=rope)
  assert (got.rope_theta, got.rope_factor) == (5e5, 4)
  assert got.rope_local_base_freq == 2e3
  assert _read(rope_local_base_freq=2e3).rope_local_base_freq == 2e3


@pytest.mark.parametrize(
  'text, words',
  [
    (dict(layer_types=KINDS[3:][::-1]), 'one full_attention every 1 layers'),
    (dict(final_logit_softcapping=30.0), 'softcapping must be None, got 30'),
    (dict(hidden_activation='silu'), "must be 'gelu_pytorch_tanh', got 'silu'"),
    (dict(use_bidirectional_attention=True), 'attention must be False'),
    (dict(rope_scaling={'rope_type': 'yarn'}), "type 'yarn' is not supported"),
  ],
)
def test_other_computations_are_refused(text, words):
  with pytest.raises(ValueError, match=words):
    _read(**text)


def test_tokens_of_an_image_are_squares_of_patches():
  with pytest.raises(
    ValueError, match='divides the 64 patches of a row; got 9'
  ):
    gemma3.Gemma3Config(mm_tokens_per_image=9)
  with pytest.raises(ValueError, match='got 200'):
    gemma3.Gemma3Config(mm_tokens_per_image=200)


# As the template on the hub writes a message and a picture.
TEMPLATE = (
  '{{ bos_token }}{% for m in messages %}'
  "{{ '<start_of_turn>' + m.role.replace('assistant', 'model') + '\n' }}"
  "{% for part in m.content %}{{ '<start_of_image>' if part.type == 'image' "
  "else part.text | trim }}{% endfor %}{{ '<end_of_turn>\n' }}{% endfor %}"
  "{{ '<start_of_turn>model\n' if add_generation_prompt }}"
)
TOKENS = ('<start_of_image>', '<end_of_image>', '<image_soft_token>')


def _folder(tmp_path, **changes):
  """A folder like Gemma's, with the tokenizer of the tests' LLaVA."""
  folder = folders.write(tmp_path / 'gemma', 'llava')
  tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
  tokenizer.add_special_tokens({'additional_special_tokens': [*TOKENS]})
  tokenizer.chat_template = TEMPLATE
  (folder / 'chat_template.json').unlink()
  tokenizer.save_pretrained(folder)
  ids = tokenizer.convert_tokens_to_ids([*TOKENS])
  names = ('boi_token_index', 'eoi_token_index', 'image_token_index')
  config = {'model_type': 'gemma3', 'mm_tokens_per_image': 4}
  config |= dict(zip(names, ids))
  (folder / 'config.json').write_text(json.dumps(config))
  images = {
    'image_processor_type': 'Gemma3ImageProcessor',
    'size': {'height': 24, 'width': 24},
    'do_pan_and_scan': None,
    **changes,
  }
  (folder / 'preprocessor_config.json').write_text(json.dumps(images))
  return folder


def test_text_around_a_picture_is_put_in_before_tokens_are_made(tmp_path):
  processor = processors.read_processor(_folder(tmp_path))
  assert processor.image_token == '<image_soft_token>'
  assert processor.images.cut == {'tokens of an image': 4}
  picture = Picture('p', folders.picture(1, 30, 50))
  row = Row('k', 'Who is this?', 'Ada', '', picture)
  example = processing.encode(row, processor)
  tokenizer = processor.tokenizer
  # No second token begins the sequence: the template wrote it.
  begin = '<start_of_turn>user\n\n\n<start_of_image>'
  end = '<end_of_image>\n\nWho is this?<end_of_turn>\n<start_of_turn>model\n'
  want = tokenizer(begin + 4 * '<image_soft_token>' + end)['input_ids']
  assert example.tokens[: example.prompt_length].tolist() == want
  assert want.count(tokenizer.bos_token_id) == 1
  encoded = processor.images.encode(picture.image)
  assert encoded.pixel_values.shape == (3, 24, 24) and encoded.num_tokens == 4
  assert encoded.pixel_values.min() >= -1 and encoded.pixel_values.max() <= 1


@pytest.mark.parametrize(
  'changes, words',
  [
    (dict(do_pan_and_scan=True), 'do_pan_and_scan.* are not supported'),
    (dict(size={'height': 24, 'width': 26}), 'size is a square'),
    (dict(size={'height': 25, 'width': 25}), 'cut into 4 squares'),
  ],
)
def test_other_image_processing_is_refused(changes, words, tmp_path):
  with pytest.raises(ValueError, match=words):
    processors.read_processor(_folder(tmp_path, **changes))


def test_the_published_evaluation_has_no_prompts_for_it(tmp_path):
  encoder = Encoder(processors.read_processor(_folder(tmp_path)))
  protocol = official_mllmu_bench.PROTOCOL
  (question, *_) = protocol.questions(TASKS['forget_vqa'], TASKS, 0, 0)
  with pytest.raises(ValueError, match="Gemma 3. Use protocol='fixed'"):
    protocol.ask(question, encoder)


def test_the_processor_must_cut_as_the_model_does(tmp_path):
  processor = processors.read_processor(_folder(tmp_path))
  model = models.from_options('gemma3', 200, **CASE.options)
  loading.check_processor(model, processor)
  options = dict(CASE.options, mm_tokens_per_image=16)
  with pytest.raises(ValueError, match='the processor has .* 4}, the model'):
    loading.check_processor(
      models.from_options('gemma3', 200, **options), processor
    )
