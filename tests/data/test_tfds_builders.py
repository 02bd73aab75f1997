"""What TFDS builders write is read again: the same rows, without TensorFlow."""

import hashlib
import io
import json
import pathlib
import shutil
import sys

import benchmark_folders
import numpy as np
import PIL.Image
import pytest
import tensorflow_datasets as tfds

from mmu_jax import recipes
from mmu_jax.data import datasets
from mmu_jax.data import tfds_builders
from mmu_jax.data.batches import batching
from mmu_jax.data.dataset import Dataset
from mmu_jax.data.encoding.images import LazyImage
from mmu_jax.data.readers import prepared
from mmu_jax.data.row import Picture
from mmu_jax.data.row import Row
from mmu_jax.errors import UserError

SMALL = dict(
  num_people=6,
  num_forget=1,
  num_validation_forget=1,
  num_validation_retain=1,
  train_views=2,
  holdout_views=1,
  validation_views=1,
  num_captioned=3,
  num_faces=8,
  num_shapes=8,
)
FOLDERS = {
  'mllmu_bench': benchmark_folders.mllmu_bench,
  'clear': benchmark_folders.clear,
}
VARIANTS = {'mllmu_bench': 'forget_5', 'clear': 'forget05'}


def _people(data_dir, *, name='small', **options):
  """The builder of a few people."""
  variant = tfds_builders.Variant(name=name, options=SMALL | options)
  return tfds.builder('mmu_people', config=variant, data_dir=data_dir)


def _benchmark(name, tmp_path, folder=None):
  """The builder of a benchmark's folder, and how to prepare it."""
  builder = tfds.builder(
    f'mmu_{name}/{VARIANTS[name]}', data_dir=tmp_path / 'tfds'
  )
  folder = folder or FOLDERS[name](tmp_path / name)
  return builder, tfds.download.DownloadConfig(manual_dir=folder)


def _assert_same(found: Row, wanted: Row):
  """All fields are equal, and of the picture every pixel."""
  assert found._replace(picture=None) == wanted._replace(picture=None)
  assert (found.picture is None) == (wanted.picture is None)
  assert found.picture_key == wanted.picture_key
  if wanted.picture is not None:
    assert found.picture.image.shape == wanted.picture.image.shape
    np.testing.assert_array_equal(
      np.asarray(found.picture.image), np.asarray(wanted.picture.image)
    )


def _assert_same_data(found: Dataset, wanted: Dataset):
  """Splits, tasks, their order, and every row."""
  assert dict(found.names) == dict(wanted.names)
  assert tuple(found.notes) == tuple(wanted.notes)
  without_rows = lambda d: [t._replace(rows=()) for t in d.tasks.values()]
  assert without_rows(found) == without_rows(wanted)
  assert found[-3:] == wanted[-3:]  # layout, protocol, official
  scored = lambda d: {name: task.rows for name, task in d.tasks.items()}
  for rows, expected in (
    (found.train, wanted.train),
    (scored(found), scored(wanted)),
  ):
    assert list(rows) == list(expected)
    for split in expected:
      assert len(rows[split]) == len(expected[split])
      for one, other in zip(rows[split], expected[split]):
        _assert_same(one, other)


@pytest.fixture(scope='module')
def people(tmp_path_factory):
  builder = _people(tmp_path_factory.mktemp('tfds'))
  builder.download_and_prepare(file_format='array_record')
  return builder


def test_people_come_back_equal_and_in_order(people):
  found = prepared.make_tfds(0, path=people.data_path)
  wanted = datasets.load('people', 0, **SMALL)
  assert sum(map(len, wanted.train.values())) > 200
  _assert_same_data(found, wanted)


def test_a_prepared_folder_of_an_earlier_version_is_refused(people, tmp_path):
  old = tmp_path / '1.0.0'
  shutil.copytree(people.data_path, old)
  path = old / 'metadata.json'
  noted = json.loads(path.read_text())
  del noted['tasks']
  path.write_text(json.dumps(noted))
  with pytest.raises(ValueError, match='Prepare the dataset again'):
    prepared.make_tfds(0, path=old)


@pytest.mark.parametrize('variant', ['', 'fast'])
def test_the_config_of_prepared_folders_fits_them(people, variant):
  config = recipes.load(f'tfds:{variant}')
  options = config.data.to_dict() | dict(path=people.data_path)
  data = datasets.load(options.pop('name'), 0, **options)
  assert data.processor is not None
  for kind in ('vqa', 'qa'):
    assert all(data.train[f'{kind}/{g}'] for g in config.groups.everybody)
  with pytest.raises(ValueError, match='is one of full, fast; got'):
    recipes.load('tfds:paper_exact')


def test_people_read_from_files_give_the_same_batches(people):
  """The tokenizer, the draws and the pixels are those of the people."""
  found = prepared.make_tfds(0, path=people.data_path)
  wanted = datasets.load('people', 0, **SMALL)
  batches = []
  for data in (found, wanted):
    part = batching.Part(data.train['vqa/forget'], 2, 3)
    encoder = batching.Encoder(data.processor)
    batches.append(batching.Stream([part], encoder, seed=1)(4))
  for name in batches[0]:
    np.testing.assert_array_equal(batches[0][name], batches[1][name])


def test_a_data_source_has_text_lists_and_pixels(people):
  source = people.as_data_source('vqa_forget')
  wanted = datasets.load('people', 0, **SMALL).train['vqa/forget']
  assert len(source) == len(wanted) == 26
  for i in (25, 0):  # any place at once
    example, row = source[i], wanted[i]
    assert example['question'].decode() == row.question
    assert [x.decode() for x in example['options']] == list(row.options)
    (image,) = example['images']
    np.testing.assert_array_equal(image, row.picture.image)
  text = people.as_data_source('qa_forget')[0]
  assert text['images'] == [] and not text['image_key']


def test_no_tensorflow_is_imported(people):
  people.as_data_source('captions')[0]
  assert 'tensorflow' not in sys.modules


def test_rows_about_one_picture_share_it(people):
  rows = prepared.make_tfds(0, path=people.data_path).train['vqa/forget']
  shared = {row.picture.key: row.picture for row in rows}
  assert len(shared) == 2  # two views, thirteen rows each
  assert all(row.picture is shared[row.picture.key] for row in rows)


def test_preparing_twice_gives_the_same_bytes(people, tmp_path):
  again = _people(tmp_path)
  again.download_and_prepare()  # array_record is the default
  digests = [
    {
      path.name: hashlib.sha256(path.read_bytes()).hexdigest()
      for path in builder.data_path.glob('*.array_record*')
    }
    for builder in (people, again)
  ]
  assert digests[0] == digests[1] and len(digests[0]) > 20


def test_a_prepared_folder_is_found_and_not_written_again(people):
  files = sorted(pathlib.Path(people.data_path).iterdir())
  before = [path.stat().st_mtime_ns for path in files]
  _people(people.data_dir_root).download_and_prepare()
  assert before == [path.stat().st_mtime_ns for path in files]


def test_a_folder_of_other_options_is_a_clear_error(people):
  other = _people(people.data_dir_root, seed=1)
  with pytest.raises(ValueError, match="'seed': 0.*now.*'seed': 1.*another"):
    other.download_and_prepare()


def test_a_folder_is_written_again_on_demand(tmp_path):
  _people(tmp_path).download_and_prepare()
  other = _people(tmp_path, seed=1)
  mode = tfds.download.GenerateMode.REUSE_CACHE_IF_EXISTS
  config = tfds.download.DownloadConfig(download_mode=mode)
  other.download_and_prepare(download_config=config)
  wanted = datasets.load('people', 1, **SMALL)
  found = prepared.make_tfds(0, path=other.data_path)
  assert found.names == wanted.names


def test_a_preparation_that_fails_can_be_begun_again(tmp_path, monkeypatch):
  write = prepared.to_examples

  def fail(rows):
    yield next(write(rows))
    raise OSError('no space left')

  monkeypatch.setattr(prepared, 'to_examples', fail)
  with pytest.raises(OSError, match='no space left'):
    _people(tmp_path).download_and_prepare()
  monkeypatch.undo()
  builder = _people(tmp_path)
  assert not builder.is_prepared()
  builder.download_and_prepare()
  assert len(builder.as_data_source('vqa_forget')) == 26


@pytest.mark.parametrize('name', FOLDERS)
def test_a_benchmark_comes_back_equal_and_in_order(name, tmp_path):
  builder, config = _benchmark(name, tmp_path)
  builder.download_and_prepare(
    download_config=config, file_format='array_record'
  )
  wanted = datasets.load(name, 0, path=config.manual_dir, ratio=5)
  _assert_same_data(prepared.make_tfds(0, path=builder.data_path), wanted)
  example = builder.as_data_source('vqa_forget')[0]
  row = wanted.train['vqa/forget'][0]
  assert example['person'].decode() == row.person
  np.testing.assert_array_equal(
    example['images'][0], np.asarray(row.picture.image)
  )


@pytest.mark.parametrize('name', FOLDERS)
def test_a_folder_without_parquet_files_is_a_clear_error(name, tmp_path):
  folder = tmp_path / 'empty'
  folder.mkdir()
  (folder / 'README.md').write_text('to be downloaded')
  builder, config = _benchmark(name, tmp_path, folder)
  with pytest.raises(FileNotFoundError, match='has no config.*Download'):
    builder.download_and_prepare(download_config=config)
  assert not builder.is_prepared()


@pytest.mark.parametrize('name', FOLDERS)
def test_without_a_manual_dir_the_error_says_what_to_get(name, tmp_path):
  builder, _ = _benchmark(name, tmp_path, tmp_path)
  with pytest.raises(AssertionError, match='from the hub.*manual_dir'):
    builder.download_and_prepare()


def test_a_dataset_of_tfds_needs_a_prepared_folder(people, tmp_path):
  with pytest.raises(FileNotFoundError, match='no dataset_info.*none'):
    prepared.make_tfds(0, path=tmp_path)
  above = people.data_path.parent
  with pytest.raises(FileNotFoundError, match=f'Below it: {people.data_path}'):
    prepared.make_tfds(0, path=above)


def test_every_field_of_a_row_survives():
  """A field that rows gain is stored too, with None and all letters."""
  full = Row(**{name: f'{name} ä漢' for name in prepared.TEXTS})._replace(
    **dict.fromkeys(prepared.LISTS, ('ä', '', 'b'))
  )
  assert {*prepared.TEXTS, *prepared.LISTS, 'picture'} == set(Row._fields)
  form = prepared.features(decode=False)
  plain = Row('k', 'q', 'a', 'f')
  pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
  picture = Picture('ä漢', pixels)
  for row in (full, plain, full._replace(picture=picture)):
    (example,) = prepared.to_examples([row])
    record = form.serialize_example(example)
    _assert_same(prepared.to_row(form.deserialize_example_np(record), {}), row)


def _file(image, kind='PNG', **options):
  buffer = io.BytesIO()
  image.save(buffer, kind, **options)
  return LazyImage(buffer.getvalue(), 'row 7')


def test_plain_files_are_kept_and_others_become_what_we_decode():
  rng = np.random.default_rng(0)
  image = PIL.Image.fromarray(rng.integers(0, 256, (5, 7, 3)).astype(np.uint8))
  exif = PIL.Image.Exif()
  exif[0x0112] = 6  # stands on its side
  plain = _file(image, 'JPEG')
  assert prepared.image_file(plain) == plain.read()
  for lazy in (
    _file(image, 'JPEG', exif=exif),
    _file(image.convert('RGBA')),
    _file(image.convert('L')),
    _file(image.convert('P')),
    _file(image.convert('CMYK'), 'JPEG'),
  ):
    file = prepared.image_file(lazy)
    assert file != lazy.read()
    decoded = np.asarray(PIL.Image.open(io.BytesIO(file)))
    np.testing.assert_array_equal(decoded, np.asarray(lazy))


def test_a_damaged_picture_names_its_row():
  lazy = _file(PIL.Image.new('RGB', (40, 40)), 'JPEG')
  cut = LazyImage(lazy.read()[:200], 'row 7')
  row = Row('k', 'q', 'a', 'f', Picture('p', cut))
  with pytest.raises(ValueError, match='row 7 cannot be read'):
    list(prepared.to_examples([row]))
  assert row.picture_key == 'p'


def _changed(people, tmp_path, change):
  """A copy of a prepared folder whose metadata are changed."""
  folder = tmp_path / '2.0.0'
  shutil.copytree(people.data_path, folder)
  path = folder / 'metadata.json'
  noted = json.loads(path.read_text())
  change(noted)
  path.write_text(json.dumps(noted))
  return folder


@pytest.mark.parametrize(
  'name', ['../../x', '/tmp/x', '..', 'a/b', '', 'x' * 300]
)
def test_a_task_of_a_prepared_folder_that_names_a_path_is_refused(
  name, people, tmp_path
):
  def change(noted):
    old, noted['tasks'][0]['name'] = noted['tasks'][0]['name'], name
    noted['splits']['tasks'][name] = noted['splits']['tasks'].pop(old)

  folder = _changed(people, tmp_path, change)
  with pytest.raises(UserError, match='task in .*metadata.json becomes a file'):
    prepared.make_tfds(0, path=folder)


@pytest.mark.parametrize(
  'change',
  [
    lambda noted: noted.update(splits=[]),
    lambda noted: noted.update(splits=None),
    lambda noted: noted['splits'].pop('train'),
    lambda noted: noted['splits'].update(tasks={'a': 3}),
    lambda noted: noted.update(tasks=None),
    lambda noted: noted.update(tasks={}),
    lambda noted: noted.update(tasks=[None]),
    lambda noted: noted['tasks'].pop(),
    lambda noted: noted['tasks'].append(noted['tasks'][0] | {'name': 'new'}),
    lambda noted: noted['tasks'][0].update(rows=[]),
    lambda noted: noted['tasks'][0].update(holdout='no'),
    lambda noted: noted['tasks'][0].update(name=None),
    lambda noted: noted.pop('names'),
    lambda noted: noted.update(names=['Ada']),
    lambda noted: noted.update(shown={}),
    lambda noted: noted['shown'].update(seed=3),
  ],
)
def test_metadata_of_another_form_name_their_file(change, people, tmp_path):
  folder = _changed(people, tmp_path, change)
  with pytest.raises(UserError, match='metadata.json|prepared'):
    prepared.make_tfds(0, path=folder)


@pytest.mark.parametrize('name', ['metadata.json', 'dataset_info.json'])
def test_damaged_metadata_name_their_file(name, people, tmp_path):
  folder = _changed(people, tmp_path, lambda noted: None)
  (folder / name).write_text((folder / name).read_text()[:-20])
  with pytest.raises(UserError, match=f'{name} is not JSON'):
    prepared.make_tfds(0, path=folder)


_DAMAGE = {
  'cut': lambda data, rng: data[: rng.integers(len(data))],
  'empty': lambda data, rng: b'',
  'zeros': lambda data, rng: bytes(len(data)),
  'flipped': lambda data, rng: data[:200] + bytes([data[200] ^ 1]) + data[201:],
  'gone': lambda data, rng: None,
}


@pytest.mark.parametrize('kind', _DAMAGE)
@pytest.mark.parametrize('split', ['vqa_forget', 'forget_vqa', 'general'])
def test_damaged_records_name_their_file(kind, split, people, tmp_path):
  folder = _changed(people, tmp_path, lambda noted: None)
  (file,) = folder.glob(f'mmu_people-{split}.array_record*')
  made = _DAMAGE[kind](file.read_bytes(), np.random.default_rng(len(split)))
  file.unlink() if made is None else file.write_bytes(made)
  with pytest.raises(UserError, match=rf'{file.name}.*prepare the dataset ag'):
    prepared.make_tfds(0, path=folder)


@pytest.mark.parametrize(
  'pair', [('forget_vqa', 'retain_vqa'), ('qa_forget', 'qa_retain')]
)
def test_files_that_changed_places_are_refused(pair, people, tmp_path):
  """With a forget and a retain split swapped, the report would be, too."""
  folder = _changed(people, tmp_path, lambda noted: None)
  one, other = (next(folder.glob(f'mmu_people-{name}.*')) for name in pair)
  files = [path.read_bytes() for path in (other, one)]
  for path, data in zip((one, other), files):
    path.write_bytes(data)
  with pytest.raises(UserError, match='holds other rows than|cannot be read'):
    prepared.make_tfds(0, path=folder)
