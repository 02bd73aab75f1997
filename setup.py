"""Puts configs/ inside the package, so that a wheel has them; see pyproject."""

import setuptools

setuptools.setup(
  packages=[*setuptools.find_packages(include=['mmu_jax*']), 'mmu_jax.configs'],
  package_dir={'mmu_jax.configs': 'configs'},
)
