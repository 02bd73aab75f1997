"""The families of models, one file each; ``models.model`` lists them."""
