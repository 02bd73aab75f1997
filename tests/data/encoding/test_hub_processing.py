"""The processors of the real checkpoints, against recorded outputs.

Reads the files of the hub where they lie beside the checkout, in
``../shared/reference``; they are not part of the project.
"""

import json
import pathlib

import folders
import numpy as np
import paths
import PIL.Image
import pytest

from mmu_jax.data.encoding import processing
from mmu_jax.data.encoding import processors as processors_lib
from mmu_jax.data.row import Picture
from mmu_jax.data.row import Row

REFERENCE = paths.REFERENCE
HUB = {'llava': 'llava_1_5_7b', 'qwen2_vl': 'qwen2_vl_7b'}
FAMILIES = pytest.mark.parametrize('family', HUB)
SPACE = 29871  # Llama's lone space
pytestmark = pytest.mark.skipif(
  not (REFERENCE / 'hub').is_dir(),
  reason=f'the files of the checkpoints are not at {REFERENCE}/hub',
)


@pytest.fixture(scope='module')
def processors():
  return {
    family: processors_lib.read_processor(REFERENCE / 'hub' / name)
    for family, name in HUB.items()
  }


def _recorded():
  """(family, run, image file, outputs) of the processors of Hugging Face."""
  path = REFERENCE / 'tokenizer_goldens' / 'hf_processor_goldens.json'
  names = {name: family for family, name in folders.FAMILIES.items()}
  for run, families in json.loads(path.read_text())['runs'].items():
    for name, images in families.items():
      for file, out in images.items():
        yield names[name], run, file, out


def _photo(file, out):
  """An image that was recorded; grey where the file is not there."""
  path = REFERENCE / 'images' / file
  if not path.exists():
    width, height = out['size_wh']
    return np.full((height, width, 3), 128, np.uint8)
  return np.asarray(PIL.Image.open(path).convert('RGB'))


def test_ids_are_those_of_the_processors_of_hugging_face(processors):
  """Every id of three versions, but for the white space at the very end."""
  seen = set()
  for family, run, file, out in _recorded():
    processor = processors[family]
    row = Row(
      key='k',
      question='What is the name of this person?',
      answer="This person's name is Amelia Kuznetsov.",
      fact='',
      picture=Picture('k', _photo(file, out)),
    )
    example = processing.encode(row, processor, labels='published')
    ids = np.repeat(*np.transpose(out['input_ids_rle']))
    n = len(example.tokens)
    np.testing.assert_array_equal(ids[:n], example.tokens)
    assert not processor.tokenizer.decode(ids[n:]).strip()
    assert len(ids) - n == 1  # '▁' or '\n'
    prompt = processor.tokenizer(out['gen_prompt'])['input_ids']
    single = example.tokens[: example.prompt_length]
    image = single == processor.image_token_id
    assert single[~image].tolist() == [
      i for i in prompt if i != processor.image_token_id
    ]
    grid = processor.images.grid(*row.picture.image.shape[:2])
    if out['image_grid_thw']:
      assert [list(grid)] == out['image_grid_thw']
    seen.add((family, run.split('_')[0]))
  assert len(seen) == 6


def test_pixels_are_those_of_the_processors_of_hugging_face(processors):
  """At every 4999th value to the six digits recorded, and in their mean.

  The mean of PIL processors is equal; torchvision rounds a few pixels another
  way, which the mean shows.
  """
  compared = 0
  for family, run, file, out in _recorded():
    if not (REFERENCE / 'images' / file).exists():
      continue
    found = processors[family].images.encode(_photo(file, out)).pixel_values
    np.testing.assert_allclose(
      found.ravel()[::4999], out['every_4999th'], atol=1e-6
    )
    pil = 'torchvision' not in run and 'Fast' not in out['image_processor']
    assert abs(found.mean() - out['mean']) <= (0 if pil else 2e-5)
    compared += 1
  assert compared == 14  # two images, of the three there were


@FAMILIES
def test_the_tokenizer_gives_the_ids_of_llama_cpp(family, processors):
  name = {'llava': 'llama-spm', 'qwen2_vl': 'qwen2'}[family]
  path = REFERENCE / 'tokenizer_goldens' / f'ggml-vocab-{name}.gguf'
  texts = pathlib.Path(f'{path}.inp').read_text(encoding='utf-8')
  texts = texts.split('\n__ggml_vocab_test__\n')
  lines = pathlib.Path(f'{path}.out').read_text().splitlines()
  tokenizer = processors[family].tokenizer
  assert len(lines) == 46 and texts.pop() == ''  # behind the last separator
  for text, line in zip(texts, lines, strict=True):
    ids = tokenizer(text, add_special_tokens=False)['input_ids']
    assert ids == [int(i) for i in line.split()], repr(text)


@FAMILIES
def test_the_templates_of_the_goldens_render_as_those_of_the_hub(
  family, processors
):
  image, text = {'type': 'image'}, lambda x: {'type': 'text', 'text': x}
  chats = [
    [{'role': 'user', 'content': [text('Who?')]}],
    [{'role': 'user', 'content': [image, text('Who?')]}],
    [{'role': 'user', 'content': [image, image, text('Who? ')]}],
  ]
  answer = {'role': 'assistant', 'content': [text('Omar.')]}
  render = processors[family].tokenizer.apply_chat_template
  for chat in chats:
    for messages in (chat, [*chat, answer], [*chat, answer, *chat]):
      for ask in (False, True):
        own, hub = (
          render(
            messages, tokenize=False, add_generation_prompt=ask, **template
          )
          for template in ({'chat_template': folders.TEMPLATES[family]}, {})
        )
        assert own == hub


def test_the_folders_give_their_sizes_and_end_tokens(processors):
  llava, qwen = processors['llava'], processors['qwen2_vl']
  assert (llava.image_token_id, llava.stop_ids) == (32000, (2,))
  assert llava.images.tokens_per_image == 576
  assert (qwen.image_token_id, qwen.stop_ids) == (151655, (151645, 151643))
  assert qwen.images.grid(512, 512) == (1, 36, 36)
  assert qwen.images.pixel_shape(1296) == (1536, 1176)


def test_the_own_class_loses_the_space_behind_the_image(processors):
  """The trap: LlamaTokenizer of transformers 5 for LLaVA-1.5."""
  text = 'USER: <image>\nWho is it? ASSISTANT: A chef.'
  raw = processors['llava'].tokenizer(text)['input_ids']
  own = processors_lib.read_processor(
    REFERENCE / 'hub' / HUB['llava'], raw_tokenizer=False
  ).tokenizer(text)['input_ids']
  place = raw.index(32000) + 1
  assert raw[place] == SPACE and raw[:place] + raw[place + 1 :] == own


def _profile_rows():
  """Every training question of MLLMU-Bench; two in three with a picture."""
  path = REFERENCE / 'mllmu_bench' / 'full_train_text_500_profiles.json'
  asked = [
    (item['Question'], item['Answer'])
    for profile in json.loads(path.read_text())
    for item in profile['metadata']
  ]
  pixels = np.zeros((300, 451, 3), np.uint8)
  return [
    Row(str(i), q, a, '', Picture(str(i), pixels) if i % 3 else None)
    for i, (q, a) in enumerate(asked)
  ]


@FAMILIES
def test_labels_of_real_rows_are_their_answers(family, processors):
  """All 7,704: the answer and an end token, no prompt, no image token."""
  processor, rows = processors[family], _profile_rows()
  tokens = {'llava': 576, 'qwen2_vl': 176}[family]
  end = processor.tokenizer.eos_token_id
  labelled, prompts = [], []
  for row in rows:
    example = processing.encode(row, processor)
    labelled.append(example.tokens[example.labelled])
    prompts.append(example.tokens[: example.prompt_length])
    assert labelled[-1][-1] == end
    assert not example.labelled[: example.prompt_length].any()
    assert example.labelled[example.prompt_length :].all()
    image = example.tokens == processor.image_token_id
    assert image.sum() == (0 if row.picture is None else tokens)
    assert not example.labelled[image].any()
  decode = processor.tokenizer.batch_decode
  answers = decode([ids[:-1] for ids in labelled])
  texts = decode([ids[ids != processor.image_token_id] for ids in prompts])
  for row, answer, text in zip(rows, answers, texts, strict=True):
    assert answer.strip() == row.answer.strip()
    assert row.question.strip() in text and row.answer not in text
  assert len(rows) == 7704


def test_an_answer_that_runs_into_the_prompt_is_a_clear_error(processors):
  """Qwen's prompt ends with a new line; two of them are one token."""
  row = Row('k', 'Where was she born?', '\n\nOslo', 'Oslo')
  with pytest.raises(ValueError, match='one token with the end of the prompt'):
    processing.encode(row, processors['qwen2_vl'])
  stripped = row._replace(answer='Oslo')
  assert processing.encode(stripped, processors['qwen2_vl']).labelled.sum() > 1
