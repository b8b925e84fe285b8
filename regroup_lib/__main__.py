"""``python -m regroup_lib`` is the `regroup` command."""

from regroup_lib.cli import main

main()
