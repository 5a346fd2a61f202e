"""Self-contained HTML pages with figures: opening one needs no network."""

from s15erav3.pages.page import Chart, Choice, Html, Section, details, table, write_page

__all__ = ["Chart", "Choice", "Html", "Section", "details", "table", "write_page"]
