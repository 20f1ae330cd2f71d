"""The search, and what is built on it.

If Python says that `tune` is not a package, or finds no `tune.search`, something else has the name: a file tune.py in
the current folder (start from another folder, or with `python -P -m tune.search`), or another installed distribution
named tune (`pip uninstall tune`).
"""
