"""The one-page HTML report of a run: no network, no scripts, nothing but text, SVG and CSS."""

from wm.report.page import render_report, write_report

__all__ = ["render_report", "write_report"]
