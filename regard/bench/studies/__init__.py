"""Published claims, measured small: `python -m regard.bench.studies` measures them and keeps the figures."""

from regard.bench.studies.study import Row as Row
from regard.bench.studies.study import Study as Study
from regard.bench.studies.walk import kept as kept
from regard.bench.studies.walk import studies as studies
