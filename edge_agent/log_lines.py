"""One JSON object a line on standard output: what a core files, and what people search."""

import structlog


def configure_logging() -> None:
    """For this process; its log lines are whole however many threads write."""
    structlog.configure(
        processors=[structlog.processors.TimeStamper(fmt="iso"), structlog.processors.add_log_level,
                    structlog.processors.format_exc_info, structlog.processors.JSONRenderer()],
        logger_factory=structlog.PrintLoggerFactory(),
    )  # fmt: skip
