"""What shows the result of a comparison: a table and a verdict for the terminal, charts, and a page.

Everything here is a function of the `compare.json` object alone and measures nothing.
"""

from regard.bench.report.charts import charts as charts
from regard.bench.report.charts import save_png as save_png
from regard.bench.report.page import page as page
from regard.bench.report.page import write_json as write_json
from regard.bench.report.page import write_report as write_report
from regard.bench.report.table import table as table
from regard.bench.report.verdict import verdict as verdict
