"""The training report: one HTML file for people that needs nothing else."""

from linewatch.training.report.write import write_report

__all__ = ["write_report"]
