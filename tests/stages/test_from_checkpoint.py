"""The whole job on a checkpoint in the Hugging Face format, and back to one."""

import json

import numpy as np
import PIL.Image
import pytest
from safetensors.numpy import load_file
from safetensors.numpy import save_file

from mmu_jax import __main__ as command_line
from mmu_jax import checkpoint
from mmu_jax import models
from mmu_jax import recipes
from mmu_jax import stages
from mmu_jax import workdir
from mmu_jax.data.people import vocabulary
from mmu_jax.models.hub import config as hub_config
from mmu_jax.models.hub import weights
from mmu_jax.stages import job as stages_job

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures('quick_compile')]

TEXT = dict(
  hidden_size=16,
  intermediate_size=16,
  num_hidden_layers=2,
  num_attention_heads=2,
  num_key_value_heads=1,
)
LLAVA = dict(
  model_type='llava',
  vision_config=dict(
    model_type='clip_vision_model',
    hidden_size=16,
    intermediate_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    image_size=48,
    patch_size=12,
  ),
  text_config=dict(TEXT, model_type='llama'),
)
TILES = [[48, 96], [96, 48], [96, 96]]
LLAVA_NEXT = dict(
  LLAVA,
  model_type='llava_next',
  image_grid_pinpoints=TILES,
  text_config=dict(TEXT, model_type='mistral', sliding_window=None),
)
LLAVA_NEXT_IMAGES = dict(
  image_processor_type='LlavaNextImageProcessor',
  size={'shortest_edge': 48},
  crop_size={'height': 48, 'width': 48},
  image_grid_pinpoints=TILES,
)
QWEN2_VL = dict(
  TEXT,
  model_type='qwen2_vl',
  rms_norm_eps=1e-6,
  rope_scaling=dict(type='mrope', mrope_section=[1, 1, 2]),
  vision_config=dict(
    depth=2,
    embed_dim=16,
    hidden_size=16,
    num_heads=2,
    mlp_ratio=2,
    patch_size=8,
  ),
)
QWEN2_VL_IMAGES = dict(
  image_processor_type='Qwen2VLImageProcessor',
  patch_size=8,
  merge_size=2,
  temporal_patch_size=2,
  min_pixels=1024,
  max_pixels=4096,
)
# family -> config.json, its field of the image token, preprocessor_config.json
# (None for the one of the people).
FOLDERS = {
  'llava': (LLAVA, 'image_token_index', None),
  'llava_next': (LLAVA_NEXT, 'image_token_index', LLAVA_NEXT_IMAGES),
  'qwen2_vl': (QWEN2_VL, 'image_token_id', QWEN2_VL_IMAGES),
}
FLAGS = (
  '--config.mesh=',  # whole jobs on meshes are in tests/scale
  '--config.data.num_people=8',
  '--config.data.num_forget=2',
  '--config.data.num_validation_forget=1',
  '--config.data.num_validation_retain=1',
  '--config.data.train_views=2',
  '--config.data.num_captioned=8',
  '--config.data.num_faces=8',
  '--config.data.num_shapes=8',
  '--config.vanilla.rounds=3',
  '--config.saliency.batches=2',
  '--config.unlearn.rounds=2',
  '--config.evaluation.max_new_tokens=4',
  '--config.evaluation.batch_size=16',
)


def _write_checkpoint(folder, family):
  """Random weights, with the tokenizer and template of the people."""
  folder.mkdir()
  processor = vocabulary.make_processor()
  tokenizer = processor.tokenizer
  tokenizer.save_pretrained(folder)
  sizes, field, images = FOLDERS[family]
  config = dict(sizes, **{field: processor.image_token_id})
  processor.images.processor.save_pretrained(folder)
  if images is not None:
    (folder / 'preprocessor_config.json').write_text(json.dumps(images))
  config.get('text_config', config)['vocab_size'] = len(tokenizer)
  (folder / 'config.json').write_text(json.dumps(config))
  rng = np.random.default_rng(0)
  model = models.build(hub_config.read_config(folder))
  tensors = {
    name: (rng.normal(size=place.shape) * 0.1 + ('norm' in name)).astype(
      np.float16
    )
    for name, place in weights.table(model).places.items()
  }
  save_file(tensors, folder / 'model.safetensors', metadata={'format': 'pt'})


@pytest.mark.parametrize('family', FOLDERS)
def test_a_checkpoint_is_unlearned_and_written_back(family, tmp_path, capsys):
  folder, work = tmp_path / 'hub', tmp_path / 'work'
  _write_checkpoint(folder, family)
  job = (
    '--config=people:fast',
    f'--workdir={work}',
    f'--config.model.path={folder}',
    *FLAGS,
  )
  for command in (
    ('train', '--run=vanilla'),
    ('train', '--run=mmunlearner'),
    ('evaluate', '--run=mmunlearner'),
  ):
    assert command_line.main([*command, *job]) == 0
  assert not (work / 'base').exists()  # it is the checkpoint
  density = checkpoint.read_note(work / 'mask' / 'saliency')['density']
  assert all(0 < density[c] < 1 for c in ('vision', 'projector', 'language'))
  params, out = work / 'unlearned' / 'mmunlearner' / 'params', tmp_path / 'out'
  convert = ['convert', f'--from={params}', f'--to={out}']
  assert command_line.main([*convert, f'--like={folder}']) == 0
  before = load_file(folder / 'model.safetensors')
  after = load_file(out / 'model.safetensors')
  assert {n: (x.shape, x.dtype) for n, x in before.items()} == {
    n: (x.shape, x.dtype) for n, x in after.items()
  }
  moved = [n for n in before if np.any(before[n] != after[n])]
  assert len(moved) > 0.5 * len(before)
  loaded = models.load(out)
  assert loaded.processor.tokenizer.chat_template is not None
  capsys.readouterr()
  assert command_line.main(['inspect', str(params)]) == 0
  assert family in capsys.readouterr().out
  _check_asked(work, out, tmp_path, capsys)


def _check_asked(work, out, tmp_path, capsys):
  """`mmu ask` gives the recorded answer, wherever the model is taken from."""
  job = stages.open_job(stages_job.stored_config(work), work)
  answers = work / 'predictions' / 'mmunlearner' / 'retain_vqa.jsonl'
  records = {
    r['key']: r['text'] for r in workdir.read_jsonl(answers) if 'text' in r
  }
  rows = job.data.tasks['retain_vqa'].rows
  row = next(row for row in rows if row.key in records)
  PIL.Image.fromarray(np.asarray(row.picture.image)).save(tmp_path / 'a.png')
  asked = [f'--image={tmp_path / "a.png"}', '--max_new_tokens=4', row.question]
  said = []
  for model in (
    [f'--workdir={work}', '--run=mmunlearner'],
    [f'--params={work / "unlearned" / "mmunlearner"}'],
  ):
    capsys.readouterr()
    assert command_line.main(['ask', *model, *asked]) == 0
    lines = capsys.readouterr().out.splitlines()
    said.append(lines[lines.index('probability  answer, then alternatives') :])
    assert said[0][1].endswith(f'  {lines[lines.index("") - 1]}')
  assert said[0] == said[1] and len(said[0]) == 6
  shown = [(float(x[:11]), x[13:].removesuffix(' ...')) for x in said[0][1:]]
  assert shown[0][1] == records[row.key]
  assert [p for p, _ in shown[1:]] == sorted((p for p, _ in shown[1:]))[::-1]
  # Of a checkpoint that was converted, its source has tokenizer and names.
  orbax = tmp_path / 'orbax'
  assert command_line.main(['convert', f'--from={out}', f'--to={orbax}']) == 0
  made, want = stages.load_model(orbax), models.load(out, dtype=None)
  assert made.processor.stop_ids == want.processor.stop_ids
  assert checkpoint.digest(made.params) == checkpoint.digest(want.params)


@pytest.mark.parametrize(
  'family, field, value, message',
  [
    ('llava', 'crop_size', {'height': 36, 'width': 36}, "image': 9}"),
    ('llava_next', 'image_grid_pinpoints', TILES[:2], 'the model .*96, 96'),
    ('qwen2_vl', 'merge_size', 4, "'merge_size': 4}"),
    ('qwen2_vl', 'patch_size', 4, "{'patch_size': 4"),
  ],
)
def test_a_processor_that_cuts_images_otherwise_is_refused(
  family, field, value, message, tmp_path
):
  folder = tmp_path / 'hub'
  _write_checkpoint(folder, family)
  file = folder / 'preprocessor_config.json'
  file.write_text(json.dumps(json.loads(file.read_text()) | {field: value}))
  with pytest.raises(ValueError, match=message):
    models.load(folder)
  job = ('--config=people:fast', f'--workdir={tmp_path / "work"}')
  assert (
    command_line.main(
      ['train', '--run=vanilla', *job, f'--config.model.path={folder}', *FLAGS]
    )
    == 1
  )


@pytest.mark.parametrize('family', FOLDERS)
def test_a_folder_need_not_state_its_image_processor(family, tmp_path):
  folder = tmp_path / 'hub'
  _write_checkpoint(folder, family)
  file = folder / 'preprocessor_config.json'
  options = json.loads(file.read_text())
  want = models.load(folder).processor.images.cut
  del options['image_processor_type']
  file.write_text(json.dumps(options))
  assert models.load(folder).processor.images.cut == want
  config = recipes.load('people:fast')
  config.model.path = str(folder)
  job = stages.open_job(config, tmp_path / 'work')
  assert job.encoder.processor.images.cut == want


@pytest.mark.parametrize(
  'family, most, grid',
  [
    ('qwen2_vl', 1024, (1, 4, 4)),  # 32 x 32 pixels
    ('llava_next', 4608, (4, 1, 2, 0, 2)),  # two tiles, padded beside it
    ('llava_next', 4607, (4, 0, 0, 0, 0)),  # the whole picture alone
  ],
)
def test_a_config_bounds_the_pictures_of_a_checkpoint(
  family, most, grid, tmp_path
):
  _write_checkpoint(tmp_path / 'hub', family)
  config = recipes.load('people:fast')
  config.model.path = str(tmp_path / 'hub')
  config.model.processor.max_pixels = most
  job = stages.open_job(config, tmp_path / 'work')
  assert job.encoder.processor.images.grid(480, 480) == grid
