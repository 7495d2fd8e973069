"""The report: one page that shows what a run did, drawn from the run itself."""

from marblemaker.report.data import ReportData, gather
from marblemaker.report.page import page
from marblemaker.report.panels import panels
from marblemaker.report.pictures import PicturesError, pictures
from marblemaker.report.write import write_report

__all__ = [
    "PicturesError",
    "ReportData",
    "gather",
    "page",
    "panels",
    "pictures",
    "write_report",
]
