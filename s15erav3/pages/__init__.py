"""Self-contained HTML pages around figures: nothing is fetched when one is opened."""

from s15erav3.pages.page import Chart, Choice, Html, Section, details, table, write_page

__all__ = ["Chart", "Choice", "Html", "Section", "details", "table", "write_page"]
