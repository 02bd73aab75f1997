"""Every field that a user can set: type, range, and meaning, in one place.

``rules`` checks values by a table, ``table`` has the fields of a config,
``sizes`` the fields of a model, which a ``config.json`` has too.
"""
