"""`python -m ddit_ext.cli`: the `ddit` command where it is not on the path."""

from . import main

raise SystemExit(main())
