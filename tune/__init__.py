"""The search, and what is built on it.

If Python says that `tune` is not a package, or finds no `tune.search`, something else has the name: a file tune.py in
the current folder (call `maskcls search`, which does not look there, or `python -P -m tune.search`), or another
installed distribution named tune (`pip uninstall tune`).
"""
