"""``python -m vrameter``."""

from vrameter.cli import main

raise SystemExit(main())
