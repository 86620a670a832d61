"""`python -m launch` is the `extes` command."""

import sys

from launch.main import main

sys.exit(main())
