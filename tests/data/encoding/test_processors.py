"""A processor is read from the folder of a checkpoint, or says what lacks."""

import json
import os

import folders
import pytest

from mmu_jax.data.encoding import patches
from mmu_jax.data.encoding import processors
from mmu_jax.errors import UserError


def _edit(folder, name, **changes):
  """Sets keys of a JSON file; None takes one out."""
  content = json.loads((folder / name).read_text()) | changes
  content = {key: x for key, x in content.items() if x is not None}
  (folder / name).write_text(json.dumps(content))


@pytest.fixture
def llava(tmp_path):
  return folders.write(tmp_path / 'llava', 'llava')


@pytest.fixture
def qwen(tmp_path):
  return folders.write(tmp_path / 'qwen', 'qwen2_vl')


def test_a_folder_gives_its_tokens_and_sizes(llava, qwen):
  found = processors.read_processor(llava)
  assert (found.image_token, found.image_token_id) == ('<image>', 160)
  assert found.stop_ids == (2,)
  assert found.images.tokens_per_image == 9
  found = processors.read_processor(qwen)
  assert (found.image_token, found.image_token_id) == ('<|image_pad|>', 5)
  assert found.stop_ids == (2, 0)  # both end tokens of generation_config
  assert found.images.grid(40, 52) == patches.Grid(1, 4, 6)


def test_without_generation_config_the_tokenizer_ends_answers(qwen):
  (qwen / 'generation_config.json').unlink()
  found = processors.read_processor(qwen)
  assert found.stop_ids == (found.tokenizer.eos_token_id,) == (2,)


def test_the_repetition_penalty_of_a_folder_is_applied(qwen):
  name = 'generation_config.json'
  assert processors.read_processor(qwen).repetition_penalty == 1
  _edit(qwen, name, repetition_penalty=1.05)
  assert processors.read_processor(qwen).repetition_penalty == 1.05
  for wrong in (0, -1.0, 'high', float('nan')):
    _edit(qwen, name, repetition_penalty=wrong)
    with pytest.raises(ValueError, match=f'{name}.*number >= 0.01.*{wrong!r}'):
      processors.read_processor(qwen)


OTHERS = {
  'no_repeat_ngram_size': 3,
  'bad_words_ids': [[7]],
  'suppress_tokens': [5],
  'num_beams': 4,
  'min_new_tokens': 2,
  'forced_eos_token_id': 2,
}
SILENT = {
  'temperature': 0.01,
  'top_p': 0.001,
  'top_k': 1,
  'do_sample': True,
  'num_beams': 1,
  'no_repeat_ngram_size': 0,
  'min_length': 0,
  'suppress_tokens': None,
  'bad_words_ids': [],
}


@pytest.mark.parametrize('field, value', OTHERS.items())
def test_a_setting_that_is_not_applied_is_named(qwen, capsys, field, value):
  _edit(qwen, 'generation_config.json', **{field: value})
  processors.read_processor(qwen)
  said = capsys.readouterr()
  assert f'{qwen}/generation_config.json has {field}={value!r}' in (
    said.out + said.err
  )


def test_settings_without_effect_on_greedy_decoding_are_no_news(qwen, capsys):
  _edit(qwen, 'generation_config.json', **SILENT)
  processors.read_processor(qwen)
  said = capsys.readouterr()
  assert 'generation_config' not in said.out + said.err


def test_limits_of_pixels_bound_the_tokens(qwen):
  wide = processors.read_processor(qwen, max_pixels=10**4).images
  assert wide.grid(80, 80) == (1, 20, 20)
  narrow = processors.read_processor(qwen, min_pixels=64, max_pixels=64).images
  assert narrow.grid(80, 80) == narrow.grid(8, 8) == (1, 2, 2)


def test_the_full_strategy_keeps_the_class_token(llava):
  _edit(llava, 'config.json', vision_feature_select_strategy='full')
  assert processors.read_processor(llava).images.tokens_per_image == 10


def test_the_image_options_of_processor_config_are_read(llava):
  """Where transformers 5 saves them."""
  options = json.loads((llava / 'preprocessor_config.json').read_text())
  (llava / 'preprocessor_config.json').unlink()
  (llava / 'processor_config.json').write_text(
    json.dumps({'image_processor': options})
  )
  assert processors.read_processor(llava).images.tokens_per_image == 9
  (llava / 'processor_config.json').write_text('{}')
  with pytest.raises(FileNotFoundError, match='says nothing of image proc'):
    processors.read_processor(llava)


def test_a_second_template_is_said(llava, capsys):
  first = json.loads((llava / 'chat_template.json').read_text())
  template = '<image>{{ messages[0].content[1].text }}!'
  (llava / 'chat_template.jinja').write_text(template)
  tokenizer = processors.read_processor(llava).tokenizer
  assert tokenizer.chat_template == first['chat_template']
  said = capsys.readouterr().out
  assert 'one of chat_template.json' in said
  assert said.count('has another') == 1 and 'chat_template.jinja has' in said
  (llava / 'chat_template.json').unlink()
  tokenizer = processors.read_processor(llava).tokenizer
  content = [{'type': 'image'}, {'type': 'text', 'text': 'a'}]
  messages = [{'role': 'user', 'content': content}]
  said = tokenizer.apply_chat_template(messages, tokenize=False)
  assert said == '<image>a!'


@pytest.mark.parametrize(
  'template, words',
  [
    ('{{ messages[0', 'cannot write a question with a picture: '),
    ('{{ messages[0].nobody.text }}', 'cannot write a question'),
    ('{{ raise_exception("no") }}', 'cannot write a question'),
    ('{{ messages[0].content[1].text }}', 'must write .* <image>'),
    ('<image>', "must write the question and .* it writes '<image>'"),
  ],
)
def test_a_template_that_writes_no_question_is_refused(template, words, llava):
  (llava / 'chat_template.json').unlink()
  (llava / 'chat_template.jinja').write_text(template)
  with pytest.raises(ValueError, match=f'chat_template.jinja {words}'):
    processors.read_processor(llava)


@pytest.mark.parametrize(
  'stop', [-1, 10**6, 161 + 10**3, [], [2, -1], '2', [None], True, 2.0, {}]
)
def test_an_end_token_beyond_the_vocabulary_is_refused(stop, llava):
  made = json.dumps({'eos_token_id': stop})
  (llava / 'generation_config.json').write_text(made)
  with pytest.raises(ValueError, match='generation_config.json.*eos_token_id'):
    processors.read_processor(llava)


@pytest.mark.parametrize(
  'changes',
  [
    {'image_std': [0.3, 0, 0.3]},
    {'image_std': [0.3, 0.3]},
    {'image_mean': ['a', 0, 0]},
    {'rescale_factor': 0},
    {'resample': 9},
    {'do_normalize': 'no'},
    {'crop_size': 0},
    {'crop_size': {'height': 30}},
    {'size': {'shortest_edge': 10**6}},
    {'size': {'width': 30}},
  ],
)
def test_image_options_out_of_range_are_refused(changes, llava):
  _edit(llava, 'preprocessor_config.json', **changes)
  with pytest.raises(ValueError, match='preprocessor_config.json'):
    processors.read_processor(llava)


def test_the_fewest_pixels_are_not_above_the_most(qwen):
  with pytest.raises(ValueError, match='got 900 and 576'):
    processors.read_processor(qwen, min_pixels=900)


def test_a_size_that_is_one_number_is_read_as_older_files_mean_it(llava):
  want = processors.read_processor(llava).images.processor.to_dict()
  _edit(llava, 'preprocessor_config.json', size=30, crop_size=30)
  found = processors.read_processor(llava).images.processor.to_dict()
  assert found == want


def test_the_tokenizer_in_use_is_said_once(llava, capsys):
  processors.read_processor(llava)
  processors.read_processor(llava)
  assert capsys.readouterr().out == (
    f'tokenizer: tokenizer.json of {llava} as it is\n'
  )


def test_a_raw_tokenizer_keeps_the_space_behind_an_image(llava):
  """transformers 5 reads LLaVA-1.5's tokenizer without it; 4 did not."""
  _edit(
    llava,
    'tokenizer_config.json',
    tokenizer_class='LlamaTokenizer',
    legacy=False,
  )
  text = 'USER: <image>\nWhat?'
  raw = processors.read_processor(llava).tokenizer.tokenize(text)
  own = processors.read_processor(
    llava, raw_tokenizer=False
  ).tokenizer.tokenize(text)
  place = raw.index('<image>')
  assert raw[place + 1] == '▁' and raw[place + 2] == '\n'
  assert raw[: place + 1] + raw[place + 2 :] == own


@pytest.mark.parametrize('name', ['config.json', 'tokenizer_config.json'])
def test_a_missing_file_is_a_clear_error(name, llava):
  (llava / name).unlink()
  with pytest.raises(FileNotFoundError, match=f'{name}, and {llava} does'):
    processors.read_processor(llava)


def test_a_missing_tokenizer_is_a_clear_error(qwen):
  for name in ('tokenizer.json', 'vocab.json'):
    (qwen / name).unlink()
  with pytest.raises(FileNotFoundError, match='no tokenizer: one of tokeniz'):
    processors.read_processor(qwen)


@pytest.mark.parametrize(
  'changes, message',
  [
    (dict(image_token_index=None), 'must name the image token'),
    (dict(image_token_index=999), 'token 999 of config.json is None'),
    (dict(vision_config={}), 'must give vision_config.patch_size'),
  ],
)
def test_a_config_that_lacks_something_is_a_clear_error(
  changes, message, llava
):
  _edit(llava, 'config.json', **changes)
  with pytest.raises(ValueError, match=message):
    processors.read_processor(llava)


def test_an_unknown_image_processor_is_a_clear_error(llava):
  kind = 'MllamaImageProcessor'
  _edit(llava, 'preprocessor_config.json', image_processor_type=kind)
  message = f'processor {kind!r} is not known; known: CLIPImageProcessor, '
  with pytest.raises(ValueError, match=message):
    processors.read_processor(llava)


@pytest.mark.parametrize('end', ['', 'Fast', 'Pil'])
def test_all_classes_of_an_image_processor_are_one(end, llava):
  kind = f'CLIPImageProcessor{end}'
  _edit(llava, 'preprocessor_config.json', image_processor_type=kind)
  assert processors.read_processor(llava).images.cut == {
    'tokens of an image': 9
  }


@pytest.mark.parametrize('kind', ['CLIPFeatureExtractor', 'CLIPImageProcessor'])
def test_old_folders_name_a_feature_extractor(kind, llava):
  want = processors.read_processor(llava).images.processor.to_dict()
  fields = {'image_processor_type': None, 'feature_extractor_type': kind}
  _edit(llava, 'preprocessor_config.json', **fields)
  assert processors.read_processor(llava).images.processor.to_dict() == want


def test_a_folder_that_states_nothing_gets_the_given_processor(qwen):
  want = processors.read_processor(qwen).images
  _edit(qwen, 'preprocessor_config.json', image_processor_type=None)
  kind = 'Qwen2VLImageProcessor'
  found = processors.read_processor(qwen, image_processor=kind).images
  assert type(found) is type(want) and found.cut == want.cut
  found = processors.read_processor(qwen).images  # by its model_type
  assert type(found) is type(want) and found.cut == want.cut
  _edit(qwen, 'config.json', model_type='mine')
  with pytest.raises(ValueError, match="processor '' is not known"):
    processors.read_processor(qwen)


def test_the_stated_image_processor_comes_before_the_family(qwen):
  assert processors.read_processor(qwen).images.cut['merge_size'] == 2
  _edit(qwen, 'config.json', vision_config={'patch_size': 4})
  _edit(
    qwen,
    'preprocessor_config.json',
    image_processor_type='CLIPImageProcessor',
    feature_extractor_type='Qwen2VLImageProcessor',
  )
  kind = 'Qwen2VLImageProcessor'
  found = processors.read_processor(qwen, image_processor=kind)
  assert 'tokens of an image' in found.images.cut


def test_an_image_token_that_is_cut_up_is_a_clear_error(llava):
  vocabulary = json.loads((llava / 'tokenizer.json').read_text())['model']
  inner = vocabulary['vocab']['ER']  # a piece, which encodes as '▁' and more
  _edit(llava, 'config.json', image_token_index=inner)
  with pytest.raises(ValueError, match="'ER' in the tokenizer of"):
    processors.read_processor(llava)


def test_a_folder_without_a_chat_template_is_a_clear_error(llava):
  (llava / 'chat_template.json').unlink()
  with pytest.raises(ValueError, match='no chat template, so that no question'):
    processors.read_processor(llava)


def test_limits_of_pixels_for_llava_are_a_clear_error(llava):
  with pytest.raises(ValueError, match='max_pixels would change nothing'):
    processors.read_processor(llava, max_pixels=100)


def test_an_unknown_tokenizer_class_is_a_clear_error(llava):
  _edit(llava, 'tokenizer_config.json', tokenizer_class='NoSuchTokenizer')
  with pytest.raises(ValueError, match="names the class 'NoSuchTokenizer'"):
    processors.read_processor(llava, raw_tokenizer=False)


@pytest.mark.parametrize(
  'name', ['pipeline', 'AutoTokenizer', 'AutoModel', 'BertTokenizer', ['a'], 3]
)
def test_only_known_classes_of_tokenizers_are_made(name, llava):
  _edit(llava, 'tokenizer_config.json', tokenizer_class=name)
  with pytest.raises(
    UserError, match='names the class|tokenizer_class is text'
  ):
    processors.read_processor(llava, raw_tokenizer=False)


@pytest.mark.parametrize('raw', [True, False])
def test_code_in_a_folder_is_never_run(raw, llava):
  ran, mine = llava / 'ran', 'mine.Mine'
  (llava / 'mine.py').write_text(f'open({str(ran)!r}, "w")\nclass Mine: pass\n')
  here = {'AutoTokenizer': [mine, mine], 'AutoProcessor': mine}
  for name in ('config', 'tokenizer_config', 'preprocessor_config'):
    _edit(llava, f'{name}.json', auto_map=here, processor_class='Mine')
  _edit(llava, 'tokenizer_config.json', tokenizer_class='LlamaTokenizer')
  processors.read_processor(llava, raw_tokenizer=raw)
  assert not ran.exists()


@pytest.mark.parametrize(
  'name', ['tokenizer.json', 'added_tokens.json', 'config.json']
)
def test_a_pipe_in_a_folder_is_not_opened(name, llava):
  (llava / name).unlink(missing_ok=True)
  os.mkfifo(llava / name)
  with pytest.raises(UserError, match=f'{name} must be a file'):
    processors.read_processor(llava)
