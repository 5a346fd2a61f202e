"""Self-contained HTML pages around figures: nothing is fetched when one is opened."""

from s15erav3.pages.page import Chart, Html, Section, table, write_page

__all__ = ["Chart", "Html", "Section", "table", "write_page"]
