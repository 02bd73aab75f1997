"""Everything that is wrong with a dataset on disk: ``mmu data check``."""
