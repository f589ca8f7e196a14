"""One self-contained HTML page from a recorded run."""

from thermolearn.report.page import check_path, render, write_report
from thermolearn.report.reader import read_rows

__all__ = ["check_path", "read_rows", "render", "write_report"]
